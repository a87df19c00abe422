"""What modules do with models whose parameters may be in shards: FSDP2's, FSDP's, or in whole.

FSDP gathers what belongs to no block (embedding, last norm, head) around the model's own forward pass. The heads here
are applied by weight, outside of it; so whatever uses them runs as if it were that pass.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.fsdp._runtime_utils import _reshard
from torch.distributed.tensor import DTensor

T = TypeVar("T")


def is_sharded(model: nn.Module | None) -> bool:
    return isinstance(model, (FSDPModule, FullyShardedDataParallel))


def as_forward(function: Callable[[], T], *models: nn.Module | None) -> T:
    """function() within the forward pass of each model that is sharded.

    What it returns must be a tensor, or tuples, lists and dicts of them, where a backward pass follows: FSDP looks for
    tensors there.
    """
    sharded = [model for model in models if is_sharded(model)]
    if not sharded:
        return function()
    model, *others = sharded
    inner = model.module if isinstance(model, FullyShardedDataParallel) else model

    def forward(_: None) -> T:
        del inner.forward  # of the instance: within, the model is called as ever
        return as_forward(function, *others)

    inner.forward = forward
    try:
        return model(None)  # an argument: in torch 2.11 FSDP2 fails on a GPU without any
    finally:
        inner.__dict__.pop("forward", None)


def reshard(model: nn.Module) -> None:
    """Give up what is gathered of a sharded model, which FSDP keeps of what belongs to no block."""
    if isinstance(model, FSDPModule):
        model.reshard()
    for part in FullyShardedDataParallel.fsdp_modules(model):
        if part._handle is not None:
            # A single rank shards nothing, and has nothing to free.
            _reshard(part, part._handle, part._handle.uses_sharded_strategy)


@contextmanager
def turn(rank: int, ranks: int, barrier: Callable[[], None]) -> Iterator[None]:
    """What is done inside, the ranks do one after another.

    Args:
        rank: this one's place among them, from 0. barrier: waits for all.
    """
    for _ in range(rank):
        barrier()
    yield
    for _ in range(rank, ranks - 1):
        barrier()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_whole(sharded: nn.Module, whole: nn.Module) -> None:
    """Copy weights and buffers of a sharded model into one of the same shape that is not; all ranks take part."""
    full = nullcontext()
    if isinstance(sharded, FullyShardedDataParallel):
        full = FullyShardedDataParallel.summon_full_params(sharded, writeback=False)
    with full:
        for (_, source), (_, target) in zip(_tensors(sharded), _tensors(whole), strict=True):
            if isinstance(source, DTensor):
                # Ranks exchange what lies on their devices.
                source = source.to(source.device_mesh.device_type).full_tensor()
            target.copy_(source)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


@torch.no_grad()
def clip_gradient(parameters: Iterable[nn.Parameter], max_norm: float, everyone: Callable[[Tensor], Tensor]) -> float:
    """`torch.nn.utils.clip_grad_norm_` of gradients in shards; the norm before it.

    Args:
        everyone: a tensor of this rank -> its sum over all.
    """
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    squares = [gradient.float().square().sum() for gradient in gradients]
    norm = float(everyone(sum(squares) if squares else torch.zeros(()))) ** 0.5
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / (norm + 1e-6))
    return norm
