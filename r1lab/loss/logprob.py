"""Log-probability of given tokens under a linear output head: the definition."""

from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 256 << 20


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

    Raises ValueError for a temperature, soft cap or chunk_bytes that is not positive, or an unknown choice of entropy.
    """
    check_head(temperature, softcap, entropy, chunk_bytes)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    head, bias = head.to(dtype), None if bias is None else bias.to(dtype)
    rows = max(1, chunk_bytes // (head.shape[0] * dtype.itemsize))
    if len(hidden) <= rows:
        return _logprob(hidden, head, ids, bias, temperature, softcap, entropy)

    def part(*tensors: Tensor) -> tuple[Tensor, Tensor | None]:
        arguments = (*tensors, bias, temperature, softcap, entropy)
        if not torch.is_grad_enabled():
            return _logprob(*arguments)
        return checkpoint(_logprob, *arguments, use_reentrant=False, preserve_rng_state=False)

    parts = [part(h, head, i) for h, i in zip(hidden.split(rows), ids.split(rows), strict=True)]
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), None if entropy == "none" else torch.cat(entropies)


def check_head(temperature: float, softcap: float | None, entropy: str, chunk_bytes: int) -> None:
    """Raises ValueError for what `linear_logprob` refuses."""
    for name, value in (("temperature", temperature), ("softcap", softcap), ("chunk_bytes", chunk_bytes)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if entropy not in ("none", "value", "gradient"):
        raise ValueError(f"entropy must be none, value or gradient, got {entropy!r}")


def head_logits(hidden: Tensor, head: Tensor, bias: Tensor | None, temperature: float, softcap: float | None) -> Tensor:
    """What `linear_logprob` calls z: [N, V] in the dtype of the head."""
    logits = hidden.to(head.dtype) @ head.T
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits if temperature == 1 else logits / temperature


def _logprob(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: str,
) -> tuple[Tensor, Tensor | None]:
    logits = head_logits(hidden, head, bias, temperature, softcap)
    log_normaliser = logits.logsumexp(dim=-1)
    logprob = (logits.gather(-1, ids.view(len(ids), -1)) - log_normaliser[:, None]).view(ids.shape)
    if entropy == "none":
        return logprob, None
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        probs = (logits - log_normaliser[:, None]).exp()
        # A token that a bias of -inf forbids adds 0, not 0 * inf.
        return logprob, log_normaliser - (probs * torch.where(probs > 0, logits, 0.0)).sum(dim=-1)
