"""A curriculum by measured difficulty: prompts of levels that the policy solves sometimes.

A level is a kind of prompt and its difficulty. A group whose completions are all right or all wrong teaches nothing
(DAPO, arXiv 2503.14476, section 3.2), so that prompts are best spent on levels in between. Which these are is measured:
before the run, on the Parquet files of `r1lab.generate`, and by the run's own rollouts.
"""

import logging
import random
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from r1lab.types import Prompt

log = logging.getLogger("r1lab.data")


class Curriculum:
    """Accepts prompts of levels whose pass rate lies in [lowest, highest].

    A level that was not measured yet is accepted, and of each other level a share of `explore`, so that its rate stays
    measured while the policy changes. Which prompts those are follows from the prompt's number.

    Args:
        lowest, highest: the band of pass rates; 0 and 1 take every level.
        explore: share of the prompts outside the band that are accepted all the same, above 0.
        decay: what a level's rate keeps of itself when a rollout measures it anew; 1 keeps the first measurement.
        measured: a folder of `r1lab.generate` on this task, whose pass rates the levels start with; None: nothing is
            measured at the start.

    Raises:
        ValueError: for numbers out of range. FileNotFoundError: if `measured` holds no Parquet file.
    """

    def __init__(self, *, lowest: float, highest: float, explore: float, decay: float, measured: str | None = None):
        if not 0 <= lowest <= highest <= 1:
            raise ValueError(
                f"data.curriculum.lowest={lowest} and highest={highest} must be pass rates with lowest <= highest"
            )
        if not 0 < explore <= 1:
            raise ValueError(
                f"data.curriculum.explore={explore} must be above 0 and at most 1: without it, levels outside the band "
                "would never be measured again, and with none inside there would be no prompt"
            )
        if not 0 <= decay <= 1:
            raise ValueError(f"data.curriculum.decay={decay} must lie between 0 and 1")
        self.lowest, self.highest, self.explore, self.decay = lowest, highest, explore, decay
        self.rates = measured_rates(measured) if measured else {}

    @property
    def takes_every_level(self) -> bool:
        return self.lowest == 0 and self.highest == 1

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Raise ValueError where no measured level is one of these prompts'; warn where they are all of one level."""
        levels = {level(prompt) for prompt in prompts}
        if self.rates and not levels & set(self.rates):
            raise ValueError(
                f"data.curriculum.measured knows {', '.join(sorted(self.rates))}, none of which is a level of this "
                f"task ({', '.join(sorted(levels))}); measure prompts of the same task"
            )
        if len(levels) == 1:
            log.warning(f"data.curriculum has nothing to choose from: all prompts are of level {', '.join(levels)}")

    def accepts(self, prompt: Prompt) -> bool:
        rate = self.rates.get(level(prompt))
        if rate is None or self.lowest <= rate <= self.highest:
            return True
        return random.Random(f"explore/{prompt.index}").random() < self.explore

    def note(self, measured: Iterable[tuple[Prompt, float]]) -> None:
        """Take in the pass rates of a rollout's prompts, those of all ranks."""
        seen: dict[str, list[float]] = {}
        for prompt, rate in measured:
            seen.setdefault(level(prompt), []).append(rate)
        for name, rates in seen.items():
            now = sum(rates) / len(rates)
            self.rates[name] = self.decay * self.rates.get(name, now) + (1 - self.decay) * now


def level(prompt: Prompt) -> str:
    """`<kind>/<difficulty>`."""
    return f"{prompt.kind}/{prompt.difficulty}"


def measured_rates(folder: str | Path) -> dict[str, float]:
    """Pass rate of each level in the Parquet files of `r1lab.generate`: the share of completions with accuracy 1."""
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"data.curriculum.measured={folder}: there is no Parquet file; make some with "
            "python -m r1lab.generate checkpoint=... split=validation num_samples=8 output=..."
        )
    table = pd.concat(pd.read_parquet(file, columns=["kind", "difficulty", "accuracy"]) for file in files)
    names = table["kind"] + "/" + table["difficulty"].astype(str)
    return {str(name): float(rate) for name, rate in (table["accuracy"] >= 1).groupby(names).mean().items()}
