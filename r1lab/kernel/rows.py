"""Triton kernels over the rows of a chunk of logits, one program a row (the gradient: one a piece of a row).

All take z = cap(logits + bias) / temperature with cap(x) = softcap tanh(x / softcap), in base 2: y = z log2(e).

`statistics` reads a row once. It keeps a shift M, an integer within 60 of the largest y so far, and sums e = 2^(y - M)
and e (y - M): logsumexp, logprob and entropy follow, all relative to M, so that no large numbers cancel. An id outside
the vocabulary has the logprob NaN.

With `store` it writes e over the logits in that same read. The gradient of a function of a row's logprob is
g (onehot - softmax): a multiple, known only once the row is read, of e with the row's sum taken off at the target. So
one read and one write make the gradient up to one factor a row, which costs nothing where it is applied: to the
hidden state before the product that makes the head's gradient, to the row of the product that makes the hidden
state's. e has the relative precision of a softmax in the same dtype; bfloat16 and float32 have the exponents for it.
Where a later block is above M by more than 60, M rises and what is written is scaled by a power of 2, without rounding.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from r1lab.kernel.launch import Repeated

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = 1.4426950408889634
BLOCK = 4096
PADDING = 64  # columns: loads of 16 bytes a thread, and products that want aligned rows


@triton.jit
def tanh(x):
    """By its series where 2 sigmoid(2x) - 1 cancels; within a few roundings of float32."""
    square = x * x
    series = -17 / 315 + square * (62 / 2835 - square * (1382 / 155925))
    series = 1 + square * (-1 / 3 + square * (2 / 15 + square * series))
    return tl.where(square < 0.0625, x * series, 2 * tl.sigmoid(2 * x) - 1)


@triton.jit
def _head(raw, columns, inside, bias, softcap, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr):
    """Raw logits -> capped logits, -inf outside the row."""
    z = raw.to(tl.float32)
    if HAS_BIAS:
        z += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_CAP:
        z = softcap * tanh(z / softcap)
    return tl.where(inside, z, -float("inf"))


@triton.jit
def _row_kernel(
    logits,
    stride,
    ids,
    bias,
    log_normaliser,
    logprob,
    entropy,
    hit,
    total,
    vocabulary,
    padded,
    sharpness,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    STORE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    lanes = tl.arange(0, BLOCK)
    target = tl.load(ids + row)
    known = (target >= 0) & (target < vocabulary)
    target = tl.where(known, target, 0)
    z_target = _head(tl.load(logits + target), target, known, bias, softcap, HAS_BIAS, HAS_CAP)
    z_target = tl.where(known, z_target, float("nan"))
    y_target = z_target * sharpness

    shift = -float("inf")
    highest = -float("inf")
    sums = tl.zeros([BLOCK], tl.float32)
    weighted = tl.zeros([BLOCK], tl.float32)
    upcoming = tl.load(logits + lanes, mask=lanes < padded, other=0.0)
    for start in range(0, vocabulary, BLOCK):
        columns = start + lanes
        inside = columns < vocabulary
        raw = upcoming
        # Asked for before this block is worked on, so that the memory is never idle.
        upcoming = tl.load(logits + BLOCK + columns, mask=columns < padded - BLOCK, other=0.0)
        z = _head(raw, columns, inside, bias, softcap, HAS_BIAS, HAS_CAP)
        y = z * sharpness
        top = tl.max(y, axis=0)
        highest = tl.maximum(highest, top)
        if top > shift + 60:
            raised = tl.ceil(top)
            factor = tl.exp2(shift - raised)
            moved = tl.where(shift > -float("inf"), shift - raised, 0.0)
            weighted = factor * (weighted + moved * sums)
            sums = factor * sums
            if STORE:
                # Other threads may have written what this one reads.
                tl.debug_barrier()
                for earlier in range(0, start, BLOCK):
                    written = tl.load(logits + earlier + lanes)
                    tl.store(logits + earlier + lanes, (written.to(tl.float32) * factor).to(written.dtype))
            shift = raised
        below = y - tl.where(shift > -float("inf"), shift, 0.0)
        e = tl.exp2(below)
        sums += e
        weighted += tl.where(below > -float("inf"), e * below, 0.0)
        if STORE:
            if HAS_CAP:
                e *= 1 - (z / softcap) * (z / softcap)
            tl.store(logits + columns, e.to(raw.dtype), mask=columns < padded)

    s = tl.sum(sums, axis=0)
    log_s = tl.log2(s)
    tl.store(log_normaliser + row, (shift + log_s) * LN2)
    tl.store(logprob + row, (y_target - shift - log_s) * LN2)
    tl.store(entropy + row, (log_s - tl.sum(weighted, axis=0) / s) * LN2)
    tl.store(hit + row, (y_target >= highest).to(tl.uint8))
    tl.store(total + row, s)
    if STORE:
        tl.debug_barrier()
        at_target = tl.exp2(y_target - shift) - s
        if HAS_CAP:
            at_target *= 1 - (z_target / softcap) * (z_target / softcap)
        tl.store(logits + target, at_target.to(logits.dtype.element_ty))


@triton.jit
def _gradient_kernel(
    logits,
    out,
    stride,
    out_stride,
    ids,
    bias,
    log_normaliser,
    entropy,
    of_logprob,
    of_entropy,
    vocabulary,
    padded,
    sharpness,
    softcap,
    slope,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    out += row.to(tl.int64) * out_stride
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < vocabulary
    raw = tl.load(logits + columns, mask=columns < padded, other=0.0)
    z = _head(raw, columns, inside, bias, softcap, HAS_BIAS, HAS_CAP)
    # By the factors of the statistics, whose roundings then cancel.
    log_p = z * sharpness * LN2 - tl.load(log_normaliser + row)
    g, h = tl.load(of_logprob + row), tl.load(of_entropy + row)
    p = tl.exp(log_p)
    # 0 * inf is left out: a token of probability 0 adds nothing to the entropy.
    bend = h * tl.where(log_p > -float("inf"), log_p + tl.load(entropy + row), 0.0)
    gradient = tl.where(columns == tl.load(ids + row), g, 0.0) - p * (g + bend)
    gradient *= slope
    if HAS_CAP:
        gradient *= 1 - (z / softcap) * (z / softcap)
    tl.store(out + columns, gradient.to(raw.dtype), mask=columns < padded)


@triton.jit
def _scale_kernel(
    out,
    source,
    out_stride,
    source_stride,
    second_out,
    second,
    second_out_stride,
    second_stride,
    of_logprob,
    total,
    width,
    slope,
    BOTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    factor = tl.load(of_logprob + row) * slope / tl.load(total + row)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < width
        values = tl.load(source + row * source_stride + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * out_stride + at, (values * factor).to(out.dtype.element_ty), mask=inside)
        if BOTH:
            # What this writes may be over what other threads read above.
            tl.debug_barrier()
            values = tl.load(second + row * second_stride + at, mask=inside, other=0.0).to(tl.float32)
            scaled = (values * factor).to(second_out.dtype.element_ty)
            tl.store(second_out + row * second_out_stride + at, scaled, mask=inside)


def _padded(logits: Tensor) -> int:
    """Columns that may be touched: whole vectors where the rows lie apart for it, as those of `chunks.buffer` do."""
    padded = triton.cdiv(logits.shape[1], PADDING) * PADDING
    whole = logits.stride(0) == padded and logits.storage_offset() % padded == 0
    return padded if whole else logits.shape[1]


@dataclass
class Rows:
    """What `_row_kernel` finds in each of N rows, float32 [N] unless said otherwise: 17 bytes a row.

    log_normaliser, logprob, entropy (nats); hit bool: the target is the argmax; total: the sum of what `statistics`
    wrote with `store`, before the target's was lowered by it.
    """

    log_normaliser: Tensor
    logprob: Tensor
    entropy: Tensor
    total: Tensor
    hit: Tensor

    @classmethod
    def empty(cls, n: int, device: torch.device) -> "Rows":
        return cls(*(torch.empty(n, device=device) for _ in range(4)), torch.empty(n, dtype=torch.bool, device=device))

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(*(values[rows] for values in vars(self).values()))


def statistics(
    logits: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    out: Rows,
    *,
    temperature: float,
    softcap: float | None,
    store: bool = False,
) -> None:
    """Read logits [n, V] (rows contiguous, any stride between them) once, fill `out`.

    With `store`, over the logits is written what a row's gradient is proportional to (see above): the gradient of
    sum_i g_i logprob_i with respect to the logits is -g_i / (temperature total_i) times the row.
    """
    n, vocabulary = logits.shape
    if n == 0:
        return
    _row_kernel[(n,)](
        logits,
        logits.stride(0),
        ids,
        bias,
        out.log_normaliser,
        out.logprob,
        out.entropy,
        out.hit.view(torch.uint8),
        out.total,
        vocabulary,
        _padded(logits),
        LOG2E / temperature,
        0.0 if softcap is None else float(softcap),
        HAS_BIAS=bias is not None,
        HAS_CAP=softcap is not None,
        STORE=store,
        BLOCK=BLOCK,
        num_warps=4 if store else 8,
    )


def gradient(
    logits: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    log_normaliser: Tensor,
    entropy: Tensor,
    of_logprob: Tensor,
    of_entropy: Tensor,
    *,
    temperature: float,
    softcap: float | None,
    out: Tensor | None = None,
) -> None:
    """Over logits [n, V], or into `out` like them, write the gradient of sum_i of_logprob_i logprob_i + of_entropy_i
    entropy_i.
    """
    n, vocabulary = logits.shape
    padded = _padded(logits) if out is None else vocabulary
    out = logits if out is None else out
    if n == 0:
        return
    _gradient_kernel[(n, triton.cdiv(vocabulary, BLOCK))](
        logits,
        out,
        logits.stride(0),
        out.stride(0),
        ids,
        bias,
        log_normaliser,
        entropy,
        of_logprob,
        of_entropy,
        vocabulary,
        padded,
        LOG2E / temperature,
        0.0 if softcap is None else float(softcap),
        1.0 / temperature,
        HAS_BIAS=bias is not None,
        HAS_CAP=softcap is not None,
        BLOCK=BLOCK,
        num_warps=8,
    )


class Factor(NamedTuple):
    """What a row that `statistics` wrote with `store` has to be multiplied by to be the gradient: one number a row.

    of_logprob, total float32 [n]: the loss's derivative by each logprob, and what the statistics found.
    """

    of_logprob: Tensor
    total: Tensor
    temperature: float

    @property
    def values(self) -> Tensor:
        """[n]"""
        return self.of_logprob / (self.total * -self.temperature)

    def scale(
        self, kernel: Repeated, source: Tensor, out: Tensor, second: Tensor | None = None, over: Tensor | None = None
    ) -> None:
        """Write the rows of `source` [n, H] times their factors into `out` [n, H], those of `second` into `over`.

        kernel: a `scaling` for chunks of tensors like these. A row of `over` may lie in the same row of `source`, at
        its beginning, in numbers that are no wider.
        """
        n, width = source.shape
        if n:
            both = second is not None
            second, over = (second, over) if both else (source, out)
            pairs = [(to, of, to.stride(0), of.stride(0)) for to, of in ((out, source), (over, second))]
            slope = -1.0 / self.temperature
            kernel(n, *pairs[0], *pairs[1], self.of_logprob, self.total, width, slope, both, 1024)


def scaling() -> Repeated:
    """What `Factor.scale` runs."""
    return Repeated(_scale_kernel, num_warps=4)
