"""Hidden states -> the GRPO loss, its metrics and its gradients, in the one pass that makes the logits.

The gradient of the loss at a token depends on that token's logprob and on constants, so it is known as soon as the
token's row of logits is read: 6NHV FLOP where a backward pass that makes the logits anew takes 8NHV.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from r1lab.kernel.chunks import Gradients, Head, backward_pass, forward_pass, one_pass
from r1lab.kernel.k3 import ESTIMATORS, estimate, exp_of
from r1lab.kernel.launch import Repeated
from r1lab.kernel.linear_logprob import CHUNK_BYTES, dtypes_of, in_dtypes
from r1lab.kernel.rows import Rows
from r1lab.loss.aggregate import power_of_two
from r1lab.loss.grpo import LossOutput, check_linear_grpo_loss
from r1lab.loss.ratio import LARGEST, largest_ratio

OF_REFERENCE = ("kl", "kl_clamp_fraction")
MEANS = ("entropy", "ratio_mean", "clip_fraction_low", "clip_fraction_high", "clip_fraction", *OF_REFERENCE)
TERMS = ("loss", "policy_loss", "kl_loss", *MEANS)
BLOCK = 256
HELD = tl.constexpr(LARGEST)  # log-ratio
CAP = tl.constexpr(largest_ratio(torch.float32))


@triton.jit(do_not_specialize=["n", "length", "stride", "has_old", "has_ref", "by_row", "by_token"])
def _gather_kernel(
    mask,
    counts,
    old,
    ref,
    advantages,
    place,
    out,
    n,
    length,
    stride,
    divisor,
    has_old,
    has_ref,
    by_row,
    by_token,
    BLOCK: tl.constexpr,
):
    """Of the tokens that a row of [b, T] counts: where they are, old and reference logprobs, advantage and weight.

    by_row: a token's weight is over those of its row; by_token: advantages are [b, T], not [b].
    One program a row. What the rows before it count, as all counts, is read by each.
    """
    row = tl.program_id(0)
    before, all_of_them = 0, 0
    for start in range(0, tl.num_programs(0), BLOCK):
        at = start + tl.arange(0, BLOCK)
        each = tl.load(counts + at, mask=at < tl.num_programs(0), other=0)
        before += tl.sum(tl.where(at < row, each, 0), axis=0).to(tl.int32)
        all_of_them += tl.sum(each, axis=0).to(tl.int32)
    count = tl.load(counts + row).to(tl.float32)
    weight = 1.0 / (tl.where(by_row != 0, tl.maximum(count, 1.0), 1.0) * divisor)
    # Not as many as there are hidden states: nothing here can raise, and no number would be right.
    weight = tl.where(all_of_them == n, weight, float("nan"))
    for start in range(0, length, BLOCK):
        at = start + tl.arange(0, BLOCK)
        flat = row.to(tl.int64) * length + at
        counted = tl.load(mask + flat, mask=at < length, other=0).to(tl.int32)
        to = before + tl.cumsum(counted, axis=0) - counted
        before += tl.sum(counted, axis=0)
        here = (counted != 0) & (to < n)
        tl.store(place + to, flat, mask=here)
        tl.store(out + to, tl.load(old + flat, mask=here & (has_old != 0), other=0.0), mask=here)
        tl.store(out + stride + to, tl.load(ref + flat, mask=here & (has_ref != 0), other=0.0), mask=here)
        advantage = tl.load(advantages + tl.where(by_token != 0, flat, row), mask=here, other=0.0)
        tl.store(out + 2 * stride + to, advantage, mask=here)
        tl.store(out + 3 * stride + to, weight, mask=here)


@triton.jit(do_not_specialize=["n", "stride", "has_old", "which", "has_ref", "token_level"])
def _token_kernel(
    logprob,
    log_ratio,
    old,
    ref_logprob,
    entropy,
    advantage,
    weight,
    by_logprob,
    by_log_ratio,
    terms,
    n,
    stride,
    has_old,
    epsilon_low,
    epsilon_high,
    ratio_cap,
    beta,
    of_entropy,
    which,
    has_ref,
    token_level,
    JOIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    a = tl.load(advantage + at, mask=inside, other=0.0)
    w = tl.load(weight + at, mask=inside, other=0.0)
    apart = tl.load(log_ratio + at, mask=inside, other=0.0)
    apart -= tl.load(old + at, mask=inside & (has_old != 0), other=0.0)
    held = apart > HELD
    ratio = exp_of(tl.where(held, HELD, apart))
    lp = tl.load(logprob + at, mask=inside, other=0.0)
    log_r = tl.load(ref_logprob + at, mask=inside & (has_ref != 0), other=0.0) - tl.where(has_ref != 0, lp, 0.0)

    low = (a < 0) & (ratio < 1 - epsilon_low)
    high = ((a > 0) & (ratio > 1 + epsilon_high)) | ((a < 0) & (ratio > ratio_cap))
    capped = tl.where((a < 0) & (ratio > ratio_cap), ratio_cap, ratio)
    clipped = tl.where(capped < 1 - epsilon_low, 1 - epsilon_low, capped)
    clipped = tl.where(clipped > 1 + epsilon_high, 1 + epsilon_high, clipped)
    plain, bounded = capped * a, clipped * a
    objective = tl.where(bounded < plain, bounded, plain)

    value, slope, ratio_slope, k3, clamped = estimate(log_r, ratio, which, HELD, CAP)
    # Both at once where both are this token's: ratio (1 - r) + ratio (r - 1 - log r), which cancels for large r.
    both = (which == 3) & (token_level != 0) & (held == 0) & (clamped == 0)
    slope = tl.where(both, -ratio * log_r, slope)
    ratio_slope = tl.where(both, 0.0, ratio_slope)
    # 0 times an infinite estimate is no penalty.
    on = beta != 0
    of_logprob = tl.where(on, w * beta * slope, 0.0)
    surrogate = tl.where(low | high, 0.0, -w * a * ratio)
    of_log_ratio = tl.where(held, 0.0, surrogate + tl.where(on, w * beta * ratio_slope * ratio, 0.0))
    if JOIN:
        tl.store(by_logprob + at, of_logprob + of_log_ratio, mask=inside)
    else:
        tl.store(by_logprob + at, of_logprob, mask=inside)
        tl.store(by_log_ratio + at, of_log_ratio, mask=inside)
    policy_loss = -w * objective
    kl_loss = tl.where(on, w * beta * value, 0.0)
    h = tl.load(entropy + at, mask=inside, other=0.0)
    tl.store(terms + at, policy_loss + kl_loss + tl.where(of_entropy != 0, of_entropy * h, 0.0), mask=inside)
    tl.store(terms + stride + at, policy_loss, mask=inside)
    tl.store(terms + 2 * stride + at, kl_loss, mask=inside)
    tl.store(terms + 3 * stride + at, h, mask=inside)
    tl.store(terms + 4 * stride + at, ratio, mask=inside)
    tl.store(terms + 5 * stride + at, low.to(tl.float32), mask=inside)
    tl.store(terms + 6 * stride + at, high.to(tl.float32), mask=inside)
    tl.store(terms + 7 * stride + at, (low | high).to(tl.float32), mask=inside)
    tl.store(terms + 8 * stride + at, k3, mask=inside)
    tl.store(terms + 9 * stride + at, clamped.to(tl.float32), mask=inside)


@torch.compiler.disable
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
    """`r1lab.loss.grpo.linear_grpo_loss`: value, metrics and gradients of the loss from the hidden states.

    hidden [N, H] and ids [N] of the tokens that completion_mask [b, T] counts, in its order; head [V, H], bias [V];
    old_logprobs (None: those of the hidden states, on policy), ref_logprobs [b, T]; advantages [b] or
    [b, T]. reference: instead of ref_logprobs, the reference's hidden states [N, H'], head [V', H'] and bias: policy,
    reference and KL in one pass.

    One pass of 6NHV FLOP (2NH'V more for `reference`). ratio_level="sequence", whose gradient at a token needs the
    logprobs of all tokens of its row, and float16, whose numbers are too few for gradients not yet scaled, take a
    pass for the logprobs before: 8NHV. chunks.py says what is allocated. Nothing but the presence of a bias, a soft
    cap and an entropy bonus compiles a kernel anew. Backward scales the gradients in place, so it works once.

    Where nothing wants a gradient it is a forward pass, 2NHV. Raises ValueError as the definition does; what only the
    GPU could see, ids outside the vocabulary or a mask that counts more or fewer tokens than N, makes the loss NaN.
    """
    check_linear_grpo_loss(
        hidden,
        head,
        ids,
        bias,
        old_logprobs,
        ref_logprobs,
        advantages,
        completion_mask,
        reference,
        temperature=temperature,
        softcap=softcap,
        chunk_bytes=chunk_bytes,
        epsilon_low=epsilon_low,
        epsilon_high=epsilon_high,
        ratio_cap=ratio_cap,
        ratio_level=ratio_level,
        beta=beta,
        kl=kl,
        kl_placement=kl_placement,
        aggregate=aggregate,
    )
    penalised = kl_placement == "loss" and beta != 0
    has_ref = ref_logprobs is not None or reference is not None

    of_entropy = -float(entropy_coef) / max(tokens, 1)
    batch = _tokens(
        completion_mask,
        old_logprobs,
        ref_logprobs,
        advantages,
        len(ids),
        by_row=aggregate == "sequence_mean",
        divisor={"sequence_mean": sequences, "token_mean": max(tokens, 1), "constant_length": sequences * max_length}[
            aggregate
        ],
        scalars=(
            float(epsilon_low),
            float(epsilon_high),
            float("inf") if ratio_cap is None else float(ratio_cap),
            float(beta) if penalised else 0.0,
            of_entropy,
            ESTIMATORS.index(kl),
            int(has_ref),
            int(ratio_level == "token"),
        ),
        level=ratio_level,
        of_entropy=of_entropy,
    )
    options = (temperature, softcap, chunk_bytes, batch, reference, torch.is_grad_enabled())
    loss, sums = _LinearGRPO.apply(hidden, head, bias, ids.contiguous(), options)

    part, unit = dict(zip(TERMS, sums.unbind(), strict=True)), power_of_two(len(ids))
    metrics = {"policy_loss": part["policy_loss"]}
    if penalised:
        metrics["kl_loss"] = part["kl_loss"]
    if entropy_coef != 0:
        metrics["entropy_loss"] = part["entropy"] * unit * batch.of_entropy
    means = dict(zip(MEANS, (sums[-len(MEANS) :] / (max(tokens, 1) / unit)).unbind(), strict=True))
    if not has_ref:
        means = {name: value for name, value in means.items() if name not in OF_REFERENCE}
    return LossOutput(loss, metrics | means)


class _Tokens(NamedTuple):
    """The counted tokens, in the order of the hidden states, and what the loss is made with."""

    old: Tensor | None
    ref: Tensor | None
    advantage: Tensor
    weight: Tensor  # of each token in the aggregate
    counts: Tensor  # [b]
    place: Tensor  # in [b, T], flat
    shape: torch.Size  # b, T
    scalars: tuple[Any, ...]
    level: str
    of_entropy: float

    def row_means(self, values: Tensor) -> Tensor:
        """Each token's mean of [N] over the tokens of its row, in an order that does not change from run to run."""
        table = torch.zeros(self.shape, device=values.device)
        table.view(-1).index_copy_(0, self.place, values)
        return (table.sum(dim=1) / self.counts.clamp(min=1))[self.place // max(self.shape[1], 1)]


def _tokens(
    mask: Tensor,
    old: Tensor | None,
    ref: Tensor | None,
    advantages: Tensor,
    n: int,
    *,
    by_row: bool,
    divisor: float,
    **loss: Any,
) -> _Tokens:
    """Gathered without a look at the mask on the host: how many it counts is known from the hidden states.

    A token's weight is 1 / divisor; by_row: over the tokens of its row besides.
    """
    rows, length = mask.shape
    counts = mask.sum(dim=1)
    place = torch.zeros(n, dtype=torch.int64, device=mask.device)
    out = torch.full((4, -(-n // 16) * 16), math.nan, device=mask.device)
    given = [None if x is None else x.detach().float().contiguous() for x in (old, ref, advantages)]
    if rows and n:
        _gather_kernel[(rows,)](
            mask.contiguous().view(torch.uint8),
            counts,
            *(given[-1] if x is None else x for x in given),
            place,
            out,
            n,
            length,
            out.stride(0),
            float(divisor),
            int(old is not None),
            int(ref is not None),
            int(by_row),
            int(advantages.ndim == 2),
            BLOCK=1024,
        )
    old, ref, advantage, weight = out[:, :n].unbind()
    return _Tokens(
        None if given[0] is None else old,
        None if given[1] is None else ref,
        advantage,
        weight,
        counts,
        place,
        mask.shape,
        **loss,
    )


class _Coefficients:
    """Derivatives of the loss by each logprob with the ratio held, and by each log-ratio; the terms of each token.

    join: the log-ratio is the logprob's alone, and both derivatives are one: their sum, in the first place.
    """

    def __init__(self, batch: _Tokens, terms: Tensor, *, join: bool):
        self.batch, self.terms, self.join = batch, terms, join
        self.kernel = Repeated(_token_kernel)

    def __call__(
        self, tokens: slice, rows: Rows, ref_logprob: Tensor | None, log_ratio: Tensor, old: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """log_ratio: what becomes one when `old`, if any, is taken off."""
        batch, n = self.batch, len(log_ratio)
        by_logprob = torch.empty_like(log_ratio)
        by_log_ratio = by_logprob if self.join else torch.empty_like(log_ratio)
        if n:
            self.kernel(
                triton.cdiv(n, BLOCK),
                rows.logprob,
                log_ratio,
                log_ratio if old is None else old,
                rows.logprob if ref_logprob is None else ref_logprob,
                rows.entropy,
                batch.advantage[tokens],
                batch.weight[tokens],
                by_logprob,
                by_log_ratio,
                self.terms[:, tokens],
                n,
                self.terms.stride(0),
                int(old is not None),
                *batch.scalars,
                self.join,
                BLOCK,
            )
        return by_logprob, by_log_ratio


class _LinearGRPO(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, bias, ids, options):
        temperature, softcap, chunk_bytes, batch, reference, differentiable = options
        hidden = hidden.contiguous()
        made = Head.of(hidden, head, bias, temperature, softcap)
        if reference is not None:
            ref_hidden, ref_head, ref_bias = reference
            reference = ref_hidden.detach(), Head.of(ref_hidden, ref_head.detach(), ref_bias, temperature, softcap)
        terms = torch.empty(len(TERMS), -(-len(ids) // 16) * 16, device=hidden.device)[:, : len(ids)]
        wanted = tuple(differentiable and needed for needed in ctx.needs_input_grad[:3])
        with torch.autocast(hidden.device.type, enabled=False):
            two_passes = batch.level == "sequence" or made.weight.dtype == torch.float16 or not any(wanted)
            run = _two_passes if two_passes else _single_pass
            found = run(hidden, made, ids, batch, terms, chunk_bytes, reference, wanted)
        ctx.dtypes, ctx.found = dtypes_of(hidden, head, bias), found
        terms[-len(MEANS) :].div_(power_of_two(len(ids)))  # as `scaled_sum`: the sum of k3 may overflow, not its mean
        ctx.mark_non_differentiable(sums := terms.sum(dim=1))
        # In memory of its own: with a gradient it is no view of what has none.
        return sums[0].clone(), sums

    @staticmethod
    def backward(ctx, of_loss, _):
        if ctx.found is None:
            raise RuntimeError("linear_grpo_loss scales its gradients in place: its backward works once")
        found, ctx.found = ctx.found, None
        return *in_dtypes(found, ctx.dtypes, of_loss), None, None


def _single_pass(
    hidden: Tensor, head: Head, ids: Tensor, batch: _Tokens, terms: Tensor, chunk_bytes: int, reference, wanted
) -> Gradients:
    of_chunk = _Coefficients(batch, terms, join=True)

    def coefficients(tokens: slice, rows: Rows, reference_rows: Rows | None) -> Tensor:
        ref = reference_rows.logprob if reference_rows is not None else None if batch.ref is None else batch.ref[tokens]
        if batch.old is None:
            return of_chunk(tokens, rows, ref, torch.zeros_like(rows.logprob), None)[0]
        return of_chunk(tokens, rows, ref, rows.logprob, batch.old[tokens])[0]

    return one_pass(hidden, head, ids, coefficients, batch.of_entropy, chunk_bytes, reference=reference, wanted=wanted)


def _two_passes(
    hidden: Tensor, head: Head, ids: Tensor, batch: _Tokens, terms: Tensor, chunk_bytes: int, reference, wanted
) -> Gradients:
    every = slice(0, len(ids))
    ref = batch.ref
    if reference is not None:
        ref = forward_pass(*reference, ids, chunk_bytes).logprob
    rows = forward_pass(hidden, head, ids, chunk_bytes, entropy=True)
    log_ratio = torch.zeros_like(rows.logprob) if batch.old is None else rows.logprob - batch.old
    if batch.level == "sequence":
        free = log_ratio <= LARGEST
        log_ratio = batch.row_means(log_ratio.clamp(max=LARGEST))
    by_logprob, by_log_ratio = _Coefficients(batch, terms, join=False)(every, rows, ref, log_ratio, None)
    if not any(wanted):
        return Gradients(None, None, None)
    if batch.level == "sequence":
        by_log_ratio = torch.where(free, batch.row_means(by_log_ratio), 0.0)
    return backward_pass(
        hidden,
        head,
        ids,
        rows.log_normaliser,
        rows.entropy,
        by_logprob + by_log_ratio,
        torch.full_like(by_logprob, batch.of_entropy) if batch.of_entropy else None,
        chunk_bytes,
        wanted=wanted,
    )
