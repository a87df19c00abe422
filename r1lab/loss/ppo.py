"""The loss of proximal policy optimisation: the clipped policy loss with an advantage a token, and the value loss."""

import torch
from torch import Tensor

from r1lab.loss.aggregate import token_mean
from r1lab.loss.grpo import LossOutput, check_shapes, grpo_loss

VALUE_OPTIONS = ("value_clip", "value_coef")  # of `ppo_loss`, beside those of `grpo_loss`


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    completion_mask: Tensor,
    entropy: Tensor | None,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    sequences: int,
    tokens: int,
    max_length: int,
    value_clip: float | None,
    value_coef: float,
    **policy_options: float | str | None,
) -> LossOutput:
    """This microbatch's share of the minibatch loss: the policy's (`grpo_loss`) + value_coef * `value_loss`.

    PPO (arXiv 1707.06347) eq. 9. advantages [b, T]; values with gradient, old_values (before the update), returns
    [b, T], in units of reward. The others, `policy_options` and what is raised are those of `grpo_loss`.
    Like the entropy bonus, the value loss is a mean over tokens under every aggregate.

    Metrics, beside those of `grpo_loss`: `value_loss`, the part of the loss, value_coef included, and
    `value_clip_fraction`, the share of counted tokens where the clip takes the value's gradient.
    """
    own = {"advantages": advantages, "values": values, "old_values": old_values, "returns": returns}
    check_shapes(logprobs, completion_mask=completion_mask, **own)
    size = {"sequences": sequences, "tokens": tokens, "max_length": max_length}
    policy = grpo_loss(
        logprobs, old_logprobs, ref_logprobs, advantages, completion_mask, entropy, **size, **policy_options
    )
    tensors = (values, old_values, returns, completion_mask)
    value = value_share(*tensors, tokens=tokens, value_clip=value_clip, value_coef=value_coef)
    return LossOutput(policy.loss + value.loss, policy.metrics | value.metrics)


def value_share(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    completion_mask: Tensor,
    *,
    tokens: int,
    value_clip: float | None,
    value_coef: float,
) -> LossOutput:
    """What `ppo_loss` adds to the policy's share of the minibatch loss, and its metrics."""
    size = {"sequences": len(values), "tokens": tokens, "max_length": 1}
    values, old_values, returns = (torch.where(completion_mask, x, 0.0) for x in (values, old_values, returns))
    errors, clipped = value_loss(values, old_values.detach(), returns.detach(), value_clip=value_clip)
    loss = value_coef * token_mean(errors, completion_mask, **size)
    fraction = token_mean(clipped.to(values.dtype), completion_mask, **size)
    metrics = {"value_loss": loss.detach(), "value_clip_fraction": fraction}
    return LossOutput(loss, metrics)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, value_clip: float | None
) -> tuple[Tensor, Tensor]:
    """values, old_values, returns [b, T] -> (loss [b, T], clipped bool [b, T]); no value_clip: the plain squared error.

    max((V - R)^2, (V_old + clip(V - V_old, -value_clip, value_clip) - R)^2) / 2: PPO2 of OpenAI's baselines, described
    in "The 37 implementation details of PPO" (iclr-blog-track.github.io/2022/03/25), detail 9. The flag says where the
    clipped error is the larger one: there, and only there, the gradient is zero although the error is not.

    Raises ValueError for a value_clip that is not positive.
    """
    if value_clip is not None and value_clip <= 0:
        raise ValueError(f"loss.value_clip must be above 0, or null for no clip, got {value_clip}")
    errors = (values - returns).square()
    if value_clip is None:
        return errors / 2, torch.zeros_like(errors, dtype=torch.bool)
    near = old_values + (values - old_values).clamp(-value_clip, value_clip)
    clipped_errors = (near - returns).square()
    # Rounding of old + (new - old) must not pass for a clip.
    clipped = ((values - old_values).abs() > value_clip) & (clipped_errors > errors)
    return torch.where(clipped, clipped_errors, errors) / 2, clipped


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over counted tokens [N]: 1 is a perfect value model, 0 a constant.

    NaN where the returns do not vary. Below 0 the values do worse than a constant.
    """
    spread = returns.var(correction=0)
    return torch.where(spread > 0, 1 - (returns - values).var(correction=0) / spread, torch.nan)
