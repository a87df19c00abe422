import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

import r1lab.train as train_module
from r1lab.entry import CONF, Stopped, refuse_wrong_types
from r1lab.module.checkpoint import CheckpointError
from r1lab.module.grpo import GRPO
from r1lab.run_folder import read_summary, write_summary
from r1lab.train import refuse_missing_devices, refuse_other_ranks, refuse_other_settings, refuse_ranks


def test_killed_behind_the_last_step_it_still_knows_its_objective(tiny_run, train_small, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    path = folder / "summary.json"
    finished = json.loads(path.read_text())
    left = {key: value for key, value in finished.items() if key not in ("after", "objective")}
    path.write_text(json.dumps(left | {"status": "failed", "error": "RuntimeError: a rank was lost"}))

    objectives = "objective=[validation/completion_length,heldout/completion_length]"
    train_small(folder, "ckpt_path=last", objectives, "callback.samples.shown=0")
    summary = json.loads(path.read_text())
    assert summary["status"] == "finished" and summary["steps"] == 2 and "error" not in summary
    # Measured in the step before the kill, and in no step since.
    last = (folder / "metrics.csv").read_text().splitlines()
    column = last[0].split(",").index("validation/completion_length")
    heldout = summary["after"]["heldout"]["completion_length"]
    assert summary["objective"] == pytest.approx([float(last[-1].split(",")[column]), heldout])
    assert (summary["before"], summary["after"]) == (finished["before"], finished["after"])


def test_a_run_goes_on_with_its_own_settings_alone(tiny_run, train_small, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    with pytest.raises(ValueError, match="other settings .loss.beta was 0.001, not 0.5"):
        train_small(folder, "ckpt_path=last", "loss.beta=0.5", "callback.samples.shown=0")


def test_how_a_run_computes_may_change_and_be_new(tiny_run, tmp_path):
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    assert config["rollout"]["engine"].pop("fused_norms") is True
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    config["rollout"]["engine"]["fused_norms"] = False
    config["model"]["attention"] = "eager"
    refuse_other_settings(tmp_path, config)
    config["rollout"]["engine"]["other"] = 1
    with pytest.raises(ValueError, match="other settings .rollout.engine.other was not there"):
        refuse_other_settings(tmp_path, config)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(train_small, tmp_path):
    write_summary(tmp_path, {"status": "running"})
    train_small(tmp_path, "ckpt_path=last", "evaluate=false", "callback.samples.shown=0")
    assert read_summary(tmp_path)["status"] == "finished"


def test_a_checkpoint_of_another_place_that_cannot_be_read(train_small, tmp_path):
    (tmp_path / "bad.ckpt").write_text("x")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/bad.ckpt is damaged, or no checkpoint"):
        train_small(tmp_path / "run", f"ckpt_path={tmp_path}/bad.ckpt", "evaluate=false")
    assert read_summary(tmp_path / "run")["status"] == "failed"


def test_several_objectives_are_returned_in_order(tmp_path, train_small):
    names = ["validation/completion_length", "validation/pass_at_1", "validation/nothing"]
    train_small(tmp_path, "trainer.max_steps=1", "trainer.val_check_interval=1", f"objective=[{','.join(names)}]",
                "callback.samples.shown=0", "evaluate=false")  # fmt: skip
    assert read_summary(tmp_path)["objective"] == [8.0, 0.0, None]


CACHED = ("trainer.max_steps=1", "trainer.val_check_interval=1", "callback.samples.shown=0", "show=false")


@pytest.mark.slow
def test_the_scores_before_are_kept_for_each_base(tmp_path, train_small, monkeypatch):
    """For the same base, task, evaluation and engine; what RL varies does not matter."""
    scored, score = [], train_module.score
    monkeypatch.setattr(train_module, "score", lambda *args: scored.append(args[0]["seed"]) or score(*args))
    cache = f"evaluation.cache={tmp_path / 'before'}"

    def before(name, *overrides):
        scored.clear()
        train_small(tmp_path / name, *CACHED, cache, "model.policy.seed=1", *overrides)
        return read_summary(tmp_path / name)["before"], len(scored) - 1  # less the scores after

    first, count = before("first")
    assert count == 1
    assert before("second", "loss.beta=0.5", "seed=2", "rollout.group_size=2") == (first, 0)
    assert before("another base", "model.policy.seed=3")[1] == 1
    assert before("another evaluation", "evaluation.num_prompts=2")[1] == 1
    assert before("again") == (first, 0)
    assert len(list((tmp_path / "before").iterdir())) == 3  # and no temporary file


def test_ctrl_c_where_no_checkpoint_is_kept(tmp_path, train_small, monkeypatch):
    """As in a sweep. Lightning would end the process without a word, and leave SIGINT ignored."""
    update = GRPO.update

    def pressed(module, rows):
        os.kill(os.getpid(), signal.SIGINT)
        update(module, rows)

    monkeypatch.setattr(GRPO, "update", pressed)
    with pytest.raises(Stopped, match="stopped; nothing was saved"):
        train_small(tmp_path, "evaluate=false", "~callback.checkpoint", "callback.samples.shown=0")
    assert read_summary(tmp_path)["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    "given, kind",
    [
        ("loss.beta=abc", "a number"),
        ("rollout.group_size=2.5", "a whole number"),
        ("seed=x", "a whole number"),
        ("evaluation.splits=heldout", "a list"),
        ("evaluate=3", "true or false"),
        ("reward.accuracy.weight=heavy", "a number"),
    ],
)
def test_a_value_of_another_type_is_told_by_its_key(given, kind, small, tmp_path):
    # Some settings are checked by their types alone, so this is a command of its own.
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*small, given], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with pytest.raises(ValueError, match=rf"{given.partition('=')[0]} must be {kind}"):
            refuse_wrong_types(config, "train")
        fitting = ("optimizer.lr=1", "trainer.val_check_interval=0.5", "reward.format.weight=[[0,1.0],[5,0.1]]")
        right = compose("train", [*small, *fitting], return_hydra_config=True)
        HydraConfig.instance().set_config(right)
        refuse_wrong_types(right, "train")


def test_ranks_that_torchrun_did_not_start_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    refuse_other_ranks({"devices": 1})  # another launcher's
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    refuse_other_ranks({"devices": 2, "num_nodes": 2})
    with pytest.raises(ValueError, match=r"started 4 ranks, .* set trainer.devices=2 trainer.num_nodes=2"):
        refuse_other_ranks({"devices": 1})


def test_gpus_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    refuse_missing_devices({"accelerator": "auto", "devices": 2})  # of a CPU
    with pytest.raises(ValueError, match="trainer.devices=0: give a number of ranks from 1 on, or auto"):
        refuse_missing_devices({"accelerator": "cpu", "devices": 0})
    with pytest.raises(ValueError, match="this machine has no GPU that torch sees: take cpu, or auto"):
        refuse_missing_devices({"accelerator": "gpu", "devices": 1})
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    refuse_missing_devices({"accelerator": "auto", "devices": 2})
    refuse_missing_devices({"accelerator": "cpu", "devices": 8})
    for accelerator in ("auto", "gpu"):
        with pytest.raises(ValueError, match="trainer.devices=4, and this machine has 2: ask for at most so many"):
            refuse_missing_devices({"accelerator": accelerator, "devices": 4})


def test_documents_that_ranks_cannot_share_are_told():
    module, data = SimpleNamespace(refuse_ranks=lambda ranks: None), SimpleNamespace(batch_size=6)
    refuse_ranks(module, data, 3)
    refuse_ranks(module, SimpleNamespace(), 4)
    with pytest.raises(ValueError, match="data.batch_size=6 does not divide among 4 ranks: data.batch_size=8 does"):
        refuse_ranks(module, data, 4)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_long_question_of_a_data_set_is_rejected_before_anything_is_sampled(split, mixed, train_small, tmp_path):
    questions = {"train": [f"{i} + 1" for i in range(60)], "validation": ["8 + 8"]}
    questions[split].append(" + ".join(["7"] * 300))
    files = questions_in(tmp_path, {name: [(text, 1) for text in texts] for name, texts in questions.items()})
    given = ["task=dataset", *(f"task.files.{file}" for file in files)]
    if mixed:
        given = ["task=mixed", "+task@task.parts.own=dataset", "task.sources={own: 1}"]
        given += [f"task.parts.own.files.{file}" for file in files]
    with pytest.raises(ValueError, match="prompt of 601 tokens and max_new_tokens=8 exceed the 512 positions"):
        train_small(tmp_path / "run", "evaluate=false", *given)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_an_answer_of_validation_that_no_checker_can_score_is_rejected(train_small, tmp_path):
    files = questions_in(tmp_path, {"train": [("1 + 1", 2)], "validation": [("8 + 8", 16), ("8 + 9", "x")]})
    given = ["task=dataset", "reward=[numeric,format]", *(f"task.files.{file}" for file in files)]
    with pytest.raises(ValueError, match="cannot score the prompts of validation: .*'x' is no"):
        train_small(tmp_path / "run", "evaluate=false", *given)


def questions_in(folder, splits):
    """SPLIT=FILE of each split's questions and answers."""
    for split, rows in splits.items():
        lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return [f"{split}={folder / split}.jsonl" for split in splits]
