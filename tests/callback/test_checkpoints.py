import os
import signal
from types import SimpleNamespace

import pytest
import torch

from r1lab.callback.checkpoints import Checkpoints
from r1lab.callback.stop import CtrlC, Interrupted
from r1lab.module.checkpoint import AtomicCheckpointIO


def step_of(path):
    return torch.load(path, weights_only=True)["step"]


def test_last_is_the_newest_and_best_the_best(tmp_path, fit):
    module, trainer = fit(tmp_path)
    # scores .25, .75, .5 at steps 4, 8, 12
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 12
    assert step_of(tmp_path / "checkpoints/best.ckpt") == 8
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert trainer.checkpoint_callback.best_model_score == 0.75


def test_steps_at_which_the_newest_is_saved(tmp_path, fit):
    saved = []

    class Recording(AtomicCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            saved.append((path.split("/")[-1], checkpoint["step"]))
            super().save_checkpoint(checkpoint, path, storage_options)

    fit(tmp_path, plugins=[Recording()], steps=11)
    # every 3 steps, after the validations of 4 and 8, and at the end; 4 and 8 are new bests
    expected = [("last", 3), ("best", 4), ("last", 4), ("last", 6), ("best", 8), ("last", 8), ("last", 9), ("last", 11)]
    assert saved == [(f"{name}.ckpt", step) for name, step in expected]


@pytest.mark.parametrize(
    "moment, step",
    [
        ("step begins", 6),  # the rollout is half used, step 6 is saved
        ("step begins", 7),
        ("step ends", 8),  # trained, not validated, not saved
        ("validation", 8),
        ("validation ends", 8),
        ("checkpoint", 8),  # while the best, then the newest of step 8 are written
        ("checkpoint", 9),
        ("step ends", 9),  # saved, and Lightning has not yet handed the metrics to loggers
        ("step begins", 11),
        ("validation ends", 12),
    ],
)
def test_killed_at_any_moment_and_resumed_equals_uninterrupted(tmp_path, fit, snapshot, moment, step):
    whole, killed = tmp_path / "whole", []

    def kill(now):
        if now == step:
            killed.append(snapshot(whole, f"killed{len(killed)}"))

    module, trainer = fit(whole, events={moment: kill})
    assert killed
    for folder in killed:
        resumed, again = fit(folder, resume=True)
        assert resumed.step == 12
        assert torch.equal(resumed.weight, module.weight)
        for name in ("metrics.csv", "samples.jsonl"):
            assert (folder / name).read_text() == (whole / name).read_text(), name
        assert step_of(folder / "checkpoints/best.ckpt") == 8
        assert again.checkpoint_callback.best_model_score == 0.75
        assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_checkpoint_of_another_run_does_not_bring_its_best_score(tmp_path):
    other = Checkpoints(tmp_path / "other", monitor="a", mode="max", every_n_train_steps=1)
    other.best_model_path, other.best_model_score = str(tmp_path / "other/best.ckpt"), torch.tensor(0.9)
    new = Checkpoints(tmp_path / "new", monitor="a", mode="max", every_n_train_steps=1)
    new.load_state_dict(other.state_dict())
    assert new.best_model_score is None and new.best_k_models == {}


@pytest.mark.parametrize("step, saved", [(5, 5), (8, 8)])  # 8 is validated first
def test_ctrl_c_finishes_the_step_saves_and_gives_control_back(tmp_path, fit, step, saved):
    before = signal.getsignal(signal.SIGINT)

    def press(now):
        if now == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, events={"step begins": press})
    assert (stopped.value.step, stopped.value.checkpoint.name) == (saved, "last.ckpt")
    assert step_of(tmp_path / "checkpoints/last.ckpt") == saved
    assert signal.getsignal(signal.SIGINT) is before
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows[-1].startswith(f"{saved},") and ("0.75" in rows[-1]) == (step == 8)

    whole, _ = fit(tmp_path / "whole")
    resumed, _ = fit(tmp_path, resume=True)
    assert torch.equal(resumed.weight, whole.weight)
    assert (tmp_path / "metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()


def test_a_second_ctrl_c_stops_at_once(tmp_path, fit):
    def press(now):
        if now == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, events={"step begins": press})
    assert stopped.value.step == 4  # of the validation; step 5 is lost


def test_ctrl_c_before_anything_is_saved():
    ctrl_c = CtrlC()
    with pytest.raises(Interrupted, match="nothing is saved") as stopped:
        ctrl_c.leave()
    assert stopped.value.checkpoint is None


def test_a_monitor_that_no_validation_has_is_told(tmp_path):
    callback = Checkpoints(tmp_path, monitor="validation/nothing", mode="max", every_n_train_steps=1)
    state, metrics = SimpleNamespace(fn="fit"), {"validation/loss": 1.0, "loss/total": 2.0}
    trainer = SimpleNamespace(sanity_checking=False, state=state, fast_dev_run=False, callback_metrics=metrics)
    with pytest.raises(ValueError, match="monitor=validation/nothing: a validation of this run has validation/loss$"):
        callback.on_validation_end(trainer, None)
