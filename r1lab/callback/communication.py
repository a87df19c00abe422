"""Which share of a step's time goes into communication between ranks, by torch's profiler over a fit's last steps."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Span = tuple[float, float]


class Communication(L.Callback):
    """Logs, with the last step, of the first rank: `communication/share`, the share of time in which a collective is
    under way, and on a GPU `communication/exposed`, the share in which nothing else is on the device meanwhile.

    On a GPU collectives are NCCL's kernels, which also wait for ranks that come late; on a CPU they are gloo's, beside
    which other threads compute, so that what is exposed is not known. A fit that ends before `trainer.max_steps` logs
    nothing. Steps that are profiled take longer: their seconds are not to be compared with others'.

    Args:
        steps: how many of the last are profiled.
    """

    def __init__(self, *, steps: int):
        if steps < 1:
            raise ValueError(f"callback.communication.steps must be at least 1, got {steps}")
        self.steps = steps
        self._profile: profile | None = None
        self._started = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        first = max(trainer.max_steps - self.steps, 0)
        if not trainer.is_global_zero or pl_module.step != first or self._profile is not None:
            return
        on_gpu = pl_module.device.type == "cuda"
        self._profile = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
        self._profile.start()
        self._started = now(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._profile is None or pl_module.step < trainer.max_steps:
            return
        seconds = now(pl_module.device) - self._started
        profiled, self._profile = self._profile, None
        profiled.stop()
        # What kineto recorded: of a hundred thousand kernels torch is long in making events of its own.
        found = shares(*spans(profiled.profiler.kineto_results.events()), seconds)
        if pl_module.device.type != "cuda":
            del found["exposed"]
        metrics = {f"communication/{name}": value for name, value in found.items()}
        pl_module.log_dict(metrics, on_step=True, on_epoch=False, batch_size=1)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)


def now(device: torch.device) -> float:
    """Seconds, when all that the device was given to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def spans(events: Iterable[Any]) -> tuple[list[Span], list[Span]]:
    """When collectives, and when other kernels of the device, began and ended, in microseconds, of kineto's events.

    NCCL marks its collectives by annotations beside their kernels, and gloo's are annotations alone.
    """
    collectives, others = [], []
    for event in events:
        on_device = event.device_type() != DeviceType.CPU and not event.is_user_annotation()
        name = event.name()
        collective = name.startswith("gloo:") or (on_device and "nccl" in name.lower())
        if collective or on_device:
            start = event.start_ns()
            (collectives if collective else others).append((start / 1e3, (start + event.duration_ns()) / 1e3))
    return collectives, others


def shares(collectives: Sequence[Span], others: Sequence[Span], seconds: float) -> dict[str, float]:
    """Of so many seconds: `share` with a collective, `exposed` with a collective and nothing else."""
    busy, either = covered(collectives), covered([*collectives, *others])
    microseconds = {"share": busy, "exposed": either - covered(others)}
    return {name: value / 1e6 / seconds for name, value in microseconds.items()}


def covered(spans: Sequence[Span]) -> float:
    """The length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
