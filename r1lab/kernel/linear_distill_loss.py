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
def _terms(
    logits, teacher, columns, vocabulary, normaliser, teacher_normaliser, sharpness, teacher_sharpness, which, beta
):
    """s, and what a column adds to the divergence and to KL(s || other); log(s / other), 0 where s is 0."""
    inside = columns < vocabulary
    z = tl.load(logits + columns, mask=inside, other=-float("inf")).to(tl.float32)
    u = tl.load(teacher + columns, mask=inside, other=-float("inf")).to(tl.float32)
    log_s = z * sharpness * LN2 - normaliser
    log_t = u * teacher_sharpness * LN2 - teacher_normaliser
    s, t = tl.exp(log_s), tl.exp(log_t)
    # m = beta t + (1 - beta) s, relative to the larger of the two
    top = tl.maximum(log_s, log_t)
    top = tl.where(top > -float("inf"), top, 0.0)
    log_m = top + tl.log(beta * tl.exp(log_t - top) + (1 - beta) * tl.exp(log_s - top))
    other = tl.where(which == 2, log_m, log_t)
    apart = tl.where(s > 0, log_s - other, 0.0)
    teacher_part = tl.where(t > 0, t * (log_t - tl.where(which == 2, log_m, log_s)), 0.0)
    student_part = s * apart
    mixed = beta * teacher_part + (1 - beta) * student_part
    value = tl.where(which == 0, teacher_part, tl.where(which == 1, student_part, mixed))
    return s, t, value, student_part, apart


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
    values = tl.zeros([BLOCK], tl.float32)
    reverse = tl.zeros([BLOCK], tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        s, t, v, r, _ = _terms(
            logits, teacher, columns, vocabulary, lse, teacher_lse, sharpness, teacher_sharpness, which, beta
        )
        values += v
        reverse += r
        mass += s
    tl.store(value + row, tl.sum(values, axis=0))
    # Over what the probabilities sum to: an error of the normaliser, times the mean, would be the gradient's.
    mean = tl.sum(reverse, axis=0) / tl.sum(mass, axis=0)
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
