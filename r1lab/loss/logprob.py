"""Log-probability of given tokens under a linear output head, or under logits: the definitions."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 256 << 20
# Of temperatures: below, logits / temperature overflow or have nothing but rounding; above, all tokens are as likely.
LEAST_TEMPERATURE, LARGEST_TEMPERATURE = 1e-3, 1e3
LARGEST_SCALE = 1e3  # of a model's own logits, by which a head multiplies the temperature of a setting


class Statistics(NamedTuple):
    """Of each token: logprob of its id, entropy ([N], nats), and whether its id is the argmax (bool [N])."""

    logprob: Tensor
    entropy: Tensor
    hit: Tensor


def linear_logprob(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    *,
    temperature: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
    entropy: Literal["none", "value", "gradient"] = "none",
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor | None]:
    """hidden [N, H], head [V, H], bias [V], ids int64 [N] or [N, K] -> (logprob like ids, entropy [N] or None), nats.

    logprob = z[ids] - logsumexp(z) with z = cap(hidden head^T + bias) / temperature, where cap(x) = softcap
    tanh(x / softcap) (Gemma 2, arXiv 2408.00118, section 2.4), and entropy = logsumexp(z) - sum_v p_v z_v, both of the
    distribution at that temperature. Computed and returned in float32 (float64 for float64 inputs).
    `entropy`: none; its value, detached, for a metric; or with its gradient, for a bonus.

    The logits of as many tokens at a time as fit in `chunk_bytes` are held, a few times over. Where they do not all
    fit, the backward pass computes each chunk's anew instead of keeping it.

    Raises ValueError for a temperature, soft cap or chunk_bytes that is not positive, an unknown choice of entropy, or
    shapes that do not fit.
    """
    return _in_chunks(hidden, head, ids, bias, temperature, softcap, chunk_bytes, entropy, tail=False)


def linear_buckets(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    *,
    temperature: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """hidden [N, H], head [V, H], bias [V], ids int64 [N, K] -> logprobs [N, K + 1] of a partition of the vocabulary.

    The first K columns are what `linear_logprob` gives, the last one is the `tail_logprob` of all other tokens
    together. Raises ValueError as `linear_logprob` does.
    """
    return _in_chunks(hidden, head, ids, bias, temperature, softcap, chunk_bytes, "none", tail=True)[0]


def _in_chunks(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    chunk_bytes: int,
    entropy: str,
    *,
    tail: bool,
) -> tuple[Tensor, Tensor | None]:
    check_head(temperature, softcap, entropy, chunk_bytes)
    check_linear(hidden, head, ids, bias)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    head, bias = head.to(dtype), None if bias is None else bias.to(dtype)
    rows = _rows(head, chunk_bytes)
    if len(hidden) <= rows:
        return _logprob(hidden, head, ids, bias, temperature, softcap, entropy, tail)

    def part(*tensors: Tensor) -> tuple[Tensor, Tensor | None]:
        arguments = (*tensors, bias, temperature, softcap, entropy, tail)
        if not torch.is_grad_enabled():
            return _logprob(*arguments)
        return checkpoint(_logprob, *arguments, use_reentrant=False, preserve_rng_state=False)

    parts = [part(h, head, i) for h, i in zip(hidden.split(rows), ids.split(rows), strict=True)]
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), None if entropy == "none" else torch.cat(entropies)


@torch.no_grad()
def linear_statistics(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    *,
    temperature: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Statistics:
    """What `linear_logprob` finds of each token, without gradient, and whether its id has the largest logit (or one
    of several that are as large). Raises ValueError as `linear_logprob` does.
    """
    check_head(temperature, softcap, "value", chunk_bytes)
    check_linear(hidden, head, ids, bias)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    head, bias = head.to(dtype), None if bias is None else bias.to(dtype)
    rows = _rows(head, chunk_bytes)
    parts = []
    for h, i in zip(hidden.split(rows), ids.split(rows), strict=True):
        z = head_logits(h, head, bias, temperature, softcap)
        hit = z.gather(-1, i[:, None]).squeeze(-1) >= z.amax(-1)
        parts.append((*_of_scaled(z, i, "value"), hit))
    return Statistics(*(torch.cat(values) for values in zip(*parts, strict=True)))


def logprob(
    logits: Tensor,
    ids: Tensor,
    *,
    temperature: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
    entropy: Literal["none", "value", "gradient"] = "none",
) -> tuple[Tensor, Tensor | None]:
    """`linear_logprob` of logits [N, V] that already exist, hidden head^T, all at once."""
    check_head(temperature, softcap, entropy, 1)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    bias = None if bias is None else bias.to(dtype)
    return _of_scaled(_scaled(logits.to(dtype), bias, temperature, softcap), ids, entropy)


def tail_logprob(logits: Tensor, ids: Tensor) -> Tensor:
    """logits [N, V], ids int64 [N, K] -> log-probability [N, 1] of all tokens that ids does not name, in nats.

    By logsumexp over the other logits. log(1 - sum of the named tokens' probabilities) is the same number, but has no
    digits left where the sum rounds to 1. Minus infinity where ids names the whole vocabulary.
    """
    log_normaliser = logits.logsumexp(-1, keepdim=True)
    if ids.shape[-1] == logits.shape[-1]:
        return torch.full_like(log_normaliser, -math.inf)
    return logits.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True) - log_normaliser


def check_head(temperature: float, softcap: float | None, entropy: str, chunk_bytes: int) -> None:
    """Raises ValueError for what `linear_logprob` refuses."""
    check_temperature(temperature, scale=LARGEST_SCALE)
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap must be above 0 and finite, got {softcap}")
    check_chunk_bytes(chunk_bytes)
    if entropy not in ("none", "value", "gradient"):
        raise ValueError(f"entropy must be none, value or gradient, got {entropy!r}")


def check_temperature(value: float, name: str = "temperature", *, greedy: bool = False, scale: float = 1.0) -> None:
    """Raise ValueError for what logits cannot be divided by.

    Args:
        greedy: accept 0.
        scale: the accepted range is wider by this factor at both ends.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    least, largest = LEAST_TEMPERATURE / scale, LARGEST_TEMPERATURE * scale
    if is_number and (least <= value <= largest or (greedy and value == 0)):
        return
    accepted = f"from {least:g} to {largest:g}"
    if greedy:
        accepted = f"0 (greedy) or {accepted}"
    elif is_number and not 0 < value < math.inf:
        accepted = "above 0 and finite" if not value <= 0 else "above 0"
    raise ValueError(f"{name} must be {accepted}, got {value}; 1 is the model's own distribution")


def check_chunk_bytes(chunk_bytes: int, name: str = "chunk_bytes") -> None:
    """Raises ValueError for what is no number of bytes."""
    if isinstance(chunk_bytes, bool) or not isinstance(chunk_bytes, int) or chunk_bytes <= 0:
        raise ValueError(f"{name} must be a whole number of bytes above 0, got {chunk_bytes!r}")


def check_linear(hidden: Tensor, head: Tensor, ids: Tensor, bias: Tensor | None, name: str = "") -> None:
    """Raises ValueError for hidden states, a head, ids or a bias that do not fit each other; name: what they are of."""
    if hidden.dim() != 2 or head.dim() != 2 or hidden.shape[1] != head.shape[1] or len(head) == 0:
        raise ValueError(
            f"{name}hidden must be [N, H] and head [V, H], V above 0, got {list(hidden.shape)} and {list(head.shape)}"
        )
    if ids.dtype != torch.int64 or ids.dim() not in (1, 2) or len(ids) != len(hidden):
        raise ValueError(f"{name}ids must be int64 [{len(hidden)}] like hidden, got {ids.dtype} {list(ids.shape)}")
    if bias is not None and list(bias.shape) != [len(head)]:
        raise ValueError(f"{name}bias must be [{len(head)}] like head, got {list(bias.shape)}")


def head_logits(hidden: Tensor, head: Tensor, bias: Tensor | None, temperature: float, softcap: float | None) -> Tensor:
    """What `linear_logprob` calls z: [N, V] in the dtype of the head."""
    return _scaled(hidden.to(head.dtype) @ head.T, bias, temperature, softcap)


def _logprob(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: str,
    tail: bool,
) -> tuple[Tensor, Tensor | None]:
    logits = head_logits(hidden, head, bias, temperature, softcap)
    logprob, bits = _of_scaled(logits, ids, entropy)
    return (torch.cat([logprob, tail_logprob(logits, ids)], -1) if tail else logprob), bits


def _rows(head: Tensor, chunk_bytes: int) -> int:
    """Of logits that fit."""
    return max(1, chunk_bytes // (head.shape[0] * head.dtype.itemsize))


def _scaled(logits: Tensor, bias: Tensor | None, temperature: float, softcap: float | None) -> Tensor:
    """z as `linear_logprob` defines it."""
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits if temperature == 1 else logits / temperature


def _of_scaled(logits: Tensor, ids: Tensor, entropy: str) -> tuple[Tensor, Tensor | None]:
    log_normaliser = logits.logsumexp(dim=-1)
    columns = ids if ids.dim() == 2 else ids[:, None]
    logprob = (logits.gather(-1, columns) - log_normaliser[:, None]).view(ids.shape)
    if entropy == "none":
        return logprob, None
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        probs = (logits - log_normaliser[:, None]).exp()
        # A token that a bias of -inf forbids adds 0, not 0 * inf.
        return logprob, log_normaliser - (probs * torch.where(probs > 0, logits, 0.0)).sum(dim=-1)
