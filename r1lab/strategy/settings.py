"""What both strategies that shard models are told."""

from dataclasses import dataclass
from datetime import timedelta

import torch

from r1lab.dtype import dtype_of

SAMPLERS = ("whole", "layers")
FORMS = ("sharded", "whole")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How models are put in shards.

    cpu_offload: the policy's shards, their gradients and the optimizer's state lie in the host's memory.
    reference_on_cpu: the frozen reference's do.
    param_dtype, reduce_dtype: in which parameters are gathered, and gradients summed; None: their own.
    sampler: whole, each rank gathers a copy for its rollouts; layers, rollouts gather layer by layer, all ranks in
        step: less memory, and far slower.
    checkpoint: sharded, a folder to which each rank writes its part, and from which any number of ranks goes on; whole,
        one file, assembled by the first rank.
    in_turn: the ranks of a machine make their models one after the other, so that its memory need not hold those of
        all, whole, at a time; it takes as many times as long.
    seconds: that ranks wait for each other before the run ends with an error.

    Raises ValueError for an unknown sampler or checkpoint, a whole checkpoint of what is offloaded, what is no dtype,
    or no time.
    """

    cpu_offload: bool
    reference_on_cpu: bool
    param_dtype: str | None
    reduce_dtype: str | None
    sampler: str
    checkpoint: str
    in_turn: bool
    seconds: float

    def __post_init__(self) -> None:
        for name, value, choices in (("sampler", self.sampler, SAMPLERS), ("checkpoint", self.checkpoint, FORMS)):
            if value not in choices:
                raise ValueError(f"strategy.{name} {value!r} is not one of {', '.join(choices)}")
        if self.cpu_offload and self.checkpoint == "whole":
            raise ValueError(
                "strategy.checkpoint=whole with strategy.cpu_offload=true cannot be gone on from, since torch spreads "
                "such a file to one device: take strategy.checkpoint=sharded"
            )
        if self.seconds <= 0:
            raise ValueError(f"strategy.seconds must be above 0, got {self.seconds}")
        _ = self.dtypes  # refused here

    @property
    def is_folder(self) -> bool:
        """Whether a checkpoint is one."""
        return self.checkpoint == "sharded"

    @property
    def timeout(self) -> timedelta:
        return timedelta(seconds=self.seconds)

    @property
    def dtypes(self) -> dict[str, torch.dtype | None]:
        """`param_dtype` and `reduce_dtype`, as torch's mixed precision takes them."""
        given = {"param_dtype": self.param_dtype, "reduce_dtype": self.reduce_dtype}
        return {key: None if name is None else dtype_of(name, f"strategy.{key}") for key, name in given.items()}
