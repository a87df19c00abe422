"""Advantage of a token: generalised advantage estimation from rewards and a value model, and its whitening."""

import torch
from torch import Tensor


def gae_advantages(
    rewards: Tensor, values: Tensor, completion_mask: Tensor, *, gamma: float, gae_lambda: float, whiten: bool
) -> tuple[Tensor, Tensor]:
    """`gae` with its advantages whitened where asked; the returns, which the value model learns, never are."""
    advantages, returns = gae(rewards, values, completion_mask, gamma=gamma, gae_lambda=gae_lambda)
    return (whitened(advantages, completion_mask) if whiten else advantages), returns


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, completion_mask: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """rewards, values [B, T], completion_mask bool [B, T] -> (advantages [B, T], returns [B, T]), in units of reward.

    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma gae_lambda A_{t+1},  return_t = A_t + V_t: Schulman et
    al. 2015 (arXiv 1506.02438) eq. 11-16. V_t is the value before token t, r_t the reward after it, and behind the last
    counted token both V and A are 0: a completion is a whole episode, also one that its length ended.
    gae_lambda 1: discounted rewards to come less the value; 0: the TD error delta.
    Masked tokens are passed over, whatever stands there, and get 0.

    Raises ValueError for shapes that differ, a mask that is not bool, or gamma or gae_lambda outside [0, 1].
    """
    _check(rewards, values, completion_mask, gamma, gae_lambda)
    advantages = torch.zeros_like(values)
    next_value, next_advantage = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        counted, value = completion_mask[:, t], values[:, t]
        delta = rewards[:, t] + gamma * next_value - value
        next_advantage = torch.where(counted, delta + gamma * gae_lambda * next_advantage, next_advantage)
        next_value = torch.where(counted, value, next_value)
        advantages[:, t] = torch.where(counted, next_advantage, 0.0)
    return advantages, torch.where(completion_mask, advantages + values, 0.0)


def whitened(advantages: Tensor, completion_mask: Tensor) -> Tensor:
    """advantages [B, T], completion_mask bool [B, T] -> mean 0 and std 1 over the counted tokens, 0 elsewhere.

    The std divides by the number of tokens. Counted advantages that are all the same, or none, become 0.
    """
    counted = advantages[completion_mask]
    if counted.numel() == 0 or bool((counted == counted[0]).all()):
        return torch.zeros_like(advantages)
    # Over the power of 2 below the largest, which changes no digit: squares of large advantages would overflow.
    unit = torch.exp2(counted.abs().amax().log2().floor())
    counted = counted / unit
    scaled = (advantages / unit - counted.mean()) / counted.std(correction=0)
    return torch.where(completion_mask, scaled, 0.0)


def _check(rewards: Tensor, values: Tensor, completion_mask: Tensor, gamma: float, gae_lambda: float) -> None:
    if values.ndim != 2 or not rewards.shape == values.shape == completion_mask.shape:
        shapes = ", ".join(str(list(x.shape)) for x in (rewards, values, completion_mask))
        raise ValueError(f"rewards, values and completion_mask must all be [B, T], got {shapes}")
    if completion_mask.dtype != torch.bool:
        raise ValueError(f"completion_mask must be bool, got {completion_mask.dtype}")
    for name, number in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0 <= number <= 1:
            raise ValueError(f"advantage.{name} must be from 0 to 1, got {number}")
