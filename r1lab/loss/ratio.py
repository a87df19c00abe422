"""How much likelier the trained policy makes what the old policy sampled."""

import math

import torch
from torch import Tensor

LEVELS = ("token", "sequence")
LARGEST = 80.0  # log-ratio in nats: above it a ratio is clamped, so that its exponential does not overflow float32


def largest_log_ratio(dtype: torch.dtype) -> float:
    """Return the log-ratio in nats at which ratios of a dtype are clamped: `LARGEST`, or 10 in float16.

    Derivatives may be a few times the ratio, and do not overflow either.
    """
    return min(LARGEST, math.floor(math.log(torch.finfo(dtype).max)) - 1)


def largest_ratio(dtype: torch.dtype) -> float:
    """Return what products of ratios are clamped at: a rounding above the largest ratio of the dtype."""
    return math.exp(largest_log_ratio(dtype) + 0.05)


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, completion_mask: Tensor, *, level: str) -> Tensor:
    """logprobs, old_logprobs [B, T], completion_mask bool [B, T] -> ratio [B, T], with gradient to `logprobs` only.

    level "token": exp(logprobs - old_logprobs), 1 at masked tokens (DeepSeekMath, arXiv 2402.03300, eq. 3).
    level "sequence": exp of the mean log ratio over the counted tokens of the row, the same at each of its tokens
    (GSPO, arXiv 2507.18071, eq. 7); 1 in a row with nothing counted.
    On policy (old_logprobs equal to logprobs) the value is 1, and the gradient is that of the log-probability.

    Raises ValueError for an unknown level.
    """
    # Masked, and clamped below the overflow, before the exponential: inf * 0 would put NaN into the gradient.
    log_ratio = torch.where(completion_mask, logprobs - old_logprobs.detach(), 0.0)
    log_ratio = log_ratio.clamp(max=largest_log_ratio(log_ratio.dtype))
    if level == "token":
        return log_ratio.exp()
    if level == "sequence":
        counted = completion_mask.sum(dim=1, keepdim=True).clamp(min=1)
        return (log_ratio.sum(dim=1, keepdim=True) / counted).exp().expand_as(log_ratio)
    raise ValueError(f"ratio level {level!r} is not one of {', '.join(LEVELS)}")
