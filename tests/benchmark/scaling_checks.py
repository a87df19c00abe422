"""What bench_scaling checks beside speed: losses equal to one rank's, a resume on fewer ranks, a rank that is killed.

All on recorded rollouts (SFT's documents are the same anyway), in float32, with as much work in all for any number of
ranks, so that losses are equal but for the order of sums.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from r1lab.analysis.run import Run, load_run
from tests.benchmark.scaling_runs import Configuration, Ranks, Settings, overrides, seconds_since, train

STEPS, KEPT, KILLED = 10, 4, 5  # in all, between checkpoints, and the last that is done before a rank is killed
RELATIVE, ABSOLUTE, OF_NORM = 1e-4, 1e-5, 1e-2
WITHIN = 60  # seconds, for a job to end of which a rank is killed
# A rate at which no token is sent to another expert by a rounding of the weights.
SAME = (
    "optimizer.lr=0.00001",
    f"optimizer.scheduler.num_training_steps={STEPS}",
    f"trainer.val_check_interval={STEPS}",
)
WATCHED = ("callback=default", "callback.samples.shown=0", "callback.progress.plain_lines=0")


@dataclass(frozen=True)
class Difference:
    """Of two runs, the largest of a step: loss and gradient_norm, relative to the second's; equal: within bounds."""

    loss: float
    gradient_norm: float
    equal: bool

    @property
    def row(self) -> dict[str, Any]:
        found = {"loss_difference": f"{self.loss:.2g}", "gradient_difference": f"{self.gradient_norm:.2g}"}
        return found | {"passed": self.equal}


def difference(found: pd.DataFrame, expected: pd.DataFrame) -> Difference:
    """Of the steps of `found`; where `expected` does not have them, nothing is equal.

    A loss of GRPO is near 0, so that what is relative is taken of the loss and a tenth; the gradient has no such rest.
    """
    found, expected = (x.set_index("step")[["loss/total", "optimizer/gradient_norm"]] for x in (found, expected))
    if found.empty or not set(found.index) <= set(expected.index) or not found.index.is_unique:
        return Difference(float("inf"), float("inf"), False)
    expected = expected.loc[found.index]
    apart = (found - expected).abs()
    sizes = expected.abs()
    loss = float((apart["loss/total"] / (sizes["loss/total"] + ABSOLUTE / RELATIVE)).max())
    norm = float((apart["optimizer/gradient_norm"] / sizes["optimizer/gradient_norm"]).max())
    return Difference(loss, norm, loss <= RELATIVE and norm <= OF_NORM)


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
        recorded = recorded_rollouts(self.folder) if configuration.task == "grpo" else []
        # A step's work is one rank's share, whoever does it.
        return [
            *overrides(configuration, self.settings, share=1),
            *SAME,
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

    def losses(self) -> dict[str, Any]:
        """Every step's against one rank's that shards nothing."""
        alone = replace(self.configuration, strategy="single", reference="", gpus=1)
        expected = self.train("alone", alone)
        return {"against": "1 rank, strategy=single"} | difference(self.whole.metrics, expected.metrics).row

    def resume(self) -> dict[str, Any]:
        """A checkpoint of these ranks goes on on half of them, as these would."""
        fewer = replace(self.configuration, gpus=self.configuration.gpus // 2)
        half = self.train("half", self.configuration, steps=STEPS // 2)
        rest = self.train("rest", fewer, f"ckpt_path={half.checkpoints['last']}")
        steps = rest.metrics["step"].tolist()
        found = difference(rest.metrics, self.whole.metrics).row
        found["passed"] = found["passed"] and steps == list(range(STEPS // 2 + 1, STEPS + 1))
        return {"against": f"saved on {self.configuration.gpus} ranks, gone on on {fewer.gpus}"} | found

    def kill(self) -> dict[str, Any]:
        """The last rank is killed behind a step that is not saved; then the run goes on from its last checkpoint."""
        folder, last = self.folder / "killed", self.configuration.gpus - 1
        ranks = Ranks(self.told(self.configuration), folder, self.configuration.gpus)
        wait_for(lambda: done_steps(folder) >= KILLED, ranks, self.settings.timeout)
        pid = ranks.pids().get(last)
        if pid is None:
            ranks.stop()
            raise RuntimeError("it ended before a rank could be killed")
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        status = ranks.wait(self.settings.timeout)
        seconds, message = seconds_since(started), ranks.said()
        lost = done_steps(folder)
        resumed = self.train("killed", self.configuration, "ckpt_path=last")
        found = difference(resumed.metrics, self.whole.metrics).row
        every = resumed.metrics["step"].tolist() == list(range(1, STEPS + 1))
        found["passed"] = found["passed"] and every and status != 0 and seconds <= WITHIN
        against = f"rank {last} killed behind step {lost}, {seconds} s to the end, status {status}"
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


def recorded_rollouts(folder: Path) -> list[str]:
    """The settings with which completions come from a record: the same whatever the weights."""
    path = folder / "record.json"
    if not path.exists():
        draw = random.Random(0)
        rows = [[draw.randrange(2, 100) for _ in range(3 + i % 9)] + [1] for i in range(41)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    return [
        "rollout.engine._target_=tests.invariant.scripted.Recorded",
        f"+rollout.engine.path={path}",
    ]
