"""What bench_scaling checks beside speed: losses equal to one rank's, a resume on fewer ranks, a rank that is killed.

All on recorded rollouts (SFT's documents are the same anyway), in float32, with as much work in all for any number of
ranks, so that losses are equal but for the order of sums.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from r1lab.analysis.run import Run, load_run
from r1lab.module.checkpoint import is_checkpoint, read_checkpoint
from tests.benchmark.scaling_runs import Configuration, Ranks, Settings, overrides, seconds_since, train
from tests.invariant.scripted import record

GRADIENT = "optimizer/gradient_norm"
STEPS, KEPT, KILLED = 10, 4, 5  # in all, between checkpoints, and the last that is done before a rank is killed
# Of the largest value of a run, by which a step's may differ. A rounding sends a token to another expert, and with the
# sign of that one's load its bias: 1e-4 of SFT's loss on two H100s. On a CPU an optimizer that is emptied is 4e-3.
# GRPO's loss is made of the KL, which is that of a few steps, so that such a token shows more.
BOUNDS = {
    "sft": {"loss/total": 1e-3, GRADIENT: 1e-2},
    "grpo": {"loss/total": 2e-2, "loss/kl": 2e-2, GRADIENT: 1e-2},
}
WITHIN = 60  # seconds, for a job to end of which a rank is killed
# A rate at which few tokens are sent to another expert by a rounding of the weights.
STEADY = (
    "optimizer.lr=3e-5",
    "optimizer.scheduler.num_warmup_steps=0",
    f"optimizer.scheduler.num_training_steps={STEPS}",
    f"trainer.val_check_interval={STEPS}",
)
WATCHED = ("callback=default", "callback.samples.shown=0", "callback.progress.plain_lines=0")


@dataclass(frozen=True)
class Difference:
    """Of two runs, the largest of a step, relative to the second's largest value, by metric; equal: within bounds."""

    of: dict[str, float]
    bounds: dict[str, float]

    @property
    def equal(self) -> bool:
        return all(self.of[name] <= bound for name, bound in self.bounds.items())

    @property
    def row(self) -> dict[str, Any]:
        names = {"loss": "loss/total", "kl": "loss/kl", "gradient": GRADIENT}
        found = {f"{own}_difference": f"{self.of[name]:.2g}" for own, name in names.items() if name in self.of}
        bounds = " ".join(f"{name}={bound:g}" for name, bound in self.bounds.items())
        return found | {"bounds": bounds, "passed": self.equal}


def difference(found: pd.DataFrame, expected: pd.DataFrame, task: str) -> Difference:
    """Of the steps of `found`; where `expected` does not have them, or does nothing, nothing is equal."""
    bounds = BOUNDS[task]
    found, expected = (x.set_index("step")[list(bounds)] for x in (found, expected))
    if found.empty or not set(found.index) <= set(expected.index) or not found.index.is_unique:
        return Difference(dict.fromkeys(bounds, float("inf")), bounds)
    sizes = expected.abs().max()
    apart = (found - expected.loc[found.index]).abs().max()
    # What is 0 throughout shows nothing.
    return Difference({x: float(apart[x] / sizes[x]) if sizes[x] else float("inf") for x in bounds}, bounds)


class Checks:
    """Of a configuration on its ranks; each check is a row, with `passed`.

    Args:
        folder: for the runs.
    """

    def __init__(self, configuration: Configuration, settings: Settings, folder: Path):
        self.configuration, self.folder = configuration, folder
        self.settings = replace(settings, precision="32-true")
        self._whole: Run | None = None

    def told(self, configuration: Configuration, *, steps: int = STEPS) -> list[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        recorded = record(self.folder / "record.json") if configuration.task == "grpo" else []
        # A step's work is one rank's share, whoever does it.
        return [
            *overrides(configuration, self.settings, share=1),
            *STEADY,
            *WATCHED,
            *recorded,
            f"trainer.max_steps={steps}",
            f"callback.checkpoint.every_n_train_steps={KEPT}",
        ]

    def train(self, name: str, configuration: Configuration, *more: str, steps: int = STEPS) -> Run:
        told = [*self.told(configuration, steps=steps), *more]
        return train(told, self.folder / name, configuration.gpus, self.settings.timeout)

    @property
    def whole(self) -> Run:
        """The run that nothing happens to."""
        if self._whole is None:
            self._whole = self.train("whole", self.configuration)
        return self._whole

    def apart(self, found: Run, expected: Run) -> Difference:
        return difference(found.metrics, expected.metrics, self.configuration.task)

    def losses(self) -> dict[str, Any]:
        """Every step's against one rank's that shards nothing."""
        alone = replace(self.configuration, strategy="single", reference="", gpus=1)
        expected = self.train("alone", alone)
        return {"against": "1 rank, strategy=single"} | self.apart(self.whole, expected).row

    def resume(self) -> dict[str, Any]:
        """A checkpoint of these ranks goes on on half of them, as these would."""
        fewer = replace(self.configuration, gpus=self.configuration.gpus // 2)
        half = self.train("half", self.configuration, steps=STEPS // 2)
        rest = self.train("rest", fewer, f"ckpt_path={half.checkpoints['last']}")
        steps = rest.metrics["step"].tolist()
        found = self.apart(rest, self.whole).row
        found["passed"] = found["passed"] and steps == list(range(STEPS // 2 + 1, STEPS + 1))
        return {"against": f"saved on {self.configuration.gpus} ranks, gone on on {fewer.gpus}"} | found

    def kill(self, rank: int) -> dict[str, Any]:
        """A rank is killed behind a step that is not saved; then the run goes on from its last checkpoint."""
        folder = self.folder / "killed"
        ranks = Ranks(self.told(self.configuration), folder, self.configuration.gpus)
        wait_for(lambda: done_steps(folder) >= KILLED, ranks, self.settings.timeout)
        pid = ranks.pids().get(rank)
        if pid is None:
            ranks.stop()
            raise RuntimeError("it ended before a rank could be killed")
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        status = ranks.wait(self.settings.timeout)
        seconds, message = seconds_since(started), ranks.said().replace(f"{folder}", folder.name)
        lost, saved = done_steps(folder), saved_step(folder)
        resumed = self.train("killed", self.configuration, "ckpt_path=last")
        found = self.apart(resumed, self.whole).row
        every = resumed.metrics["step"].tolist() == list(range(1, STEPS + 1))
        told = "SIGKILL" in message and f"rank : {rank}" in message
        goes_on = 0 < saved <= lost
        found["passed"] = found["passed"] and every and told and goes_on and status != 0 and seconds <= WITHIN
        against = (
            f"rank {rank} killed behind step {lost}, {seconds} s to the end, status {status}, on from step {saved}"
        )
        return {"against": against, "seconds": seconds, "message": message} | found


def wait_for(happened: Callable[[], bool], ranks: Ranks, timeout: float) -> None:
    """Raises RuntimeError where the run ends before, or it takes longer."""
    end = time.monotonic() + timeout
    while not happened():
        if ranks.process.poll() is not None:
            raise RuntimeError(f"exit status {ranks.process.returncode} before a rank was killed: {ranks.said()}")
        if time.monotonic() > end:
            ranks.stop()
            raise RuntimeError(f"no step {KILLED} after {timeout:.0f} s: {ranks.said()}")
        time.sleep(0.05)


def done_steps(folder: Path) -> int:
    """The last step that the metrics of a run have, which are a step behind."""
    if not (folder / "metrics.csv").exists():
        return 0
    steps = load_run(folder).metrics["step"]
    return int(steps.iloc[-1]) if len(steps) else 0


def saved_step(folder: Path) -> int:
    """Of a run's last checkpoint; 0 without one."""
    path = folder / "checkpoints" / "last.ckpt"
    return int(read_checkpoint(path)["global_step"]) if is_checkpoint(path) else 0
