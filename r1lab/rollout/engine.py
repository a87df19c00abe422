"""What every rollout engine does: groups of completions for prompts."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from r1lab.rollout.sampling import Sampling
from r1lab.types import Completion, Prompt


class Recorder(Protocol):
    """`r1lab.model.routing.Recorder`: a context for a pass of the model, then what its N tokens were routed to."""

    def __enter__(self) -> "Recorder": ...

    def __exit__(self, *_: object) -> None: ...

    def take(self) -> Tensor:
        """Int64 [N,L,K]."""
        ...


class RolloutEngine(Protocol):
    """Samples completions from the current weights of the policy.

    An engine in process reads `model`; one that holds its own copy of the weights takes them from `model` whenever
    `policy_version` has changed.

    Attributes:
        everyone_done: where ranks gather the model's weights together in each forward pass, so that all must do as
            many: tells whether all ranks are done, given whether this one is; all ask before each pass. None elsewhere.
        records_experts: whether `generate` takes a recorder.
    """

    records_experts: bool

    everyone_done: Callable[[bool], bool] | None

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
        recorder: Recorder | None = None,
    ) -> list[Completion]:
        """`group_size` completions of each prompt, ordered by prompt: B = P * G; with a recorder, of their `experts`.

        What is drawn for completion g of a prompt follows from (seed, step, prompt.index, g) and the weights alone.
        """
        ...
