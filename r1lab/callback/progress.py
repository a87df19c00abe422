"""How a fit is going, on one line; plain lines now and then where no terminal shows it."""

import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

SECONDS = ("step", "rollout", "logprob", "update")
RECENT = 10  # steps that the shown seconds are the mean of


class Progress(ProgressBar):
    """Step, accuracy, format, completion length, KL (or the loss of supervised training), the last validation, the
    seconds of a step and what they went to, the time left.

    Args:
        plain_lines: how many lines a fit prints where the output is no terminal, validations apart.
        console: where to show it; None: standard output.
    """

    def __init__(self, *, plain_lines: int, console: Console | None = None):
        super().__init__()
        self.plain_lines, self._given_console = plain_lines, console
        self.console = console
        self.bar: Bar | None = None
        self.enabled = True
        self.validation = ""

    # ---- what Lightning calls -------------------------------------------------------------------------------------

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.first_step, self.started = pl_module.step, time.monotonic()
        self.total = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        self.seconds: deque[dict[str, float]] = deque(maxlen=max(RECENT, getattr(pl_module, "updates_per_rollout", 1)))
        # Rich takes FORCE_COLOR, which CI services set, for a terminal.
        self.console = self._given_console or Console(force_terminal=sys.stdout.isatty())
        if self.enabled and self.console.is_terminal and not self.console.is_dumb_terminal:
            self.bar = Bar(
                BarColumn(bar_width=12),
                MofNCompleteColumn(),
                # One line whatever the width: what does not fit is cut, the least important stands last.
                TextColumn("{task.fields[line]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
                console=self.console,
                expand=True,
                refresh_per_second=4,
            )
            total = None if math.isinf(self.total) else self.total
            self.task = self.bar.add_task("", total=total, completed=pl_module.step, line="")
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.seconds.append({k: metrics[f"time/{k}_seconds"] for k in SECONDS if f"time/{k}_seconds" in metrics})
        line = self.line(metrics, pl_module.step)
        if self.bar:
            self.bar.update(self.task, completed=pl_module.step, line=line)
        elif is_plain_due(pl_module.step, self.first_step, self.total, self.plain_lines):
            self.print_plain(pl_module.step, line)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar:
            self.bar.update(self.task, line="validating …")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.validation = describe_validation(metrics)
        if self.bar:
            self.bar.update(self.task, line=self.line(metrics, pl_module.step))
        else:
            self.print_plain(pl_module.step, self.validation)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.stop()

    # ---- what is shown --------------------------------------------------------------------------------------------

    def line(self, metrics: Mapping[str, float], step: int) -> str:
        left = time_left(time.monotonic() - self.started, step - self.first_step, self.total - step)
        parts = (describe_training(metrics), self.validation, left, describe_seconds(list(self.seconds)))
        return "  ".join(part for part in parts if part)

    def print_plain(self, step: int, line: str) -> None:
        if self.enabled:
            total = "" if math.isinf(self.total) else f"/{self.total}"
            # Rich would wrap the line at 80 columns.
            print(f"step {step}{total}  {line}", file=self.console.file, flush=True)

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None


def describe_training(metrics: Mapping[str, float]) -> str:
    """`accuracy 0.42  format 0.93  length 51  KL 0.0031`, or the loss where there is no rollout."""
    shown = (
        ("accuracy", "reward/accuracy", ".2f"),
        ("format", "rollout/format", ".2f"),
        ("length", "rollout/completion_length", ".0f"),
        ("KL", "loss/kl", ".4f"),
    )
    if "rollout/completion_length" not in metrics:
        shown = (("loss", "loss/total", ".4f"),)
    return "  ".join(f"{name} {metrics[key]:{form}}" for name, key, form in shown if key in metrics)


def describe_validation(metrics: Mapping[str, float]) -> str:
    """`validation 0.45 [0.40, 0.50]`: pass@1 (a reward model's accuracy) with its interval, and the format's share in
    supervised training."""
    names = [name for name in ("validation/pass_at_1", "validation/accuracy") if name in metrics]
    if not names:
        return ""
    text = f"validation {metrics[names[0]]:.2f}"
    if f"{names[0]}_low" in metrics:
        text += f" [{metrics[f'{names[0]}_low']:.2f}, {metrics[f'{names[0]}_high']:.2f}]"
    if "rollout/completion_length" not in metrics and "validation/format" in metrics:
        text += f" format {metrics['validation/format']:.2f}"
    return text


def describe_seconds(steps: list[Mapping[str, float]]) -> str:
    """`1.52 s/step (rollout 1.10, logprob 0.12, update 0.30)`: means over steps."""
    known = [name for name in SECONDS if any(name in step for step in steps)]
    if "step" not in known:
        return ""
    mean = {name: sum(step.get(name, 0.0) for step in steps) / len(steps) for name in known}
    split = ", ".join(f"{name} {mean[name]:.2f}" for name in known if name != "step")
    return f"{mean['step']:.2f} s/step" + (f" ({split})" if split else "")


def time_left(elapsed: float, done: int, remaining: float) -> str:
    """`2:05 left`, from the mean speed of this process, validations included; elapsed in seconds."""
    if done < 1 or math.isinf(remaining):
        return ""
    seconds = round(elapsed / done * max(remaining, 0))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}") + " left"


def is_plain_due(step: int, first_step: int, total: float, lines: int) -> bool:
    """Whether a step crosses the next `1/lines` of the run; the first step of a process always shows life."""
    if lines < 1:
        return False
    if step == first_step + 1:
        return True
    every = RECENT if math.isinf(total) else total / lines
    return math.floor(step / every) > math.floor((step - 1) / every)
