"""What every rollout engine does: groups of completions for prompts."""

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedModel

from r1lab.rollout.sampling import Sampling
from r1lab.types import Completion, Prompt


class RolloutEngine(Protocol):
    """Samples completions from the current weights of the policy.

    An engine in process reads `model`; one that holds its own copy of the weights takes them from `model` whenever
    `policy_version` has changed.
    """

    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Prompt],
        *,
        group_size: int,
        sampling: Sampling,
        seed: int,
        step: int,
        policy_version: int = 0,
    ) -> list[Completion]:
        """`group_size` completions of each prompt, ordered by prompt: B = P * G.

        What is drawn for completion g of a prompt follows from (seed, step, prompt.index, g) and the weights alone.
        """
        ...
