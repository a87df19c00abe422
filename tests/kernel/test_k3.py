import pytest
import torch

from r1lab.kernel.k3 import ESTIMATORS, KL_ESTIMATORS, k3
from r1lab.loss import kl
from r1lab.loss.ratio import largest_ratio


def test_the_same_estimators():
    assert tuple(KL_ESTIMATORS) == ESTIMATORS == tuple(kl.KL_ESTIMATORS)


def inputs(device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    size = torch.cat([torch.logspace(-12, 1.47, 500), torch.tensor([0.0, 0.999, 1.0, 1.001, 30.0])])
    log_r = torch.cat([size, -size])
    logprobs = -torch.rand(len(log_r), generator=generator) * 1e-3
    ratio = torch.rand(len(log_r), generator=generator) * 3
    tensors = torch.zeros_like(logprobs), log_r, ratio, torch.randn(len(log_r), generator=generator)
    return [x.to(device, dtype) for x in tensors]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_value_and_gradients(device, name, assert_close_to_float64):
    def results(estimators, dtype):
        *tensors, weight = inputs(device, dtype)
        for x in tensors:
            x.requires_grad_()
        value = estimators[name](*tensors)
        gradients = torch.autograd.grad((weight * value).sum(), tensors, allow_unused=True, materialize_grads=True)
        return value.detach(), *gradients

    exact = results(kl.KL_ESTIMATORS, torch.float64)
    assert_close_to_float64(results(KL_ESTIMATORS, torch.float32), results(kl.KL_ESTIMATORS, torch.float32), exact)


def test_k3_keeps_all_digits_and_is_not_negative(device):
    logprobs, ref_logprobs, *_ = inputs(device)
    value = k3(logprobs, ref_logprobs)
    exact = kl.k3(logprobs.double(), ref_logprobs.double())
    assert (value >= 0).all()
    big = ref_logprobs.abs() > 1e-6  # below, float64's own expm1(x) - x loses digits
    torch.testing.assert_close(value[big].double(), exact[big], rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_clamped_where_the_definition_is(device, dtype, name):
    limit = 10 if dtype == torch.float16 else 80
    log_ratio = torch.tensor([-200.0, -90.0, -1.0, 0.0, 1.0, limit - 1, limit])
    log_r = torch.cat([torch.arange(-200.0, 200.5, 2.5), torch.tensor([limit - 0.5, limit, limit + 0.5])])
    ratio, log_r = (x.flatten().to(device, dtype) for x in torch.meshgrid(log_ratio.exp(), log_r, indexing="ij"))

    def results(estimators, *tensors):
        tensors = [x.clone().requires_grad_() for x in tensors]
        value = estimators[name](*tensors)
        return value, *torch.autograd.grad(value.sum(), tensors, allow_unused=True, materialize_grads=True)

    fused = results(KL_ESTIMATORS, torch.zeros_like(log_r), log_r, ratio)
    # The definition in float32 with the clamp of the dtype, whose own rounding would hide where it is.
    exact = results(kl.KL_ESTIMATORS, *(x.float() for x in (torch.zeros_like(log_r), log_r, ratio)))
    near = log_r <= limit
    if name == "ratio_k3":
        near &= exact[0] < 0.9 * largest_ratio(dtype)
    for mine, right in zip(fused, exact, strict=True):
        assert mine.isfinite().all()
        tolerance = {"rtol": 1e-5 if dtype == torch.float32 else 1e-2, "atol": 1e-6}
        torch.testing.assert_close(mine.float()[near], right[near], **tolerance)
    far = log_r > limit
    if name in ("k3", "ratio_k3"):
        assert (fused[1][far] == 0).all() and (fused[2][far] == 0).all()
        assert fused[0].max() <= largest_ratio(dtype)


def test_shapes_must_match(device):
    with pytest.raises(ValueError, match="one shape"):
        k3(torch.zeros(2, 1, device=device), torch.zeros(2, 2, device=device))
