"""Two processes that share a batch do what one does, and go on from the middle of a rollout."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]

# A reward that differs within a group, by what is written alone; some completions are right and some wrong.
REWARD = """
def even(prompts, completions, **settings):
    return [float(sum(c.ids) % 2) for c in completions]

def seldom(prompts, completions, **settings):
    return [float(sum(c.ids) % 8 == 0) for c in completions]
"""
OVERRIDES = (
    "trainer.accelerator=cpu",
    "reward.accuracy._target_=rewards.even",
    "evaluate=false",
    "callback.samples.shown=0",
    "optimizer.lr=0.003",
    "loss.beta=0.1",
)


@pytest.fixture(scope="module")
def train(small, tmp_path_factory):
    """train(folder, *overrides): the metrics of a run in processes of its own."""
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "rewards.py").write_text(REWARD)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}

    def run(where: Path, *overrides: str) -> pd.DataFrame:
        command = [sys.executable, "-m", "r1lab.train", *small, *OVERRIDES, *overrides, f"hydra.run.dir={where}"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return pd.read_csv(where / "metrics.csv").drop(columns="step")

    return run


def test_two_ranks_equal_one(train, tmp_path):
    one = train(tmp_path / "one")
    two = train(tmp_path / "two", "trainer.devices=2")
    assert set(one) == set(two)
    assert 0 < one["reward/accuracy"].iloc[0] < 1
    # Padding is computed and counted, and how rows are packed depends on which of them a rank has.
    for name in (name for name in one if "seconds" not in name and not name.startswith("flops/")):
        # Sums in another order; the gradient's norm is about 1.
        assert two[name].tolist() == pytest.approx(one[name].tolist(), rel=1e-4, abs=1e-5, nan_ok=True), name


def test_two_ranks_sample_dynamically_as_one_does(train, tmp_path):
    options = (
        "rollout.batch_size=16",
        "rollout.max_resamples=4",
        "data.curriculum.highest=0.1",
        "reward.accuracy._target_=rewards.seldom",
    )
    one = train(tmp_path / "one", *options)
    two = train(tmp_path / "two", *options, "trainer.devices=2")
    assert (one["rollout/prompts"] > 4).all()
    for name in (name for name in one if name.startswith("rollout/") or name == "reward/accuracy"):
        assert two[name].tolist() == pytest.approx(one[name].tolist(), rel=1e-4, nan_ok=True), name


def test_a_rank_with_nothing_that_counts_takes_part(train, tmp_path):
    # Most completions of an untrained policy are cut off at two tokens: all of some rank's.
    options = ("module.mask_truncated=true", "rollout.max_new_tokens=2", "trainer.max_steps=3", "rollout.batch_size=8")
    one = train(tmp_path / "one", *options)
    two = train(tmp_path / "two", *options, "trainer.devices=2")
    assert (one["rollout/truncated"] > 0.9).all()
    for name in ("loss/total", "loss/policy_loss", "optimizer/gradient_norm"):
        assert two[name].tolist() == pytest.approx(one[name].tolist(), rel=1e-4, abs=1e-5), name


def test_two_ranks_go_on_in_the_middle_of_a_rollout(train, tmp_path):
    options = (
        "trainer.devices=2",
        "trainer.val_check_interval=4",
        "module.num_minibatches=2",
        "callback.checkpoint.every_n_train_steps=1",
        "optimizer.scheduler.num_training_steps=4",
    )
    whole = train(tmp_path / "whole", *options, "trainer.max_steps=4")
    train(tmp_path / "halted", *options, "trainer.max_steps=3")
    resumed = train(tmp_path / "halted", *options, "trainer.max_steps=4", "ckpt_path=last")
    for name in (name for name in whole if "seconds" not in name):
        assert resumed[name].tolist() == pytest.approx(whole[name].tolist(), rel=1e-6, nan_ok=True), name
