import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from r1lab import entry
from r1lab.entry import CONF, describe, plain, refuse_two_checkers
from tests.sweeper.fake import command_line

ROOT = Path(__file__).parents[1]


def error_of(*overrides, name="train"):
    """The error of composing a run with these overrides."""
    with pytest.raises(Exception) as raised, initialize_config_dir(str(CONF), version_base="1.3"):
        plain(compose(name, list(overrides)))
    return raised.value


@pytest.mark.parametrize(
    "override, line",
    [
        ("experiment=r1zer0", "there is no experiment=r1zer0; did you mean r1zero?"),
        ("preset=drgrpo", "there is no preset=drgrpo; did you mean dr_grpo"),
        ("loss.bta=0.1", "there is no setting loss.bta; did you mean loss.beta"),
        ("rollout.groupsize=4", "there is no setting rollout.groupsize; did you mean rollout.group_size"),
        ("beta=0.1", "there is no setting beta; did you mean loss.beta"),  # in the wrong place
        ("sed=2", "there is no setting sed; did you mean seed"),
    ],
)
def test_unknown_names_with_the_nearest(override, line):
    text = describe(error_of(override), "train")
    assert text.startswith(line)
    assert "\n" not in text


def test_a_setting_of_another_choice():
    text = describe(error_of("rollout=generate", "rollout.engine.fused_norms=false"), "train")
    assert text == "rollout.engine.fused_norms is a setting of the default rollout, and not of the one that was chosen"


@pytest.mark.parametrize("choices", ["math,format,accuracy", "math, numeric", "format,isolated,exact"])
def test_one_choice_of_the_accuracy(choices):
    with pytest.raises(ValueError, match=" and .* are each the accuracy; take one of them"):
        refuse_two_checkers(["seed=2", f"reward=[{choices}]"])


def test_choices_that_go_together():
    refuse_two_checkers(["reward=[accuracy,cosine,format]", "reward=[math,code,my_own,preference]"])
    for file in CONF.rglob("*.yaml"):
        for choices in re.findall(r"^ +- override /reward: (\[.*?\])", file.read_text(), re.MULTILINE):
            refuse_two_checkers([f"reward={choices}"])


@pytest.mark.parametrize("override", ["task=arithmetic", "rollout.group_size=8"])
def test_the_pipeline_says_where_the_settings_of_its_stages_go(override):
    text = describe(error_of(override, name="pipeline"), "pipeline")
    key = override.partition("=")[0]
    assert text.startswith(f"{key} is a setting of the stages: give \"overrides=['{key}=...']\"")
    assert describe(error_of("seed=2", name="pipeline"), "pipeline").startswith("there is no setting seed")


def test_quotes_that_a_shell_took_away():
    text = describe(error_of("overrides=[rollout.group_size=8]", name="pipeline"), "pipeline")
    assert text.startswith("overrides=[rollout.group_size=8] cannot be read") and "quotes" in text


def test_a_name_like_no_other_lists_what_there_is():
    text = describe(error_of("experiment=zzzz"), "train")
    assert text.startswith("there is no experiment=zzzz; there are: ") and "r1zero" in text


def test_a_value_that_must_be_given():
    text = describe(error_of("model=hf"), "train")
    assert text.startswith("model.name must be given") and "\n" not in text


def test_an_error_inside_a_constructor_is_told_as_itself():
    with pytest.raises(Exception) as raised:
        instantiate({"_target_": "r1lab.rollout.sampling.Sampling", "temperature": -1.0, "max_new_tokens": 1})
    assert describe(raised.value, "train").startswith("rollout.temperature must be 0 (greedy) or from 0.001 to 1000")


def test_an_error_of_a_file_says_which():
    text = "/x/y cannot be read or written (permission denied): give another place"
    assert describe(PermissionError(13, "Permission denied", "/x/y"), "train") == text


def test_an_interpolation_of_no_setting():
    with pytest.raises(Exception) as raised:
        plain(OmegaConf.create({"output": "${nope}/x"}))
    assert describe(raised.value, "evaluate").startswith(
        "output refers to a setting that is not there (Interpolation key"
    )


def test_errors_of_no_text_keep_their_kind():
    assert describe(ValueError(), "train") == "ValueError: "
    assert describe(KeyError("x"), "train") == "KeyError: 'x'"
    assert describe(ValueError("two\n  lines"), "train") == "two lines"


@pytest.mark.slow
def test_the_command_ends_with_one_line(tmp_path):
    command = [sys.executable, "-m", "r1lab.evaluate", "checkpoint=nowhere.ckpt"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no checkpoint at nowhere.ckpt")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "told"),
    [("Connection closed by peer [127.0.0.1]", ""), ("no such group", "error: no such group")],
)
def test_a_rank_that_is_done_ends_as_such_though_another_is_lost(said, told, monkeypatch, tmp_path, capsys):
    def ended():
        raise RuntimeError(said)

    monkeypatch.setattr("r1lab.train.train", lambda config: None)
    monkeypatch.setattr(entry, "_joined", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", ended)
    with pytest.raises(SystemExit) if told else nullcontext():
        command_line(monkeypatch, f"hydra.run.dir={tmp_path}")
    assert capsys.readouterr().err.partition("\n  in ")[0] == told


@pytest.mark.parametrize("asked", [None, "0", "1"])
def test_what_a_run_starts_is_told_how_the_user_wants_errors(asked, monkeypatch, tmp_path):
    """Hydra's variable is set for Hydra alone: Lightning's ranks inherit what there is as they start."""
    seen = []
    monkeypatch.setattr("r1lab.train.train", lambda config: seen.append(os.environ.get("HYDRA_FULL_ERROR")))
    command_line(monkeypatch, f"hydra.run.dir={tmp_path}", asked=asked)
    assert seen == [asked]


@pytest.mark.parametrize(
    ("rank", "joined", "waits"), [("0", False, 0), ("1", False, 1), ("1", True, 0), (None, False, 0)]
)
def test_of_ranks_that_refuse_alike_the_first_tells_it(rank, joined, waits, monkeypatch, tmp_path, capsys):
    """What starts them ends the others while they wait; one that is left, or is joined to others, tells its own."""
    told_by_then = []
    monkeypatch.setattr(entry.time, "sleep", lambda seconds: told_by_then.append(capsys.readouterr().err))
    of_torchrun = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_RANK": rank} if rank else {}
    for name, value in of_torchrun.items():
        monkeypatch.setenv(name, value)

    def refuse(config):
        if joined:
            torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        raise ValueError("seed must be another")

    monkeypatch.setattr("r1lab.train.train", refuse)
    with pytest.raises(SystemExit) as ended:
        command_line(monkeypatch, f"hydra.run.dir={tmp_path}")
    assert ended.value.code == 1 and capsys.readouterr().err == "error: seed must be another\n"
    assert told_by_then == [""] * waits
    assert not torch.distributed.is_initialized()


def test_a_run_that_is_refused_leaves_no_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        command_line(monkeypatch, "loss.beta=abc")
    assert capsys.readouterr().err == "error: loss.beta must be a number, got 'abc'\n"
    assert list(tmp_path.iterdir()) == []


def test_what_hydra_cannot_find_is_told_by_its_error_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        command_line(monkeypatch, "+reward.brief={_target_: nosuch.brief, weight: 1}")
    told = capsys.readouterr()
    assert told.err.startswith("error: reward.brief._target_=nosuch.brief cannot be loaded")
    assert (told.out + told.err).count("No module named 'nosuch'") == 1
