"""Advantage of a completion: its reward relative to the other completions of the same prompt."""

import math

import torch
from torch import Tensor

SCALES = ("std", "batch_std", "none")


def group_advantages(rewards: Tensor, *, scale: str, ddof: int, eps: float) -> Tensor:
    """Rewards [P, G] -> advantages [P, G], in units of `scale`; every group sums to zero.

    A = (r - mean of its group) / (std + eps), DeepSeekMath (arXiv 2402.03300) section 4.1.2, where std is that of
    the group (`scale="std"`), of all P * G rewards (`"batch_std"`), or absent (`"none"`: Dr. GRPO, arXiv 2503.20783).
    `ddof` is 0 (divide by n) or 1 (by n - 1, as TRL does); the papers do not say which.
    A group whose rewards are all the same gets exactly 0. A reward of NaN is no reward: its completion is left out of
    every mean and std, and its advantage is 0 (as in TRL).

    Raises ValueError for rewards that are not [P, G], an unknown scale, or a std of n <= ddof or of single rewards.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [P, G], got shape {tuple(rewards.shape)}")
    if scale not in SCALES:
        raise ValueError(f"advantage scale {scale!r} is not one of {', '.join(SCALES)}")
    rewards = rewards if rewards.is_floating_point() else rewards.float()
    scored = ~rewards.isnan()
    centred = rewards - torch.where(scored, rewards, 0.0).sum(1, keepdim=True) / scored.sum(1, keepdim=True)
    if scale == "std":
        _check_count(rewards.shape[1], ddof)
        centred = centred / (group_std(rewards, ddof=ddof)[:, None] + eps)
    elif scale == "batch_std":
        _check_count(rewards.numel(), ddof)
        centred = centred / (group_std(rewards.reshape(1, -1), ddof=ddof) + eps)
    # Not left to the arithmetic: rounding of the mean, divided by a std of rounding errors, is of order one.
    return torch.where(scored & ~zero_std_groups(rewards)[:, None], centred, 0.0)


def zero_std_groups(rewards: Tensor) -> Tensor:
    """Rewards [P, G] -> bool [P]: True where all completions of a prompt got the same reward, so nothing is learnt.

    NaN is no reward, and a group with one reward or none is among them.
    """
    scored = ~rewards.isnan()
    return torch.where(scored, rewards, math.inf).amin(1) >= torch.where(scored, rewards, -math.inf).amax(1)


def group_std(rewards: Tensor, *, ddof: int) -> Tensor:
    """Rewards [P, G] -> std [P] of each group's rewards that are not NaN; NaN where there are at most `ddof`."""
    # Over the power of 2 below the largest reward, which changes no digit: squares of large rewards would overflow.
    unit = torch.exp2(rewards.nan_to_num(0.0).abs().amax(1, keepdim=True).log2().floor())
    unit = torch.where(unit > 0, unit, 1.0)
    scaled, scored = rewards / unit, ~rewards.isnan()
    std = scaled.std(1, correction=ddof)
    for group in (~scored.all(1)).nonzero().flatten().tolist():
        own = scaled[group, scored[group]]
        std[group] = own.std(correction=ddof) if len(own) > ddof else math.nan
    return std * unit[:, 0]


def _check_count(count: int, ddof: int) -> None:
    if count <= max(ddof, 1):
        raise ValueError(
            f"advantage.scale: a standard deviation with ddof {ddof} needs more than {max(ddof, 1)} rewards, "
            f"got {count}; raise rollout.group_size"
        )
