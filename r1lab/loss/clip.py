"""The clipped surrogate objective."""

import torch
from torch import Tensor


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, epsilon_low: float, epsilon_high: float, ratio_cap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """ratio [B, T], advantages [B, T] -> (objective [B, T], clipped_low bool [B, T], clipped_high bool [B, T]).

    objective = min(ratio A, clip(ratio, 1 - epsilon_low, 1 + epsilon_high) A), PPO (arXiv 1707.06347) eq. 7, with the
    two ends apart as in DAPO (arXiv 2503.14476) eq. 8. Where A < 0 the ratio is also kept at or below `ratio_cap`
    (dual-clip PPO, arXiv 1912.09729; TRL's `delta`, which agrees for caps of at least 1 + epsilon_high).
    The flags say where a bound binds: there, and only there, the gradient with respect to the ratio is zero although
    A is not. With R1's epsilon of 10 the lower end, -9, can never bind.

    Raises ValueError for a negative epsilon, or a `ratio_cap` of at most 1, which would stop learning from negative
    advantages on policy.
    """
    check_clip(epsilon_low, epsilon_high, ratio_cap)
    negative = advantages < 0
    clipped_low = negative & (ratio < 1 - epsilon_low)
    clipped_high = (advantages > 0) & (ratio > 1 + epsilon_high)
    if ratio_cap is not None:
        clipped_high = clipped_high | (negative & (ratio > ratio_cap))
        ratio = torch.where(negative, ratio.clamp(max=ratio_cap), ratio)
    objective = torch.min(ratio * advantages, ratio.clamp(1 - epsilon_low, 1 + epsilon_high) * advantages)
    return objective, clipped_low, clipped_high


def check_clip(epsilon_low: float, epsilon_high: float, ratio_cap: float | None) -> None:
    """Raises ValueError for what `clipped_surrogate` refuses."""
    if not (epsilon_low >= 0 and epsilon_high >= 0):  # NaN is neither
        raise ValueError(f"epsilon_low and epsilon_high must be at least 0, got {epsilon_low} and {epsilon_high}")
    if ratio_cap is not None and ratio_cap <= 1:
        raise ValueError(f"ratio_cap must be above 1, got {ratio_cap}")
