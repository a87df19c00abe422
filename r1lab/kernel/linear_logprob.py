"""Hidden states -> per-token logprob, entropy and argmax hit, without the [N, V] logits."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from r1lab.kernel.chunks import Gradients, Head, backward_pass, forward_pass, scaled
from r1lab.kernel.rows import Rows, gradient, statistics

CHUNK_BYTES = 1 << 30


class Statistics(NamedTuple):
    """Of each token: logprob of its id, entropy (float32 [N], nats), and whether its id is the argmax (bool [N])."""

    logprob: Tensor
    entropy: Tensor
    hit: Tensor


@torch.compiler.disable
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
    """`r1lab.loss.logprob.linear_logprob`, with logits in the hidden states' dtype (autocast's where it is on).

    hidden [N, H], head [V, H], bias [V], ids int64 [N] -> (logprob float32 [N], entropy float32 [N] or None).
    2NHV FLOP forward and 6NHV backward, which makes the logits anew; chunks.py says what is allocated. Sums are in
    float32; the logits are rounded to their dtype once, as a model that returns logits does.

    Raises ValueError for a temperature, soft cap or chunk_bytes that is not positive, or an unknown choice of entropy.
    """
    _check(temperature, softcap, chunk_bytes)
    if entropy not in ("none", "value", "gradient"):
        raise ValueError(f"entropy must be none, value or gradient, got {entropy!r}")
    options = (temperature, softcap, chunk_bytes, entropy != "none")
    logprob, entropies = _LinearLogprob.apply(hidden, head, bias, ids, options)
    if entropy == "none":
        return logprob, None
    return logprob, entropies if entropy == "gradient" else entropies.detach()


@torch.compiler.disable
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
    """Forward only, for old and reference logprobs and evaluation: 2NHV FLOP, the logits written and read once."""
    _check(temperature, softcap, chunk_bytes)
    made = Head.of(hidden, head, bias, temperature, softcap)
    with torch.autocast(hidden.device.type, enabled=False):
        rows = forward_pass(hidden, made, ids.contiguous(), chunk_bytes, entropy=True, hit=True)
    return Statistics(rows.logprob, rows.entropy, rows.hit)


@torch.compiler.disable
def logprob(
    logits: Tensor,
    ids: Tensor,
    *,
    temperature: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
    entropy: Literal["none", "value", "gradient"] = "none",
) -> tuple[Tensor, Tensor | None]:
    """`linear_logprob` of logits [N, V] that already exist: one read; backward one read and one write of [N, V]."""
    _check(temperature, softcap, 1)
    if entropy not in ("none", "value", "gradient"):
        raise ValueError(f"entropy must be none, value or gradient, got {entropy!r}")
    logprobs, entropies = _Logprob.apply(logits, ids, bias, temperature, softcap)
    if entropy == "none":
        return logprobs, None
    return logprobs, entropies if entropy == "gradient" else entropies.detach()


def _check(temperature: float, softcap: float | None, chunk_bytes: int) -> None:
    for name, value in (("temperature", temperature), ("softcap", softcap), ("chunk_bytes", chunk_bytes)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def _contiguous(gradient: Tensor | None, like: Tensor | None) -> Tensor | None:
    """An incoming gradient in float32; zeros like the other where there is none, or None."""
    if gradient is None:
        return None if like is None else torch.zeros_like(like)
    return gradient.float().contiguous()


class _LinearLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, bias, ids, options):
        temperature, softcap, chunk_bytes, entropy = options
        ctx.set_materialize_grads(False)
        ids = ids.contiguous()
        made = Head.of(hidden, head, bias, temperature, softcap)
        with torch.autocast(hidden.device.type, enabled=False):
            rows = forward_pass(hidden, made, ids, chunk_bytes, entropy=entropy)
        ctx.save_for_backward(hidden, head, bias, ids, rows.log_normaliser, rows.entropy)
        ctx.options = made.weight.dtype, temperature, softcap, chunk_bytes
        return rows.logprob, rows.entropy

    @staticmethod
    def backward(ctx, of_logprob, of_entropy):
        nothing = (None,) * 5
        if of_logprob is None and of_entropy is None:
            return nothing
        hidden, head, bias, ids, log_normaliser, entropy = ctx.saved_tensors
        dtype, temperature, softcap, chunk_bytes = ctx.options
        with torch.autocast(hidden.device.type, enabled=False):
            found = backward_pass(
                hidden,
                Head(head.to(dtype), bias, temperature, softcap, head.dtype == torch.float32),
                ids,
                log_normaliser,
                entropy,
                _contiguous(of_logprob, entropy),
                _contiguous(of_entropy, None),
                chunk_bytes,
                wanted=ctx.needs_input_grad[:3],
            )
        return (*in_dtypes(found, hidden, head, bias, torch.ones((), device=hidden.device)), *nothing[3:])


def in_dtypes(found: Gradients, hidden: Tensor, head: Tensor, bias: Tensor | None, factor: Tensor) -> Gradients:
    """The gradients times a number on the device, each in its input's dtype."""
    return Gradients(
        *(
            None if gradient is None else scaled(gradient, factor, source.dtype)
            for gradient, source in zip(found, (hidden, head, bias), strict=True)
        )
    )


class _Logprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, ids, bias, temperature, softcap):
        ctx.set_materialize_grads(False)
        rows = Rows.empty(len(logits), logits.device)
        statistics(logits, ids, bias, rows, temperature=temperature, softcap=softcap)
        ctx.save_for_backward(logits, ids, bias, rows.log_normaliser, rows.entropy)
        ctx.options = temperature, softcap
        return rows.logprob, rows.entropy

    @staticmethod
    def backward(ctx, of_logprob, of_entropy):
        if of_logprob is None and of_entropy is None:
            return (None,) * 5
        logits, ids, bias, log_normaliser, entropy = ctx.saved_tensors
        temperature, softcap = ctx.options
        out = logits.clone()
        given = (log_normaliser, entropy, _contiguous(of_logprob, entropy), _contiguous(of_entropy, entropy))
        gradient(out, ids, bias, *given, temperature=temperature, softcap=softcap)
        of_bias = out.float().sum(0).to(bias.dtype) if ctx.needs_input_grad[2] else None
        return out if ctx.needs_input_grad[0] else None, None, of_bias, None, None
