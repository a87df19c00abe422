"""Advantage of a completion: its reward relative to the other completions of the same prompt."""

import torch
from torch import Tensor

SCALES = ("std", "batch_std", "none")


def group_advantages(rewards: Tensor, *, scale: str, ddof: int, eps: float) -> Tensor:
    """Rewards [P, G] -> advantages [P, G], in units of `scale`; every group sums to zero.

    A = (r - mean of its group) / (std + eps), DeepSeekMath (arXiv 2402.03300) section 4.1.2, where std is that of
    the group (`scale="std"`), of all P * G rewards (`"batch_std"`), or absent (`"none"`: Dr. GRPO, arXiv 2503.20783).
    `ddof` is 0 (divide by n) or 1 (by n - 1, as TRL does); the papers do not say which.
    A group whose rewards are all the same gets exactly 0.

    Raises ValueError for rewards that are not [P, G], an unknown scale, or a std of n <= ddof or of single rewards.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [P, G], got shape {tuple(rewards.shape)}")
    if scale not in SCALES:
        raise ValueError(f"advantage scale {scale!r} is not one of {', '.join(SCALES)}")
    rewards = rewards if rewards.is_floating_point() else rewards.float()
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale == "std":
        centred = centred / (_std(rewards, ddof=ddof, dim=1) + eps)
    elif scale == "batch_std":
        centred = centred / (_std(rewards, ddof=ddof, dim=(0, 1)) + eps)
    # Not left to the arithmetic: rounding of the mean, divided by a std of rounding errors, is of order one.
    return torch.where(zero_std_groups(rewards)[:, None], 0.0, centred)


def zero_std_groups(rewards: Tensor) -> Tensor:
    """Rewards [P, G] -> bool [P]: True where all completions of a prompt got the same reward, so nothing is learnt."""
    return (rewards == rewards[:, :1]).all(dim=1)


def _std(rewards: Tensor, *, ddof: int, dim: int | tuple[int, int]) -> Tensor:
    count = rewards.shape[1] if dim == 1 else rewards.numel()
    if count <= max(ddof, 1):
        raise ValueError(
            f"a standard deviation with ddof {ddof} needs more than {max(ddof, 1)} rewards, got {count}: "
            "raise group_size, or set the advantage scale to none"
        )
    # Over the power of 2 below the largest reward, which changes no digit: squares of large rewards would overflow.
    unit = torch.exp2(rewards.abs().amax(dim, keepdim=True).log2().floor())
    unit = torch.where(unit > 0, unit, 1.0)
    return (rewards / unit).std(dim=dim, correction=ddof, keepdim=True) * unit
