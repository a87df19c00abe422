import json
import logging

import pytest

from r1lab.evaluate import evaluate
from r1lab.module import evaluation


@pytest.fixture
def run_evaluate(command, tmp_path):
    def run(*overrides):
        evaluate(command("evaluate", f"output={tmp_path}/out.json", *overrides))
        return json.loads((tmp_path / "out.json").read_text())

    return run


def test_scores_are_those_of_the_runs_own_end(run_evaluate, tiny_run):
    record = run_evaluate(f"checkpoint={tiny_run}")
    after = json.loads((tiny_run / "summary.json").read_text())["after"]
    assert record["scores"] == after
    assert list(after) == ["heldout", "harder"] and after["heldout"]["completion_length"] > 0
    assert record["checkpoint"] == str(tiny_run / "checkpoints/last.ckpt")
    assert (record["experiment"], record["task"]) == ("train", "arithmetic")
    assert record["evaluation"]["num_prompts"] == 4 and record["evaluation"]["max_new_tokens"] == 8
    assert len(record["policy_sha256"]) == 64 and record["versions"]["torch"]


def test_given_settings_take_the_place_of_the_runs(run_evaluate, tiny_run):
    given = ["splits=[validation]", "num_prompts=3", "num_samples=2", "temperature=0.5", "max_new_tokens=5", "seed=7"]
    record = run_evaluate(f"checkpoint={tiny_run}/checkpoints/best.ckpt", *given)
    assert list(record["scores"]) == ["validation"]
    assert record["scores"]["validation"]["num_prompts"] == 3
    assert record["scores"]["validation"]["completion_length"] <= 5
    assert record["evaluation"] | {"temperature": 0.5, "num_samples": 2, "seed": 7} == record["evaluation"]


def test_samples_are_raised_to_the_largest_k_whatever_is_sampled_at_a_time(run_evaluate, tiny_run, caplog, monkeypatch):
    given = [f"checkpoint={tiny_run}", "splits=[heldout]", "ks=[1,2,4]"]
    with caplog.at_level(logging.INFO, "r1lab"):
        record = run_evaluate(*given)
    assert "num_samples=1 is raised to 4, for pass@4" in caplog.text
    assert record["evaluation"]["num_samples"] == 4
    assert {"pass_at_1", "pass_at_2", "pass_at_4", "cons_at_2", "cons_at_4_high"} <= set(record["scores"]["heldout"])
    monkeypatch.setattr(evaluation, "AT_A_TIME", 5)
    assert run_evaluate(*given)["scores"] == record["scores"]
    caplog.clear()
    run_evaluate(*given, "num_samples=5")
    assert "raised" not in caplog.text


def test_written_into_the_run_folder_and_shown(command, tiny_run, capsys):
    path = tiny_run / "evaluation.json"
    evaluate(command("evaluate", f"checkpoint={tiny_run}/checkpoints/last.ckpt", "num_prompts=2"))
    assert json.loads(path.read_text())["scores"]["harder"]["num_prompts"] == 2
    path.unlink()
    shown = capsys.readouterr().out
    assert "heldout" in shown and "pass_at_1" in shown and f"written to {path}" in shown


def test_an_unknown_split_is_told_before_anything_is_sampled(command, tiny_run, monkeypatch):
    monkeypatch.setattr(evaluation, "sample", None)
    with pytest.raises(ValueError, match="unknown split 'test'"):
        evaluate(command("evaluate", f"checkpoint={tiny_run}", "splits=[heldout,test]"))


def test_other_scores_are_not_overwritten_and_a_place_is_tried_before_sampling(
    run_evaluate, tiny_run, tmp_path, command
):
    file, options = (
        tmp_path / "scores.json",
        [f"checkpoint={tiny_run}", "num_prompts=2", f"output={tmp_path}/scores.json"],
    )
    for more in ([], [], ["num_prompts=3"]):
        evaluate(command("evaluate", *options, *more))
    assert json.loads(file.read_text())["evaluation"]["num_prompts"] == 2
    assert json.loads((tmp_path / "scores-2.json").read_text())["evaluation"]["num_prompts"] == 3
    assert not (tmp_path / "scores-3.json").exists()
    with pytest.raises(ValueError, match="output=.* is a folder"):
        evaluate(command("evaluate", f"checkpoint={tiny_run}", f"output={tmp_path}"))
