"""Dynamic sampling: a batch of groups that have something to learn from (DAPO, arXiv 2503.14476, eq. 11).

A group whose completions are all right or all wrong has advantages of zero. DAPO samples further prompts in the place
of such groups until the batch is full, under the constraint 0 < |{right completions}| < G.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from r1lab.types import Completion, Prompt


class Stream(Protocol):
    """Where prompts come from: this rank's share of the next `count`, which is over all ranks."""

    curriculum: Any  # `r1lab.data.curriculum.Curriculum`, or None

    def take(self, count: int) -> list[Prompt]: ...


@dataclass(frozen=True)
class Group:
    """The G completions of one prompt with their rewards: the weighted sum (NaN: no term applies), and each term's."""

    prompt: Prompt
    completions: list[Completion]
    rewards: list[float]
    reward_terms: dict[str, list[float | None]]

    @property
    def judged(self) -> list[bool]:
        """Whether each completion is right, of those that the accuracy applies to."""
        return [value >= 1 for value in self.reward_terms.get("accuracy", []) if value is not None]

    @property
    def is_mixed(self) -> bool:
        """0 < right < G; where no accuracy applies, whether the rewards differ."""
        return len(set(self.judged or [reward for reward in self.rewards if not math.isnan(reward)])) > 1


@dataclass(frozen=True)
class Filled:
    """groups: of the batch, mixed ones first. sampled: all that were, those of the batch included, as they came."""

    groups: list[Group]
    sampled: list[Group]

    def metrics(self) -> dict[str, float]:
        """prompts: that were sampled. mixed_groups: the share of them that learning is for. filled_groups: how many
        others the batch had to take. sampled_accuracy: over all that was sampled, which the batch is a selection of."""
        judged = [right for group in self.sampled for right in group.judged]
        metrics = {
            "prompts": float(len(self.sampled)),
            "mixed_groups": sum(group.is_mixed for group in self.sampled) / len(self.sampled),
            "filled_groups": float(sum(not group.is_mixed for group in self.groups)),
        }
        return metrics | ({"sampled_accuracy": sum(judged) / len(judged)} if judged else {})

    def pass_rates(self) -> list[tuple[Prompt, float]]:
        """Of each prompt that was sampled and has an accuracy."""
        judged = [(group.prompt, group.judged) for group in self.sampled]
        return [(prompt, sum(right) / len(right)) for prompt, right in judged if right]


def fill(draw: Callable[[int], list[Group]], count: int, *, max_resamples: int) -> Filled:
    """A batch of `count` groups, mixed ones as far as they come.

    Args:
        draw: samples the groups of the next so many prompts.
        max_resamples: rounds after the first one; each is of as many prompts as groups are missing. Where the last one
            leaves some missing, the first of the others take their place, as without dynamic sampling: the batch keeps
            its size, and a policy that is always right does not sample for ever (DAPO does not say what then).
    """
    sampled: list[Group] = []
    missing = count
    for _ in range(1 + max_resamples):
        sampled += draw(missing)
        missing = count - sum(group.is_mixed for group in sampled)
        if not missing:
            break
    # `sorted` leaves groups that are alike as they came.
    return Filled(sorted(sampled, key=lambda group: not group.is_mixed)[:count], sampled)
