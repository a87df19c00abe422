"""metrics.csv: one row a training step, training and validation side by side, unharmed by kill -9 and resume.

A callback and not a Lightning logger, for three reasons. Lightning hands a step's metrics to loggers after checkpoints
of that step are written, so that a process killed in between would resume past a row that never was; loggers count
steps by a number of the loop's own; and they do not hear of a resume, so that Lightning's CSVLogger deletes the file.
"""

import contextlib
import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from r1lab.callback.line_file import append_lines, complete_lines, replace_lines

VALIDATION = "validation/"


class MetricsCSV(L.Callback):
    """Writes what the module logs. `step` is the module's count of training steps done.

    A metric that is logged at some steps only (a rollout's, when it serves several updates) keeps its value until it is
    logged again; a metric of validation stands in the rows of its validations alone. A row is on disk before a
    checkpoint of its step, and otherwise when the next step is done. On resume, rows past the restored step go.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.columns: list[str] = []
        self.row: dict[str, float] = {}  # the newest step's
        self.written = True  # whether `row` is in the file as it is here
        self.row_in_file = False  # whether the file's last line is an earlier state of `row`
        self.latest: dict[str, float] = {}  # last value of each training metric

    # ---- what Lightning calls -------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.keep_until(pl_module.step)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        logged = trainer.logged_metrics
        others = {k: float(v) for k, v in logged.items() if not k.startswith(VALIDATION)}
        # A module may log `step` to tell Lightning's loggers; here it is the row's own.
        self.latest.update({k: v for k, v in others.items() if k != "step"})
        if trainer.is_global_zero:
            self.start_row(pl_module.step, self.latest)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logged = trainer.logged_metrics
        if trainer.is_global_zero and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.extend_row(pl_module.step, {k: float(v) for k, v in logged.items() if k.startswith(VALIDATION)})

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.write()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.write()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        with contextlib.suppress(OSError):  # a full disk would hide the error that is being told
            self.write()

    def state_dict(self) -> dict[str, Any]:
        return {"latest": dict(self.latest)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.latest = dict(state_dict["latest"])

    # ---- the file -------------------------------------------------------------------------------------------------

    def keep_until(self, step: int) -> None:
        """Drop the rows past a step; at step 0, start anew."""
        header, *lines = complete_lines(self.path) or [""]
        kept = [line for line in lines if int(line.split(",", 1)[0]) <= step]
        self.columns = header.split(",") if kept else []
        self.row, self.written, self.row_in_file = {}, True, False
        if kept:
            last = dict(zip(self.columns, kept[-1].split(","), strict=True))
            self.row = {k: int(v) if k == "step" else float(v) for k, v in last.items() if v}
            self.row_in_file = True
            replace_lines(self.path, [header, *kept])
        else:
            self.path.unlink(missing_ok=True)

    def start_row(self, step: int, metrics: dict[str, float]) -> None:
        self.write()
        self.row, self.written, self.row_in_file = {"step": step, **metrics}, False, False

    def extend_row(self, step: int, metrics: dict[str, float]) -> None:
        if self.row.get("step") != step:
            self.start_row(step, {})
        self.row.update(metrics)
        self.written = False

    def write(self) -> None:
        """Bring the file up to date."""
        if self.written:
            return
        new = [name for name in self.row if name not in self.columns]
        self.columns += new
        line = ",".join(_text(self.row.get(name)) for name in self.columns)
        if new or self.row_in_file:
            rows = complete_lines(self.path)[1:]
            rows = rows[:-1] if self.row_in_file else rows
            replace_lines(self.path, [",".join(self.columns), *(row + "," * len(new) for row in rows), line])
        else:
            append_lines(self.path, [line])
        self.written = self.row_in_file = True


def _text(value: float | None) -> str:
    """The shortest digits that give the value back; Lightning keeps metrics in float32."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return str(np.float32(value)) if math.isfinite(value) else str(value)
