"""The newest and the best checkpoint of a run: `last.ckpt` and `best.ckpt`.

Lightning's ModelCheckpoint with other moments of saving. Its own do not fit here: where a step is both a multiple of
`every_n_train_steps` and validated, it saves before the validation, takes the score of the validation before for the
new policy's, and then leaves the save after the validation out; and a run that resumes from such a file never makes
that validation up. Here a validated step is saved after its validation, and only then is there a new best.
"""

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from r1lab.callback.stop import CtrlC

log = logging.getLogger(__name__)


class Checkpoints(ModelCheckpoint):
    """Saves `last.ckpt` every so many steps, after each validation, at the end and at Ctrl-C; `best.ckpt` after a
    validation with a new best score.

    At Ctrl-C the step is finished (with its validation, where one is due), saved, and `stop.Interrupted` raised.

    Args:
        dirpath: the folder.
        monitor: the metric of the validation that says which is best.
        mode: max or min.
        every_n_train_steps: training steps between saves of the newest; 0: only after validations and at the end.
    """

    def __init__(self, dirpath: str | Path, *, monitor: str, mode: str, every_n_train_steps: int):
        super().__init__(
            dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_last=True,
            every_n_train_steps=every_n_train_steps,
            enable_version_counter=False,
        )
        if mode == "max" and str(monitor).endswith("loss"):
            log.warning(f"best.ckpt is where {monitor} is largest; callback.checkpoint.mode=min: where it is smallest")
        self.every = every_n_train_steps
        self.saved_step = 0
        self.ctrl_c = CtrlC()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        with warnings.catch_warnings():
            # The folder of a run that is resumed is not empty.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero:
            for abandoned in Path(self.dirpath).glob(".*.ckpt.*.tmp"):
                abandoned.unlink(missing_ok=True)
            for abandoned in Path(self.dirpath).glob(".*.ckpt.new"):
                shutil.rmtree(abandoned, ignore_errors=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved_step = pl_module.step
        if trainer.ckpt_path:
            self.ctrl_c.saved = pl_module.step, Path(trainer.ckpt_path)
        # Not earlier: Lightning notes all signals' handlers before, and puts those back when it ends.
        self.ctrl_c.install()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if _validation_follows(trainer):
            return
        pressed = self._pressed(trainer)
        if pressed or (self.every and pl_module.step % self.every == 0):
            self.save_last_checkpoint(trainer, pl_module)
        if pressed:
            self.ctrl_c.leave()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor and self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("validation/")))
            raise ValueError(f"monitor={self.monitor}: a validation of this run has {known}")
        if not trainer.fast_dev_run:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        self.save_last_checkpoint(trainer, pl_module)
        if self._pressed(trainer):
            self.ctrl_c.leave()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing: steps and validations decide."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.saved_step != pl_module.step:
            self.save_last_checkpoint(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.ctrl_c.restore()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.ctrl_c.restore()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A run folder that was moved or reached by another path is still the same: its best score holds."""
        best = Path(self.dirpath, f"best{self.FILE_EXTENSION}")
        if best.exists() and state_dict["best_model_path"]:
            score = state_dict["best_model_score"]
            state_dict = state_dict | {
                "dirpath": self.dirpath,
                "best_model_path": str(best),
                "kth_best_model_path": str(best),
                "best_k_models": {str(best): score},
                "last_model_path": "",
            }
        with warnings.catch_warnings():
            # A checkpoint of another run starts a new one, whose best is its own.
            warnings.filterwarnings("ignore", message="The dirpath has changed")
            super().load_state_dict(state_dict)

    def save_last_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `last.ckpt` now; only between steps."""
        if trainer.fast_dev_run:
            return
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self.saved_step = pl_module.step
        self.ctrl_c.saved = pl_module.step, Path(self.last_model_path)

    def _pressed(self, trainer: L.Trainer) -> bool:
        """Whether any rank had a Ctrl-C, so that all leave at the same step."""
        return trainer.strategy.reduce_boolean_decision(self.ctrl_c.pressed, all=False)


def _validation_follows(trainer: L.Trainer) -> bool:
    """Whether this step will be validated, by Lightning's own rule."""
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
