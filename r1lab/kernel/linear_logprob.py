"""Hidden states -> per-token logprob, entropy and argmax hit, without the [N, V] logits."""

from typing import Literal

import torch
from torch import Tensor

from r1lab.kernel.chunks import Gradients, Head, backward_pass, forward_pass, scaled
from r1lab.kernel.rows import Rows, gradient, statistics
from r1lab.loss.logprob import Statistics, check_head, check_linear

CHUNK_BYTES = 1 << 30


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

    An id outside the vocabulary has the logprob NaN: no kernel can raise. Raises ValueError as
    the definition does, and for ids [N, K], which it alone has.
    """
    check_head(temperature, softcap, entropy, chunk_bytes)
    check_tokens(hidden, head, ids, bias)
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
    """`r1lab.loss.logprob.linear_statistics`: 2NHV FLOP, the logits written and read once or not at all.

    Where the logits are not written (see product.py) an id within 1e-5 of the largest is a hit.
    """
    check_head(temperature, softcap, "value", chunk_bytes)
    check_tokens(hidden, head, ids, bias)
    made = Head.of(hidden, head, bias, temperature, softcap)
    with torch.autocast(hidden.device.type, enabled=False):
        rows = forward_pass(hidden.contiguous(), made, ids.contiguous(), chunk_bytes, entropy=True, hit=True)
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
    """`r1lab.loss.logprob.logprob`: logits [N, V] are read once; backward reads them and writes [N, V] once each.

    Logits whose rows are not contiguous are copied.
    """
    check_head(temperature, softcap, entropy, 1)
    check_tokens(logits[:, :0], logits.new_empty(logits.shape[1], 0), ids, bias)
    logprobs, entropies = _Logprob.apply(logits, ids, bias, temperature, softcap)
    if entropy == "none":
        return logprobs, None
    return logprobs, entropies if entropy == "gradient" else entropies.detach()


def check_tokens(hidden: Tensor, head: Tensor, ids: Tensor, bias: Tensor | None, name: str = "") -> None:
    """`check_linear`, and one id a token."""
    check_linear(hidden, head, ids, bias, name)
    if ids.dim() != 1:
        raise ValueError(
            f"{name}ids must be [N] for a kernel, got {list(ids.shape)}: take the definition, kernel=torch"
        )


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
        hidden, ids = hidden.contiguous(), ids.contiguous()
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
                Head.of(hidden, head, bias, temperature, softcap)._replace(weight=head.to(dtype)),
                ids,
                log_normaliser,
                entropy,
                _contiguous(of_logprob, entropy),
                _contiguous(of_entropy, None),
                chunk_bytes,
                wanted=ctx.needs_input_grad[:3],
            )
        return (*in_dtypes(found, dtypes_of(hidden, head, bias), torch.ones((), device=hidden.device)), *nothing[3:])


def dtypes_of(*inputs: Tensor | None) -> list[torch.dtype | None]:
    return [None if x is None else x.dtype for x in inputs]


def in_dtypes(found: Gradients, dtypes: list[torch.dtype | None], factor: Tensor) -> Gradients:
    """The gradients times a number on the device, each in its input's dtype."""
    pairs = zip(found, dtypes, strict=True)
    return Gradients(*(None if gradient is None else scaled(gradient, factor, dtype) for gradient, dtype in pairs))


class _Logprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, ids, bias, temperature, softcap):
        ctx.set_materialize_grads(False)
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        ids, bias = ids.contiguous(), None if bias is None else bias.contiguous()
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
        out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        given = (log_normaliser, entropy, _contiguous(of_logprob, entropy), _contiguous(of_entropy, entropy))
        gradient(logits, ids, bias, *given, temperature=temperature, softcap=softcap, out=out)
        of_bias = out.sum(0, dtype=torch.float32).to(bias.dtype) if ctx.needs_input_grad[2] else None
        return out if ctx.needs_input_grad[0] else None, None, of_bias, None, None
