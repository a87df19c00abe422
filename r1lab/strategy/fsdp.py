"""FSDP as a Lightning strategy, for GPUs; `fsdp2` is its successor."""

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.distributed.fsdp import CPUOffload, FullyShardedDataParallel, MixedPrecision, ShardingStrategy
from torch.distributed.fsdp.wrap import CustomPolicy

from r1lab.strategy.blocks import blocks
from r1lab.strategy.folder import WholeFolder
from r1lab.strategy.fsdp2 import check_choices, dtype


class FSDP(WholeFolder, FSDPStrategy):
    """As `r1lab.strategy.fsdp2.FSDP2`, with the same arguments, by torch's first FSDP.

    Raises:
        ValueError: for an unknown sampler or checkpoint.
    """

    on_cpu = False  # tests shard on a CPU all the same

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
        types = {"param_dtype": dtype(param_dtype), "reduce_dtype": dtype(reduce_dtype)}
        super().__init__(
            cpu_offload=cpu_offload,
            mixed_precision=MixedPrecision(**types) if any(types.values()) else None,
            state_dict_type="sharded" if checkpoint == "sharded" else "full",
            timeout=timedelta(seconds=seconds),
        )
        self.is_folder = checkpoint == "sharded"
        self.reference_on_cpu, self.sampler = reference_on_cpu, sampler

    def refuse_cpu(self, accelerator: str) -> None:
        """Raise ValueError where the trainer's accelerator would be the CPU."""
        if not self.on_cpu and (accelerator == "cpu" or not torch.cuda.is_available()):
            raise ValueError("strategy=fsdp needs GPUs, and trainer.accelerator is the CPU: take strategy=fsdp2")

    def shard(self, model: nn.Module, *, frozen: bool = False, head_apart: bool = False) -> nn.Module:
        """The model, wrapped; see `FSDP2.shard`. A head of its own is not left in shards."""
        parts = {id(part) for part in blocks(model)}
        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=CustomPolicy(lambda part: id(part) in parts),
            sharding_strategy=ShardingStrategy.FULL_SHARD,
            cpu_offload=CPUOffload(self.reference_on_cpu) if frozen else self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            device_id=self.root_device,
            use_orig_params=True,
        )
