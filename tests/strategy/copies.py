"""Whole copies of a small model in shards, checked on several ranks: by gloo, or where there are GPUs by NCCL, which
serves no tensor of the host.

    torchrun --nproc-per-node=3 -m tests.strategy.copies
"""

import copy
import itertools
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    fully_shard,
)

from r1lab.strategy.sharded import BUCKET, copy_whole


class Model(nn.Module):
    """Rows that do and that do not divide among 2 or 3 ranks, fewer rows than ranks, a buffer, and tied weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 4)) for _ in range(2)]
        )
        self.norm = nn.LayerNorm(4)
        self.register_buffer("shift", torch.rand(4))
        self.narrow = nn.Linear(4, 1, bias=False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.first.weight

    def forward(self, ids):
        hidden = self.first(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden + self.shift.to(hidden))) + self.narrow(hidden)


def in_shards(model: nn.Module, how: str, device: str) -> nn.Module:
    """Gathered in bfloat16, as it is trained."""
    if how == "fsdp":
        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=lambda module, recurse, **_: recurse or isinstance(module, nn.Sequential),
            mixed_precision=MixedPrecision(param_dtype=torch.bfloat16),
            device_id=torch.device(device),
            use_orig_params=True,
        )
    options = {"mesh": init_device_mesh(device.partition(":")[0], (dist.get_world_size(),))}
    options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    if how == "fsdp2, on the host":
        options["offload_policy"] = CPUOffloadPolicy()
    for block in model.blocks:
        fully_shard(block, **options)
    fully_shard(model, **options)
    model.shift = model.shift.to(device)
    return model


def check(how: str, device: str) -> None:
    torch.manual_seed(0)
    model = Model()
    expected = copy.deepcopy(model)
    sharded = in_shards(model, how, device)
    copy_whole(sharded, whole := Model().to(device))  # before the first pass
    assert torch.equal(whole.narrow.weight.cpu(), expected.narrow.weight)
    places = dict.fromkeys((device, "cpu"))
    for where, dtype, nbytes in itertools.product(places, (torch.float32, torch.bfloat16), (0, 100, BUCKET)):
        sharded.eval()
        with torch.no_grad():
            # It leaves what is in no block gathered, in bfloat16.
            sharded(torch.arange(7, device=device))
            for parameter in expected.parameters():
                parameter += 0.001
            whole = Model().to(where, dtype)
            whole.blocks[1].float()  # as a router may be
            copy_whole(sharded, whole, nbytes)  # gives that up
            for parameter in sharded.parameters():
                parameter += 0.001
            copy_whole(sharded, whole, nbytes)
        for (name, found), value in zip(whole.state_dict().items(), expected.state_dict().values(), strict=True):
            value = value.to(found.dtype)
            assert torch.equal(found.cpu(), value), f"{how}, {where}, {dtype}, {nbytes}: {name}"
        assert whole.head.weight is whole.first.weight


def main() -> None:
    rank = int(os.environ["LOCAL_RANK"])
    device = "cpu"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
        device = f"cuda:{rank}"
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    for how in ("fsdp2", "fsdp", *(["fsdp2, on the host"] if device != "cpu" else [])):
        check(how, device)
        if rank == 0:
            print(f"{how}: copies are equal, {dist.get_world_size()} ranks, {device}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
