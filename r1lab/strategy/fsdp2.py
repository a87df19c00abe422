"""FSDP2 (torch's `fully_shard`) as a Lightning strategy; on GPUs by NCCL, on a CPU by gloo."""

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard

from r1lab.strategy.blocks import blocks
from r1lab.strategy.folder import WholeFolder
from r1lab.strategy.settings import Settings


class FSDP2(WholeFolder, ModelParallelStrategy):
    """Parameters, gradients and optimizer state in shards, gathered block by block as they are needed.

    Args:
        devices, num_nodes: of the trainer. settings: of `r1lab.strategy.settings.Settings`.
    """

    def __init__(self, *, devices: Any = None, num_nodes: int = 1, **settings: Any):
        own = Settings(**settings)
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=own.is_folder, timeout=own.timeout)
        self.is_folder, self.dtypes, self.sampler = own.is_folder, own.dtypes, own.sampler
        self.cpu_offload, self.reference_on_cpu = own.cpu_offload, own.reference_on_cpu
        self.in_turn = own.in_turn

    @property
    def param_dtype(self) -> torch.dtype | None:
        """In which weights are gathered; None: as they are."""
        return self.dtypes["param_dtype"]

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
        return fully_shard(model, **options)

    def model_to_device(self) -> None:
        # Sharding has put the shards where they belong, some of them on the host.
        for part in self.lightning_module.children():
            if not isinstance(part, FSDPModule):
                part.to(self.root_device)
