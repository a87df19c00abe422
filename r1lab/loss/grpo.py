"""The loss of group relative policy optimisation and its variants."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from r1lab.loss.aggregate import AGGREGATES, token_mean
from r1lab.loss.clip import check_clip, clipped_surrogate
from r1lab.loss.kl import KL_ESTIMATORS, PLACEMENTS, is_clamped, k3
from r1lab.loss.logprob import CHUNK_BYTES, check_head, check_linear, linear_logprob
from r1lab.loss.ratio import LEVELS, importance_ratio


class LossOutput(NamedTuple):
    """`loss` scalar with gradient, `metrics` scalars without: all of them shares that add up over microbatches."""

    loss: Tensor
    metrics: dict[str, Tensor]


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    completion_mask: Tensor,
    entropy: Tensor | None,
    *,
    sequences: int,
    tokens: int,
    max_length: int,
    epsilon_low: float,
    epsilon_high: float,
    ratio_cap: float | None,
    ratio_level: str,
    beta: float,
    kl: str,
    kl_placement: str,
    aggregate: str,
    entropy_coef: float,
) -> LossOutput:
    """This microbatch's share of the minibatch loss: -aggregate(clipped objective - beta KL) - entropy_coef entropy.

    logprobs, old_logprobs, ref_logprobs, entropy [b, T] in nats; advantages [b], the same for all tokens of a row, or
    [b, T]; completion_mask bool [b, T].
    `sequences`, `tokens`, `max_length` are those of the whole minibatch over all microbatches and ranks (see
    aggregate.py). DeepSeekMath (arXiv 2402.03300) eq. 3; DeepSeek-R1 (arXiv 2501.12948) eq. 1-3.

    The KL term goes through the same aggregate as the policy term, and enters only with `kl_placement="loss"`; its
    ratio (for ratio_k3) is that of `ratio_level`, before clip and cap. The entropy bonus is a mean over tokens under
    every aggregate. Nothing at a masked token changes the value or the gradient, NaN included.

    Metrics (all means over counted tokens but the three parts of the loss): `policy_loss`, and `kl_loss` and
    `entropy_loss` where they enter; `kl` (k3) and `kl_clamp_fraction` (share of tokens whose KL is clamped, see
    `r1lab.loss.kl`) where ref_logprobs are given, `entropy` where given, `ratio_mean`, `clip_fraction_low`,
    `clip_fraction_high`, `clip_fraction`.

    Raises ValueError for shapes that do not match, unknown names, a KL term without ref_logprobs, or an entropy
    bonus without entropy.
    """
    if advantages.shape == logprobs.shape[:1]:
        advantages = advantages[:, None].expand_as(logprobs)
    check_shapes(
        logprobs,
        old_logprobs=old_logprobs,
        ref_logprobs=ref_logprobs,
        advantages=advantages,
        completion_mask=completion_mask,
        entropy=entropy,
    )
    _check_options(
        ref_logprobs is not None,
        epsilon_low=epsilon_low,
        epsilon_high=epsilon_high,
        ratio_cap=ratio_cap,
        ratio_level=ratio_level,
        beta=beta,
        kl=kl,
        kl_placement=kl_placement,
        aggregate=aggregate,
    )
    size = {"sequences": sequences, "tokens": tokens, "max_length": max_length}
    reduce = AGGREGATES[aggregate]

    logprobs, old_logprobs, ref_logprobs, advantages, entropy = (
        None if values is None else torch.where(completion_mask, values, 0.0)
        for values in (logprobs, old_logprobs, ref_logprobs, advantages, entropy)
    )
    ratio = importance_ratio(logprobs, old_logprobs, completion_mask, level=ratio_level)
    objective, clipped_low, clipped_high = clipped_surrogate(
        ratio, advantages, epsilon_low=epsilon_low, epsilon_high=epsilon_high, ratio_cap=ratio_cap
    )
    parts = {"policy_loss": -reduce(objective, completion_mask, **size)}
    if kl_placement == "loss" and beta != 0:
        estimate = KL_ESTIMATORS[kl](logprobs, ref_logprobs.detach(), ratio)
        parts["kl_loss"] = beta * reduce(estimate, completion_mask, **size)
    if entropy_coef != 0:
        if entropy is None:
            raise ValueError(f"entropy_coef {entropy_coef} needs the entropy")
        parts["entropy_loss"] = -entropy_coef * token_mean(entropy, completion_mask, **size)

    measured = {
        "ratio_mean": ratio,
        "clip_fraction_low": clipped_low,
        "clip_fraction_high": clipped_high,
        "clip_fraction": clipped_low | clipped_high,
    }
    if ref_logprobs is not None:
        measured["kl"] = k3(logprobs.detach(), ref_logprobs.detach())
        measured["kl_clamp_fraction"] = is_clamped(
            logprobs.detach(), ref_logprobs.detach(), ratio.detach() if kl == "ratio_k3" else None
        )
    if entropy is not None:
        measured["entropy"] = entropy
    metrics = {name: part.detach() for name, part in parts.items()}
    for name, values in measured.items():
        metrics[name] = token_mean(values.detach().to(logprobs.dtype), completion_mask, **size)
    return LossOutput(sum(parts.values()), metrics)


def linear_grpo_loss(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    temperature: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
    reference: tuple[Tensor, Tensor, Tensor | None] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    sequences: int,
    tokens: int,
    max_length: int,
    epsilon_low: float,
    epsilon_high: float,
    ratio_cap: float | None,
    ratio_level: str,
    beta: float,
    kl: str,
    kl_placement: str,
    aggregate: str,
    entropy_coef: float,
) -> LossOutput:
    """`grpo_loss` from the hidden states: hidden [N, H] and ids [N] of the tokens that completion_mask [b, T] counts,
    in its order; head [V, H], bias [V].

    old_logprobs [b, T], or None for those of the hidden states themselves: on policy, ratio 1 with a gradient.
    reference: instead of ref_logprobs, the reference's hidden states [N, H'], head [V, H'] and bias, without gradient.
    The head's arguments are those of `linear_logprob`, the others those of `grpo_loss`; entropy is always a metric.

    Raises ValueError as these two do, and for hidden states that are not as many as the ids or as the mask counts.
    """
    options = {"temperature": temperature, "softcap": softcap, "chunk_bytes": chunk_bytes}
    loss = {
        "epsilon_low": epsilon_low,
        "epsilon_high": epsilon_high,
        "ratio_cap": ratio_cap,
        "ratio_level": ratio_level,
        "beta": beta,
        "kl": kl,
        "kl_placement": kl_placement,
        "aggregate": aggregate,
    }
    tensors = (old_logprobs, ref_logprobs, advantages, completion_mask)
    check_linear_grpo_loss(hidden, head, ids, bias, *tensors, reference, **options, **loss)
    if int(completion_mask.sum()) != len(hidden):
        raise ValueError(f"completion_mask counts {int(completion_mask.sum())} tokens, and hidden has {len(hidden)}")

    def placed(values: Tensor) -> Tensor:
        return values.new_zeros(completion_mask.shape).masked_scatter(completion_mask, values)

    if reference is not None:
        ref_hidden, ref_head, ref_bias = reference
        with torch.no_grad():
            ref_logprobs = placed(linear_logprob(ref_hidden, ref_head, ids, bias=ref_bias, **options)[0])
    kind = "gradient" if entropy_coef != 0 else "value"
    logprobs, entropy = (placed(x) for x in linear_logprob(hidden, head, ids, bias=bias, entropy=kind, **options))
    if old_logprobs is None:
        old_logprobs = logprobs.detach()
    tensors = (logprobs, old_logprobs, ref_logprobs, advantages, completion_mask, entropy)
    size = {"sequences": sequences, "tokens": tokens, "max_length": max_length}
    return grpo_loss(*tensors, entropy_coef=entropy_coef, **size, **loss)


def check_linear_grpo_loss(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    completion_mask: Tensor,
    reference: tuple[Tensor, Tensor, Tensor | None] | None,
    *,
    temperature: float,
    softcap: float | None,
    chunk_bytes: int,
    **loss: Any,
) -> None:
    """Raises ValueError for what `linear_grpo_loss` refuses; `loss`: names and numbers of `grpo_loss`."""
    check_head(temperature, softcap, "none", chunk_bytes)
    _check_options(ref_logprobs is not None or reference is not None, **loss)
    shape = list(completion_mask.shape)
    if completion_mask.dtype != torch.bool or len(shape) != 2:
        raise ValueError(f"completion_mask must be bool [b, T], got {completion_mask.dtype} {shape}")
    for name, values in {"old_logprobs": old_logprobs, "ref_logprobs": ref_logprobs}.items():
        if values is not None and list(values.shape) != shape:
            raise ValueError(f"{name} must be {shape} like completion_mask, got {list(values.shape)}")
    if list(advantages.shape) not in (shape[:1], shape):
        raise ValueError(f"advantages must be {shape[:1]} or {shape}, got {list(advantages.shape)}")
    if ids.shape != hidden.shape[:1]:
        raise ValueError(f"ids must be {list(hidden.shape[:1])} like hidden, got {list(ids.shape)}")
    check_linear(hidden, head, ids, bias)
    if reference is not None and (ref_logprobs is not None or reference[0].shape[0] != len(ids)):
        raise ValueError("reference takes the place of ref_logprobs, and has a hidden state for each id")
    if reference is not None:
        check_linear(reference[0], reference[1], ids, reference[2], "reference's ")


def _check_options(
    has_reference: bool,
    *,
    epsilon_low: float,
    epsilon_high: float,
    ratio_cap: float | None,
    ratio_level: str,
    beta: float,
    kl: str,
    kl_placement: str,
    aggregate: str,
) -> None:
    check_clip(epsilon_low, epsilon_high, ratio_cap)
    choices = {
        "kl": (kl, KL_ESTIMATORS),
        "kl_placement": (kl_placement, PLACEMENTS),
        "aggregate": (aggregate, AGGREGATES),
        "ratio level": (ratio_level, LEVELS),
    }
    for argument, (name, known) in choices.items():
        if name not in known:
            raise ValueError(f"{argument} {name!r} is not one of {', '.join(known)}")
    if kl_placement == "loss" and beta != 0 and not has_reference:
        raise ValueError(f"beta {beta} with the KL in the loss needs ref_logprobs: set a reference, or beta to 0")


def check_shapes(logprobs: Tensor, *, completion_mask: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError where a tensor is not [b, T] like logprobs; [b, 1] would broadcast to plausible nonsense."""
    if logprobs.ndim != 2:
        raise ValueError(f"logprobs must be [b, T], got {list(logprobs.shape)}")
    for name, values in {"completion_mask": completion_mask, **others}.items():
        if values is not None and values.shape != logprobs.shape:
            raise ValueError(f"{name} must be {list(logprobs.shape)} like logprobs, got {list(values.shape)}")
    if completion_mask.dtype != torch.bool:
        raise ValueError(f"completion_mask must be bool, got {completion_mask.dtype}")
