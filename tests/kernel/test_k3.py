import pytest
import torch

from r1lab.kernel.k3 import ESTIMATORS, KL_ESTIMATORS, k3
from r1lab.loss import kl


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


def test_shapes_must_match(device):
    with pytest.raises(ValueError, match="one shape"):
        k3(torch.zeros(2, 1, device=device), torch.zeros(2, 2, device=device))
