"""What the kernels allocate, by allocating it, without computing: for plans of memory on fake tensors, where no GPU is.

The sizes and lifetimes are those of chunks.py, which this follows line by line; triton is not imported.
"""

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 30  # linear_logprob.CHUNK_BYTES
PADDING = 64  # columns: rows.PADDING
TILE = 256  # columns of a tile: product.TILE["BN"]
ROW_BYTES = 17  # rows.Rows
GRPO_BYTES = 36 + 24  # of a token: the terms of the loss, and what is gathered of its tensors


def linear_logprob(hidden: Tensor, head: Tensor, *, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """As `r1lab.kernel.linear_logprob`: hidden [N, H], head [V, H] -> zeros float32 [N], with a gradient."""
    return _Logprob.apply(hidden, head, chunk_bytes)


def linear_grpo_loss(hidden: Tensor, head: Tensor, *, two_passes: bool = False, chunk_bytes: int = CHUNK_BYTES):
    """As `r1lab.kernel.linear_grpo_loss`: hidden [N, H], head [V, H] -> zero, gradients made as the loss is."""
    beside = torch.zeros(len(hidden), GRPO_BYTES, dtype=torch.uint8)
    if two_passes:
        return _Logprob.apply(hidden, head, chunk_bytes).sum() + 0.0 * beside.sum()
    return _OnePass.apply(hidden, head, 0, chunk_bytes) + 0.0 * beside.sum()


def linear_distill_loss(hidden: Tensor, head: Tensor, teacher_head: Tensor, *, chunk_bytes: int = CHUNK_BYTES):
    """As `r1lab.kernel.linear_distill_loss`: heads [V, H] and [V, H'] -> zero, gradients made as the loss is."""
    return _OnePass.apply(hidden, head, len(teacher_head), chunk_bytes)


class _Logprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, chunk_bytes):
        dtype = _dtype(hidden)
        weight = head.to(dtype)
        rows = torch.zeros(len(hidden), ROW_BYTES, dtype=torch.uint8)
        if _pays(hidden, weight):
            n = _chunk(len(hidden), _partial_bytes(weight), chunk_bytes)
            _, _, _ = hidden.to(dtype), torch.zeros(n, _partial_bytes(weight), dtype=torch.uint8), _shifts(hidden)
        else:
            _ = _buffer(hidden, weight, chunk_bytes)
        ctx.save_for_backward(hidden, head, rows)
        ctx.options = dtype, chunk_bytes
        return hidden.new_zeros(len(hidden), dtype=torch.float32)

    @staticmethod
    def backward(ctx, of_logprob):
        hidden, head, _ = ctx.saved_tensors
        dtype, chunk_bytes = ctx.options
        found = _gradients(hidden, head, dtype, 0, chunk_bytes, ctx.needs_input_grad[1])
        return *_cast(found, (hidden.dtype, head.dtype)), None


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, teacher_rows, chunk_bytes):
        ctx.found = _gradients(hidden, head, _dtype(hidden), teacher_rows, chunk_bytes, ctx.needs_input_grad[1])
        ctx.dtypes = hidden.dtype, head.dtype
        return hidden.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx, of_loss):
        found, ctx.found = ctx.found, None
        return *_cast(found, ctx.dtypes), None, None


def _cast(found: tuple[Tensor | None, ...], dtypes: tuple[torch.dtype, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if x is None else x.to(dtype) for x, dtype in zip(found, dtypes, strict=True))


def _gradients(hidden: Tensor, head: Tensor, dtype: torch.dtype, teacher_rows: int, chunk_bytes: int, wanted: bool):
    """To hidden [N, H] and, where it is wanted, head [V, H], float32 where it is summed over chunks or wanted so, as
    chunks.Sums has it."""
    weight = head.to(dtype)
    row = _stride(len(head)) + _stride(teacher_rows)
    n = _chunk(len(hidden), row * dtype.itemsize, chunk_bytes)
    buffer = torch.zeros(n, row, dtype=dtype)
    if _pays(hidden, weight) and not teacher_rows:
        _product = torch.zeros(n, _partial_bytes(weight), dtype=torch.uint8), _shifts(hidden), hidden.to(dtype)
    of_hidden = torch.zeros_like(hidden)
    _wide = torch.zeros(n, hidden.shape[1], dtype=torch.float32)
    narrow = n == len(hidden) and head.dtype == dtype
    if not wanted:
        of_head = None
    elif narrow:
        of_head = torch.zeros_like(weight)
    else:
        of_head = torch.zeros(weight.shape, dtype=torch.float32)
    del buffer
    return of_hidden, of_head


def _shifts(hidden: Tensor) -> Tensor:
    return torch.zeros(len(hidden), 2)


def _dtype(hidden: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype


def _pays(hidden: Tensor, weight: Tensor) -> bool:
    """As product.pays on a GPU of Hopper's kind."""
    return weight.dtype == torch.bfloat16 and hidden.shape[1] % 8 == 0


def _buffer(hidden: Tensor, weight: Tensor, chunk_bytes: int) -> Tensor:
    row = _stride(len(weight))
    return torch.zeros(_chunk(len(hidden), row * weight.dtype.itemsize, chunk_bytes), row, dtype=weight.dtype)


def _chunk(n: int, bytes_a_token: int, budget: int) -> int:
    """Tokens of the largest slice that chunks.chunks makes."""
    fit = max(1, budget // bytes_a_token)
    if n <= fit:
        return n
    even = -(-n // -(-n // fit))
    sizes = [-(-even // alignment) * alignment for alignment in (64, 16)]
    return min(next((size for size in sizes if size <= fit), max(fit // 16, 1) * 16), n)


def _stride(vocabulary: int) -> int:
    return -(-vocabulary // PADDING) * PADDING


def _partial_bytes(weight: Tensor) -> int:
    tiles = -(-len(weight) // TILE)
    return 12 * (-(-tiles // 16) * 16)
