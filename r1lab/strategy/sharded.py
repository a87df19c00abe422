"""What modules do with models whose parameters may be in shards: FSDP2's, FSDP's, or in whole.

FSDP gathers what belongs to no block (embedding, last norm, head) around the model's own forward pass. The heads here
are applied by weight, outside of it; so whatever uses them runs as if it were that pass.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.fsdp._runtime_utils import _lazy_init, _reshard
from torch.distributed.tensor import DTensor

T = TypeVar("T")
# Bytes of whole parameters that ranks exchange at once. One exchange for each would keep the host busy: a mixture has
# hundreds of them, most of them small.
BUCKET = 128 * 2**20


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
    if isinstance(model, FullyShardedDataParallel):
        _lazy_init(model, model)  # nothing can be freed before; and its first part to be used would be the root
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
def copy_whole(sharded: nn.Module, whole: nn.Module, bucket_bytes: int = BUCKET) -> None:
    """Copy weights and buffers of a sharded model into one of the same shape that is not; all ranks take part.

    The whole one may be in another dtype and, where the ranks' devices are GPUs, on the host.

    Args:
        bucket_bytes: of FSDP2's parameters, how much ranks exchange at once; a larger parameter goes by itself.
    """
    reshard(sharded)  # what is kept gathered is in the dtype of the passes
    pairs = list(zip(_tensors(sharded), _tensors(whole), strict=True))
    if isinstance(sharded, FullyShardedDataParallel):
        _copy_by_parts(sharded, pairs)
        return
    for source, target in pairs:
        if not isinstance(source, DTensor):
            target.copy_(source)
    for bucket in _buckets([pair for pair in pairs if isinstance(pair[0], DTensor)], bucket_bytes):
        _gather(bucket)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _copy_by_parts(sharded: FullyShardedDataParallel, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """`copy_whole` of the first FSDP, of which one part is gathered at a time."""
    parts = FullyShardedDataParallel.fsdp_modules(sharded)
    # The innermost of those that a parameter is in, which come after the ones that they are in.
    holder = {parameter: part for part in parts for parameter in part.parameters()}
    for part in (None, *parts):  # buffers are in none
        gathered = nullcontext()
        if part is not None:
            gathered = FullyShardedDataParallel.summon_full_params(part, recurse=False, writeback=False)
        with gathered:
            for source, target in pairs:
                if holder.get(source) is part:
                    target.copy_(source)


def _buckets(pairs: Iterable[tuple[DTensor, Tensor]], most: int) -> Iterator[list[tuple[DTensor, Tensor]]]:
    """Neighbours whose whole ones are of one dtype, of no more bytes than `most` unless it is only one."""
    bucket: list[tuple[DTensor, Tensor]] = []
    nbytes = 0
    for source, target in pairs:
        if bucket and (target.dtype != bucket[0][1].dtype or nbytes + target.nbytes > most):
            yield bucket
            bucket, nbytes = [], 0
        bucket.append((source, target))
        nbytes += target.nbytes
    if bucket:
        yield bucket


def _gather(bucket: list[tuple[DTensor, Tensor]]) -> None:
    """Copy FSDP2's parameters, of which each rank has as many rows, the last ones fewer, into whole ones of one dtype
    in one exchange, which is of that dtype."""
    mesh, dtype = bucket[0][0].device_mesh, bucket[0][1].dtype
    ranks = mesh.size()
    rows = [-(-len(target) // ranks) for _, target in bucket]
    sizes = [n * target[0].numel() for n, (_, target) in zip(rows, bucket, strict=True)]
    # Ranks exchange what lies on their devices; shards and whole ones may lie on the host.
    mine = torch.empty(sum(sizes), dtype=dtype, device=mesh.device_type)
    for (source, _), place in zip(bucket, mine.split(sizes), strict=True):
        own = source.to_local().flatten()
        place[: len(own)] = own
    everyones = mine.new_empty(ranks, len(mine))
    # NCCL gathers lists by way of another tensor of their size; what does without it is deprecated in torch 2.13, and
    # its successor is not there in 2.11.
    dist.all_gather(list(everyones), mine, group=mesh.get_group())
    del mine
    for rank, theirs in enumerate(everyones):
        for (_, target), n, part in zip(bucket, rows, theirs.split(sizes), strict=True):
            place = target[rank * n : (rank + 1) * n]
            place.copy_(part[: place.numel()].view_as(place))


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
