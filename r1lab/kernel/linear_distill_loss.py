"""Student's and teacher's hidden states -> their divergence and its gradients, in the pass that makes the logits."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from r1lab.kernel.chunks import Head, Pass, Sums, chunks
from r1lab.kernel.linear_logprob import CHUNK_BYTES, dtypes_of, in_dtypes
from r1lab.kernel.rows import LN2, LOG2E, Rows, statistics
from r1lab.loss.distill import DIVERGENCES, check_distill

BLOCK = 2048


@triton.jit
def _log_mean(d, beta):
    """log(beta e^d + 1 - beta) less the larger of d and 0, by series near 0 where the hardware's logarithm is rough."""
    share = tl.where(d > 0, 1 - beta, beta)
    a = -tl.abs(d)
    series = tl.zeros_like(a) + 1.0 / 13
    for k in tl.static_range(12, 1, -1):
        # a/2 (1 + a/3 (1 + ...)), from the inside: expm1(a) = a (1 + ...)
        series = (1.0 + a * series) * (1.0 / k)
    u = share * tl.where(a > -1, a * (1.0 + a * series), tl.exp(a) - 1)
    # log1p(u) = 2 artanh(u / (2 + u))
    z = u / (2 + u)
    square = z * z
    odd = tl.zeros_like(z) + 1.0 / 17
    for k in tl.static_range(15, 0, -2):
        odd = 1.0 / k + square * odd
    return tl.where(u > -0.5, 2 * z * odd, tl.log(1 + u))


@triton.jit
def _terms(
    logits, teacher, columns, vocabulary, normaliser, teacher_normaliser, sharpness, teacher_sharpness, which, beta
):
    """s and t; t log(t / other of t) and s log(s / other of s), the other being each other, or the mean of both for
    JSD; log(s / other of s), 0 where s is 0."""
    inside = columns < vocabulary
    z = tl.load(logits + columns, mask=inside, other=-float("inf")).to(tl.float32)
    u = tl.load(teacher + columns, mask=inside, other=-float("inf")).to(tl.float32)
    log_s = z * sharpness * LN2 - normaliser
    log_t = u * teacher_sharpness * LN2 - teacher_normaliser
    s, t = tl.exp(log_s), tl.exp(log_t)
    d = log_t - log_s
    log_mean = _log_mean(d, beta)
    t_apart = tl.where(which == 2, tl.minimum(d, 0.0) - log_mean, d)
    s_apart = tl.where(which == 2, tl.minimum(-d, 0.0) - log_mean, -d)
    apart = tl.where(s > 0, s_apart, 0.0)
    return s, t, tl.where(t > 0, t * t_apart, 0.0), s * apart, apart


@triton.jit(do_not_specialize=["which"])
def _divergence_kernel(
    logits,
    teacher,
    stride,
    teacher_stride,
    normaliser,
    teacher_normaliser,
    value,
    vocabulary,
    sharpness,
    teacher_sharpness,
    scale,
    which,
    beta,
    BLOCK: tl.constexpr,
):
    """A row's divergence, and over its logits the divergence's gradient times `scale`."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    teacher += row * teacher_stride
    lse, teacher_lse = tl.load(normaliser + row), tl.load(teacher_normaliser + row)
    of_teacher = tl.zeros([BLOCK], tl.float32)
    of_student = tl.zeros([BLOCK], tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    teacher_mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        s, t, t_part, s_part, _ = _terms(
            logits, teacher, columns, vocabulary, lse, teacher_lse, sharpness, teacher_sharpness, which, beta
        )
        of_teacher += t_part
        of_student += s_part
        mass += s
        teacher_mass += t
    # Over what the probabilities sum to: the normalisers are rounded, and that is the divergence's error, and the
    # gradient's times the mean.
    total, teacher_total = tl.sum(mass, axis=0), tl.sum(teacher_mass, axis=0)
    teacher_mean, mean = tl.sum(of_teacher, axis=0) / teacher_total, tl.sum(of_student, axis=0) / total
    forward = teacher_mean + (total - teacher_total)
    reverse = mean + (teacher_total - total)
    mixed = beta * teacher_mean + (1 - beta) * mean
    tl.store(value + row, tl.where(which == 0, forward, tl.where(which == 1, reverse, mixed)))
    weight = tl.where(which == 2, 1 - beta, 1.0) * scale
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        s, t, _, _, apart = _terms(
            logits, teacher, columns, vocabulary, lse, teacher_lse, sharpness, teacher_sharpness, which, beta
        )
        gradient = tl.where(which == 0, s - t, s * (apart - mean)) * weight
        tl.store(logits + columns, gradient.to(logits.dtype.element_ty), mask=columns < vocabulary)


@torch.compiler.disable
def linear_distill_loss(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    divergence: str,
    jsd_beta: float,
    temperature: float,
    teacher_temperature: float | None = None,
    tokens: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """`r1lab.loss.distill.linear_distill_loss`: 6NHV FLOP for the student and 2NH'V for the teacher.

    chunk_bytes is of the logits of both; chunks.py says what else is allocated. Backward works once.

    Raises ValueError as the definition does.
    """
    teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
    temperatures = (temperature, teacher_temperature)
    check_distill(hidden, head, teacher_hidden, teacher_head, divergence, jsd_beta, *temperatures, chunk_bytes)
    if divergence == "jsd" and jsd_beta in (0, 1):
        divergence = DIVERGENCES[int(jsd_beta)]
    numbers = (DIVERGENCES.index(divergence), float(jsd_beta), temperatures, max(tokens, 1), chunk_bytes)
    options = (*numbers, torch.is_grad_enabled())
    return _LinearDistill.apply(hidden, head, teacher_hidden.detach(), teacher_head.detach(), options)


class _LinearDistill(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, teacher_hidden, teacher_head, options):
        which, beta, (temperature, teacher_temperature), tokens, chunk_bytes, differentiable = options
        wanted = [differentiable and needed for needed in ctx.needs_input_grad[:2]]
        hidden = hidden.contiguous()
        made = Head.of(hidden, head, None, temperature, None)
        teacher = Head.of(teacher_hidden, teacher_head, None, teacher_temperature, None)
        values = torch.empty(len(hidden), device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            slices = chunks(len(hidden), made.row_bytes + teacher.row_bytes, chunk_bytes)
            work, beside = (Pass(x, of, slices) for x, of in ((hidden, made), (teacher_hidden, teacher)))
            sums = Sums(work, hidden=wanted[0], weight=wanted[1], bias=False)
            for (at, part, logits), (_, _, theirs) in zip(work, beside, strict=True):
                n = len(part)
                rows, of_teacher = (Rows.empty(n, hidden.device) for _ in range(2))
                # Of any token: the normaliser is what is wanted.
                ids = torch.zeros(n, dtype=torch.int64, device=hidden.device)
                for x, out, divisor in ((logits, rows, temperature), (theirs, of_teacher, teacher_temperature)):
                    statistics(x, ids, None, out, temperature=divisor, softcap=None)
                if n:
                    _divergence_kernel[(n,)](
                        logits,
                        theirs,
                        logits.stride(0),
                        theirs.stride(0),
                        rows.log_normaliser,
                        of_teacher.log_normaliser,
                        values[at],
                        logits.shape[1],
                        LOG2E / temperature,
                        LOG2E / teacher_temperature,
                        # of the mean over tokens, which float16 could not hold, in the end
                        1.0 / temperature,
                        which,
                        beta,
                        BLOCK=BLOCK,
                        num_warps=8,
                    )
                sums.add(at, part, logits, None)
        ctx.dtypes, ctx.found, ctx.tokens = dtypes_of(hidden, head, None), sums.gradients, tokens
        return values.sum() / tokens

    @staticmethod
    def backward(ctx, of_loss):
        if ctx.found is None:
            raise RuntimeError("linear_distill_loss scales its gradients in place: its backward works once")
        found, ctx.found = ctx.found, None
        gradients = in_dtypes(found, ctx.dtypes, of_loss / ctx.tokens)
        return gradients.hidden, gradients.weight, None, None, None
