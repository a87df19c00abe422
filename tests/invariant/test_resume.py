"""A run that is stopped or killed while its rollout is half used, and then resumed, is the run that was not."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from r1lab.module.grpo import GRPO

ROOT = Path(__file__).parents[2]

# Six steps on three rollouts of two minibatches, a validation after the fourth. A new reference after the third, which
# is then neither the policy that starts nor the one that is resumed.
OVERRIDES = (
    "name=resumed",
    "reference=refresh",
    "reference.refresh_every=3",
    "module.num_minibatches=2",
    "trainer.max_steps=6",
    "trainer.val_check_interval=4",
    "loss.beta=0.5",
    "loss.kl_target=0.01",
    "loss.entropy_coef=0.01",
    "optimizer.lr=0.003",
    "+reward.variety={_target_: rewards.variety, weight: 1.0}",
    "callback.checkpoint.every_n_train_steps=1",
    "callback.samples.every=1",
    "callback.samples.shown=0",
    "evaluate=false",
)
# What differs for PPO, whose value model and values must come back too. Its rollouts are of single completions.
ALGORITHMS = {
    "grpo": (),
    "ppo": (
        "experiment=ppo",
        "rollout.group_size=1",
        "module.value_lr=0.01",
        "loss.value_clip=0.05",
    ),
    # What a rollout takes from the stream of prompts follows from the rollouts before.
    "dynamic": (
        "rollout.max_resamples=2",
        "data.curriculum.highest=0.2",
        "data.curriculum.decay=0.5",
        "reward.accuracy._target_=rewards.seldom",
    ),
}
# Accuracy and format are 0 for an untrained policy, and would teach it nothing.
REWARD = """
def variety(prompts, completions):
    return [len(set(c.ids)) / len(c.ids) + c.ids[0] % 5 for c in completions]

def seldom(prompts, completions, **settings):
    return [float(sum(c.ids) % 4 == 0) for c in completions]
"""

# The train command, which stands still in the update of its fourth step until it is killed.
CHILD = """
import os, pathlib, sys, time, torch
torch.set_num_threads(1)
from r1lab.module.grpo import GRPO
import r1lab.train
update = GRPO.update
def stand_still(self, rows):
    if self.step == 3:
        pathlib.Path("ready").touch()
        time.sleep(60)
    update(self, rows)
if "ckpt_path=last" not in sys.argv:
    GRPO.update = stand_still
r1lab.train.main()
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "rewards.py").write_text(REWARD)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("rewards", None)


@pytest.fixture(scope="module")
def wholes(rewards, train_small, tmp_path_factory):
    return {name: train_small(tmp_path_factory.mktemp("whole"), *own, *OVERRIDES) for name, own in ALGORITHMS.items()}


@pytest.fixture(scope="module")
def whole(wholes):
    return wholes["grpo"]


def read(folder):
    """All that a run leaves which does not tell the time or memory, which other blocks may hold after a resume."""
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    with open(folder / "metrics.csv") as file:
        measured = ("seconds", "memory/")
        rows = [{k: v for k, v in row.items() if not any(m in k for m in measured)} for row in csv.DictReader(file)]
    ours = {key: value for key, value in checkpoint["r1lab"].items() if key != "config"}
    return {
        "parameters": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "schedule": checkpoint["lr_schedulers"],
        "global_step": checkpoint["global_step"],
        "state": ours,
        "metrics": rows,
        "samples": (folder / "samples.jsonl").read_text(),
    }


def assert_same(first, second, where=""):
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{where}/{i}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_run_that_is_compared_with_learns_and_refreshes(wholes, algorithm):
    # Else the tests below would hold whatever a resume forgets.
    run = read(wholes[algorithm])
    policy, reference = (
        {k.removeprefix(p): v for k, v in run["parameters"].items() if k.startswith(p)}
        for p in ("policy.", "reference.")
    )
    assert all(torch.equal(policy[k], reference[k]) for k in policy)  # refreshed after step 6
    rows = run["metrics"]
    assert [row["step"] for row in rows] == list("123456")
    assert [float(row["loss/reference_refreshed"]) for row in rows] == [0, 0, 1, 0, 0, 1]
    # Some processors round products of other shapes otherwise.
    assert [float(row["loss/kl"]) > 1e-10 for row in rows] == [False, True, True, True, True, True]
    assert len({row["loss/beta"] for row in rows}) == 6
    assert all(float(row["optimizer/gradient_norm"]) > 0 for row in rows)
    assert rows[3]["validation/pass_at_1"] != ""


def test_the_dynamic_run_that_is_compared_with_resamples_and_passes_over_prompts(wholes):
    checkpoint = torch.load(wholes["dynamic"] / "checkpoints/last.ckpt", weights_only=True)
    stream = checkpoint["PromptData"]["stream"]
    sampled = [float(row["rollout/prompts"]) for row in read(wholes["dynamic"])["metrics"]][::2]
    assert stream["position"] > sum(sampled) > 3 * 2
    assert stream["rates"]


def test_the_values_that_are_compared_with_learn(wholes):
    run = read(wholes["ppo"])
    assert run["parameters"]["value_model.head.weight"].abs().max() > 0
    assert len(run["optimizer"][0]["param_groups"]) == 2
    trunks = (run["parameters"][f"{part}.embed_tokens.weight"] for part in ("policy.model", "value_model.body"))
    assert not torch.equal(*trunks)
    # Clipped in the second minibatch of a rollout, so its values before the update must come back.
    assert any(float(row["loss/value_clip_fraction"]) > 0 for row in run["metrics"][1::2])


# The rollout is half used, used up with a validation, half used.
@pytest.mark.parametrize(
    "algorithm, steps",
    [
        ("grpo", 3),
        ("grpo", 4),
        ("ppo", 3),
        ("dynamic", 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("grpo", 5), ("ppo", 4), ("dynamic", 4))),
    ],
)
def test_stopped_and_resumed(wholes, train_small, tmp_path, monkeypatch, algorithm, steps):
    overrides = (*ALGORITHMS[algorithm], *OVERRIDES)

    def fail(module, prompts, batch_idx, original=GRPO.training_step):
        if module.step == steps:
            raise RuntimeError("power cut")
        original(module, prompts, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(GRPO, "training_step", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            train_small(tmp_path, *overrides)
    state = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["r1lab"]
    assert state["step"] == steps
    assert (state["rollouts"] is not None) == (steps % 2 == 1)
    assert_same(read(wholes[algorithm]), read(train_small(tmp_path, *overrides, "ckpt_path=last")))


@pytest.mark.slow
def test_killed_and_resumed_by_the_same_command(whole, rewards, small, tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{rewards}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "child.py", *small, *OVERRIDES]
    options = {
        "cwd": tmp_path,
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    child = subprocess.Popen(command, **options)
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "ready").exists() and child.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        said = child.communicate()[0]
    assert (tmp_path / "ready").exists() and child.returncode == -signal.SIGKILL, said
    (folder,) = (tmp_path / "runs/resumed").iterdir()
    assert len(read(folder)["metrics"]) == 3
    done = subprocess.run([*command, "ckpt_path=last"], **options, timeout=120)
    assert done.returncode == 0, done.stdout
    assert [folder] == list((tmp_path / "runs/resumed").iterdir())
    assert_same(read(whole), read(folder))
