"""FSDP as a Lightning strategy, for GPUs; `fsdp2` is its successor."""

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.distributed.fsdp import CPUOffload, FullyShardedDataParallel, MixedPrecision, ShardingStrategy
from torch.distributed.fsdp.wrap import CustomPolicy

from r1lab.strategy.blocks import blocks
from r1lab.strategy.folder import WholeFolder
from r1lab.strategy.settings import Settings


def refuse_offload(cpu_offload: bool) -> None:
    """Raise ValueError for a trained model's shards on the host: with its gradient there torch's first FSDP keeps that
    of the last microbatch alone, and says nothing."""
    if cpu_offload:
        raise ValueError(
            "strategy.cpu_offload=true with strategy=fsdp would train on the gradient of each step's last microbatch "
            "alone: take strategy=fsdp2"
        )


class FSDP(WholeFolder, FSDPStrategy):
    """As `r1lab.strategy.fsdp2.FSDP2`, with the same arguments, by torch's first FSDP, but for `cpu_offload`, which it
    refuses."""

    on_cpu = False  # tests shard on a CPU all the same

    def __init__(self, *, devices: Any = None, num_nodes: int = 1, **settings: Any):
        own = Settings(**settings)
        refuse_offload(own.cpu_offload)
        super().__init__(
            mixed_precision=MixedPrecision(**own.dtypes) if any(own.dtypes.values()) else None,
            state_dict_type="sharded" if own.is_folder else "full",
            timeout=own.timeout,
        )
        self.is_folder, self.sampler, self.reference_on_cpu = own.is_folder, own.sampler, own.reference_on_cpu
        self.in_turn = own.in_turn

    @property
    def mixed_precision_config(self) -> MixedPrecision | None:
        """Lightning's, but buffers keep their dtype: rotary frequencies and routers' biases need it."""
        config = super().mixed_precision_config
        return config and replace(config, buffer_dtype=None)

    @property
    def param_dtype(self) -> torch.dtype | None:
        """In which weights are gathered; None: as they are."""
        return getattr(self.mixed_precision_config, "param_dtype", None)

    def refuse_cpu(self, accelerator: str) -> None:
        """Raise ValueError where the trainer's accelerator would be the CPU."""
        if not self.on_cpu and (accelerator == "cpu" or not torch.cuda.is_available()):
            raise ValueError("strategy=fsdp needs GPUs, and trainer.accelerator is the CPU: take strategy=fsdp2")

    def shard(self, model: nn.Module, *, frozen: bool = False, head_apart: bool = False) -> nn.Module:
        """The model, wrapped; see `FSDP2.shard`. A head of its own is not left in shards."""
        if len(dtypes := {p.dtype for p in model.parameters()}) > 1:
            # Adapters are float32. What is sharded together has one dtype.
            named = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise ValueError(
                f"strategy=fsdp shards weights of one dtype, and the model has {named}: set model.policy.dtype=float32"
            )
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
