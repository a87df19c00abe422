"""FSDP2 (torch's `fully_shard`) as a Lightning strategy; on GPUs by NCCL, on a CPU by gloo."""

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard

from r1lab.strategy.blocks import blocks
from r1lab.strategy.folder import WholeFolder

SAMPLERS = ("whole", "layers")
FORMS = ("sharded", "whole")


class FSDP2(WholeFolder, ModelParallelStrategy):
    """Parameters, gradients and optimizer state in shards, gathered block by block as they are needed.

    Args:
        cpu_offload: the policy's shards, their gradients and the optimizer's state lie in the host's memory.
        reference_on_cpu: the frozen reference's do.
        param_dtype, reduce_dtype: in which parameters are gathered, and gradients summed; None: their own.
        sampler: whole, each rank gathers a copy for its rollouts; layers, rollouts gather layer by layer, all ranks
            in step: less memory, and far slower.
        checkpoint: sharded, a folder to which each rank writes its part, and from which any number of ranks goes on;
            whole, one file, assembled by the first rank.
        devices, num_nodes: of the trainer.
        seconds: that ranks wait for each other before the run ends with an error.

    Raises:
        ValueError: for an unknown sampler or checkpoint.
    """

    def __init__(
        self,
        *,
        cpu_offload: bool,
        reference_on_cpu: bool,
        param_dtype: str | None,
        reduce_dtype: str | None,
        sampler: str,
        checkpoint: str,
        devices: Any = None,
        num_nodes: int = 1,
        seconds: float,
    ):
        check_choices(sampler, checkpoint)
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=checkpoint == "sharded",
            timeout=timedelta(seconds=seconds),
        )
        self.is_folder = checkpoint == "sharded"
        self.cpu_offload, self.reference_on_cpu, self.sampler = cpu_offload, reference_on_cpu, sampler
        self.dtypes = {"param_dtype": dtype(param_dtype), "reduce_dtype": dtype(reduce_dtype)}

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: nn.Module, *, frozen: bool = False, head_apart: bool = False) -> nn.Module:
        """The model, its blocks sharded in place.

        Args:
            frozen: it is the reference. head_apart: leave an untied head in shards when the rest is gathered.
        """
        mesh, precision = self.device_mesh["data_parallel"], MixedPrecisionPolicy(**self.dtypes)
        options: dict[str, Any] = {"mesh": mesh, "mp_policy": precision}
        if self.root_device.type != "cpu" and (self.reference_on_cpu if frozen else self.cpu_offload):
            options["offload_policy"] = CPUOffloadPolicy()
        parts = blocks(model)
        if head_apart and not model.config.tie_word_embeddings:
            parts.append(model.get_output_embeddings())
        for part in parts:
            fully_shard(part, **options)
        # Else the last weights that were gathered stay, and a reference that is refreshed would not be gathered anew.
        return fully_shard(model, reshard_after_forward=True, **options)

    def model_to_device(self) -> None:
        # Sharding has put the shards where they belong, some of them on the host.
        for part in self.lightning_module.children():
            if not isinstance(part, FSDPModule):
                part.to(self.root_device)


def check_choices(sampler: str, checkpoint: str) -> None:
    """Raise ValueError for an unknown choice."""
    for name, value, choices in (("sampler", sampler, SAMPLERS), ("checkpoint", checkpoint, FORMS)):
        if value not in choices:
            raise ValueError(f"strategy.{name} {value!r} is not one of {', '.join(choices)}")


def dtype(name: str | None) -> torch.dtype | None:
    """torch's dtype of that name. Raises ValueError where there is none."""
    found = None if name is None else getattr(torch, name, None)
    if name is not None and not isinstance(found, torch.dtype):
        raise ValueError(f"strategy.param_dtype and reduce_dtype are null or names such as bfloat16, got {name!r}")
    return found
