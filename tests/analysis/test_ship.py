import json
import shutil

import pytest
import torch
import yaml

from r1lab.analysis.run import load_run
from r1lab.analysis.ship import relative_paths, ship_run
from r1lab.module.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def shipped(tiny_run, tmp_path_factory):
    return ship_run(tiny_run, tmp_path_factory.mktemp("shipped") / "run")


def test_holds_the_run_and_its_policy(shipped, tiny_run):
    files = {path.relative_to(shipped).as_posix() for path in shipped.rglob("*") if path.is_file()}
    copied = {"summary.json", "metrics.csv", "samples.jsonl", "curves.png"}
    assert files == {*copied, "config.yaml", "checkpoints/last.ckpt"}
    assert all((shipped / name).read_bytes() == (tiny_run / name).read_bytes() for name in copied)
    policy, _, config = load_checkpoint(shipped / "checkpoints/last.ckpt")
    expected = load_checkpoint(tiny_run / "checkpoints/last.ckpt")[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in policy.state_dict().items())
    run = load_run(shipped)
    assert run.config == config and len(run.metrics) == 2
    assert run.config["rollout"] == load_run(tiny_run).config["rollout"]


def test_holds_no_path_of_the_machine(shipped, tiny_run):
    callback = yaml.safe_load((shipped / "config.yaml").read_text())["callback"]
    assert callback["metrics"]["path"] == "metrics.csv" and callback["checkpoint"]["dirpath"] == "checkpoints"
    policy, _, config = load_checkpoint(shipped / "checkpoints/last.ckpt")
    assert policy.config._name_or_path == config["model"]["name"]
    # The archive of a checkpoint is not compressed: its strings would show.
    place = str(tiny_run.parent).encode()
    assert place in (tiny_run / "config.yaml").read_bytes()
    assert place in (tiny_run / "checkpoints/last.ckpt").read_bytes()
    assert [path for path in shipped.rglob("*.*") if path.is_file() and place in path.read_bytes()] == []


def test_a_run_that_was_moved(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "moved")
    out = ship_run(tmp_path / "moved", tmp_path / "out")
    assert load_run(out).config["callback"]["samples"]["path"] == "samples.jsonl"


def test_an_unfinished_run_is_refused(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"status": "running"}))
    with pytest.raises(ValueError, match="is no finished run"):
        ship_run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_relative_paths(tmp_path):
    config = {"a": [f"{tmp_path}/x/y.csv", 1, None], "b": {"name": "org/model", "text": "a / b", "home": str(tmp_path)}}
    expected = {"a": ["x/y.csv", 1, None], "b": {"name": "org/model", "text": "a / b", "home": "."}}
    assert relative_paths(config, tmp_path) == expected
    with pytest.raises(ValueError, match=r"^model\.names\.1=/elsewhere/model is a path outside the run folder"):
        relative_paths({"model": {"names": ["tiny", "/elsewhere/model"]}}, tmp_path)
