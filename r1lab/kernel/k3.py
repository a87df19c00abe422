"""The per-token KL estimators of `r1lab.loss.kl`: value and derivatives in one kernel, which one chosen at run time."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from r1lab.loss.ratio import largest_log_ratio, largest_ratio

ESTIMATORS = ("k1", "k2", "k3", "ratio_k3")
BLOCK = 1024


@triton.jit
def exp_of(x):
    """e^x = 2^k e^(x - k ln 2), to the last bits for large x too, where the hardware's own loses as many as x has."""
    k = tl.floor(x * 1.4426950408889634 + 0.5)
    k = tl.where(tl.abs(k) < 1000, k, 0.0)
    rest = (x - k * 0.693145751953125) - k * 1.428606765330187e-06  # ln 2, its first bits and the others
    return tl.exp(rest) * tl.exp2(k)


@triton.jit
def k3_of(log_r):
    """expm1(log_r) - log_r: below 1 in size as its series log_r^2 / 2! + log_r^3 / 3! + ..., without cancellation.

    Thirteen terms leave less than 1e-10 of the value out.
    """
    series = tl.zeros_like(log_r) + 1.0 / 14
    for k in tl.static_range(13, 2, -1):
        # x/3 (1 + x/4 (1 + ...)), from the inside
        series = (1.0 + log_r * series) * (1.0 / k)
    series = 0.5 * log_r * log_r * (1.0 + log_r * series)
    return tl.where(tl.abs(log_r) < 1, series, exp_of(log_r) - 1 - log_r)


@triton.jit
def estimate(log_r, ratio, which, largest, cap):
    """(estimate, its derivative by the logprob with the ratio held, by the ratio, k3, whether anything is clamped).

    which: its place in ESTIMATORS. largest: log-ratio at which k3 is clamped. cap: at which ratio_k3 is.
    """
    clamped = log_r > largest
    bounded = tl.where(clamped, largest, log_r)
    k3 = k3_of(bounded)
    slope = tl.where(clamped, 0.0, -(k3 + bounded))  # 1 - r
    value = tl.where(which == 0, -log_r, tl.where(which == 1, 0.5 * log_r * log_r, k3))
    by_logprob = tl.where(which == 0, 1.0, tl.where(which == 1, -log_r, slope))
    weight = tl.where(which == 3, ratio, 1.0)
    value = weight * value
    capped = (which == 3) & (value > cap)
    value = tl.where(capped, cap, value)
    by_logprob = tl.where(capped, 0.0, weight * by_logprob)
    by_ratio = tl.where((which == 3) & (capped == 0), k3, 0.0)
    return value, by_logprob, by_ratio, k3, clamped | capped


@triton.jit(do_not_specialize=["n", "which"])
def _kl_kernel(logprobs, ref_logprobs, ratio, value, by_logprob, by_ratio, n, which, largest, cap, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    log_r = tl.load(ref_logprobs + at, mask=inside, other=0.0) - tl.load(logprobs + at, mask=inside, other=0.0)
    v, by_l, by_r, _, _ = estimate(log_r, tl.load(ratio + at, mask=inside, other=0.0), which, largest, cap)
    tl.store(value + at, v, mask=inside)
    tl.store(by_logprob + at, by_l, mask=inside)
    tl.store(by_ratio + at, by_r, mask=inside)


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logprobs, ref_logprobs, ratio, which):
        shape = logprobs.shape
        if not shape == ref_logprobs.shape == ratio.shape:
            shapes = ", ".join(str(list(x.shape)) for x in (logprobs, ref_logprobs, ratio))
            raise ValueError(f"logprobs, ref_logprobs and ratio must have one shape, got {shapes}")
        # The gradients have the inputs' dtype, and float16 overflows sooner.
        dtype = torch.promote_types(logprobs.dtype, ref_logprobs.dtype)
        limits = largest_log_ratio(dtype), largest_ratio(dtype)
        inputs = [x.float().contiguous() for x in (logprobs, ref_logprobs, ratio)]
        value, by_logprob, by_ratio = torch.empty(3, *shape, device=logprobs.device)
        n = value.numel()
        if n:
            _kl_kernel[(triton.cdiv(n, BLOCK),)](*inputs, value, by_logprob, by_ratio, n, which, *limits, BLOCK=BLOCK)
        ctx.save_for_backward(by_logprob, by_ratio)
        ctx.dtypes = [x.dtype for x in (logprobs, ref_logprobs, ratio)]
        return value

    @staticmethod
    def backward(ctx, of_value):
        by_logprob, by_ratio = ctx.saved_tensors
        factors = (by_logprob, -by_logprob, by_ratio)
        wanted = zip(factors, ctx.dtypes, ctx.needs_input_grad[:3], strict=True)
        return *((of_value * factor).to(dtype) if needed else None for factor, dtype, needed in wanted), None


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return _KL.apply(logprobs, ref_logprobs, ref_logprobs.detach(), 0)


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return _KL.apply(logprobs, ref_logprobs, ref_logprobs.detach(), 1)


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return _KL.apply(logprobs, ref_logprobs, ref_logprobs.detach(), 2)


def ratio_k3(logprobs: Tensor, ref_logprobs: Tensor, ratio: Tensor) -> Tensor:
    return _KL.apply(logprobs, ref_logprobs, ratio, 3)


def _unweighted(estimator: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda logprobs, ref_logprobs, ratio: estimator(logprobs, ref_logprobs)


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "k1": _unweighted(k1),
    "k2": _unweighted(k2),
    "k3": _unweighted(k3),
    "ratio_k3": ratio_k3,
}
