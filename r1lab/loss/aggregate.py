"""Per-token values -> scalar, as a share that does not depend on how the minibatch is split.

Each aggregate takes values [b, T] and completion_mask bool [b, T] of one microbatch, and the size of the whole
minibatch: `sequences` rows, `tokens` counted tokens, `max_length` tokens a row at most. It returns this microbatch's
share; the shares of all microbatches and ranks add up to the aggregate over the minibatch. A value under the mask
may be NaN or infinite: it changes neither the value nor the gradient.

Sums are in float32 at least, and finite where the aggregate is: see `scaled_sum`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def sequence_mean(values: Tensor, completion_mask: Tensor, *, sequences: int, tokens: int, max_length: int) -> Tensor:
    """Mean over rows of each row's mean over its counted tokens: DeepSeekMath (arXiv 2402.03300) eq. 3.

    A row with nothing counted adds 0 and still counts in `sequences`.
    """
    values = _masked(values, completion_mask)
    unit = power_of_two(values.shape[1])
    rows = scaled_sum(values, unit, dim=1) / (completion_mask.sum(dim=1).clamp(min=1) / unit)
    return _over(rows, sequences)


def token_mean(values: Tensor, completion_mask: Tensor, *, sequences: int, tokens: int, max_length: int) -> Tensor:
    """Mean over all counted tokens of the minibatch: DAPO (arXiv 2503.14476) eq. 8. 0 when nothing is counted."""
    return _over(_masked(values, completion_mask), max(tokens, 1))


def constant_length(values: Tensor, completion_mask: Tensor, *, sequences: int, tokens: int, max_length: int) -> Tensor:
    """Sum over counted tokens over sequences * max_length: Dr. GRPO (arXiv 2503.20783), no length in the weights."""
    return _over(_masked(values, completion_mask), sequences * max_length)


def power_of_two(count: int) -> float:
    """Return the smallest power of two that is larger than `count`."""
    return math.ldexp(1.0, math.frexp(count)[1])


def scaled_sum(values: Tensor, unit: float, dim: int | None = None) -> Tensor:
    """Sum of values / unit, in float32 at least.

    A sum of large values overflows where their mean does not: 8,000 tokens of k3 at its clamp exceed float32. A unit
    that is a power of two changes no digit.
    """
    return (wide(values) / unit).sum(dim=dim)


def wide(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _over(values: Tensor, count: int) -> Tensor:
    """Sum of the values over `count`."""
    unit = power_of_two(count)
    return scaled_sum(values, unit) / (count / unit)


def _masked(values: Tensor, completion_mask: Tensor) -> Tensor:
    return torch.where(completion_mask, values, 0.0)


AGGREGATES: dict[str, Callable[..., Tensor]] = {
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "constant_length": constant_length,
}
