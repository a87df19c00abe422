import math

import pytest
import torch

from r1lab.kernel import product as module
from r1lab.kernel.product import Product
from r1lab.kernel.rows import Rows

GPU = torch.cuda.is_available()
SHAPES = [(1, 64, 50257), (130, 576, 49152), (300, 520, 151936)] if GPU else [(1, 16, 70), (21, 24, 150)]
DTYPES = [torch.bfloat16] if GPU else [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    if not GPU:
        monkeypatch.setattr(module, "TILE", {"BM": 16, "BN": 64, "BK": 16, "num_warps": 4})


def check(hidden, weight, ids, bias=None, softcap=None):
    n, vocabulary, temperature = len(hidden), len(weight), 0.7
    z = hidden.double() @ weight.double().T
    z = z if bias is None else z + bias.double()
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    log_p = (z / temperature).log_softmax(-1)
    p = log_p.exp()
    expected = torch.nn.functional.one_hot(ids, vocabulary) - p
    if softcap is not None:
        expected = expected * (1 - (z / softcap) ** 2)
    largest = z.abs().where(z.isfinite(), 0.0).max().item()
    for store in (False, True):
        rows = Rows.empty(n, hidden.device)
        stride = -(-vocabulary // 64) * 64
        e = torch.full((n, stride), math.nan, dtype=hidden.dtype, device=hidden.device)[:, :vocabulary]
        options = {"temperature": temperature, "softcap": softcap}
        half = -(-n // 32) * 16
        run = Product(hidden, weight, ids, bias, at_a_time=half, entropy=True, hit=True, **options)
        for tokens in (slice(0, min(half, n)), slice(half, n)):
            if tokens.start < n:
                run(tokens, rows[tokens], e[tokens] if store else None)
        # products in float32: no rounding of logits in between
        close = {"rtol": 2e-5, "atol": 1e-5 * max(1.0, largest / 5)}
        logprob = log_p.gather(1, ids[:, None]).squeeze(1)
        torch.testing.assert_close(rows.logprob.double(), logprob, **close)
        torch.testing.assert_close(rows.entropy.double(), -(p * log_p.where(p > 0, 0.0)).sum(1), **close)
        torch.testing.assert_close(rows.log_normaliser.double(), (z / temperature).logsumexp(1), **close)
        assert torch.equal(rows.hit, z.argmax(1) == ids)
    found = e.double() * (-1 / rows.total[:, None].double())
    error = 2**-7 if hidden.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, rtol=error, atol=3e-5 * max(1.0, largest / 10))


def inputs(shape, device, dtype, scale=1.0):
    n, width, vocabulary = shape
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, width, generator=generator)
    weight = scale * width**-0.5 * torch.randn(vocabulary, width, generator=generator)
    ids = torch.randint(vocabulary, (n,), generator=generator)
    ids[-1], ids[0] = vocabulary - 1, 0
    bias = torch.randn(vocabulary, generator=generator)
    return hidden.to(device, dtype), weight.to(device, dtype), ids.to(device), bias.to(device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_and_exponentials(device, shape, dtype):
    check(*inputs(shape, device, dtype, scale=3.0)[:3])


def test_bias_and_soft_cap(device):
    *tensors, bias = inputs(SHAPES[1], device, DTYPES[0], scale=3.0)
    check(*tensors, bias, softcap=4.0)


@pytest.mark.slow
def test_targets_that_are_no_guess_of_the_largest(device):
    # 200 nats below the largest, the largest itself, and forbidden: rows that are made again, between others
    hidden, weight, ids, bias = inputs(SHAPES[1], device, DTYPES[0])
    hidden[[2, 5, 9]] *= 60
    z = (hidden.float() @ weight.float().T).double()
    ids[2], ids[5] = z[2].argmin(), z[5].argmax()
    assert z[2].max() - z[2].min() > 80
    check(hidden, weight, ids)
    bias[ids[3]] = -math.inf
    check(hidden, weight, ids, bias)


def test_probabilities_where_the_normaliser_is_known(device):
    hidden, weight, ids, _ = inputs(SHAPES[1], device, DTYPES[0])
    log_p = (hidden.double() @ weight.double().T / 0.7).log_softmax(-1)
    normaliser = (hidden.double() @ weight.double().T / 0.7).logsumexp(1).float()
    rows = Rows.empty(len(ids), hidden.device)
    e = torch.empty(len(ids), -(-len(weight) // 64) * 64, dtype=hidden.dtype, device=device)[:, : len(weight)]
    options = {"temperature": 0.7, "softcap": None, "log_normaliser": normaliser}
    Product(hidden, weight, ids, None, at_a_time=len(ids), **options)(slice(0, len(ids)), rows, e)
    torch.testing.assert_close(rows.total, torch.ones_like(rows.total), rtol=0, atol=1e-4)
    expected = log_p.exp() - torch.nn.functional.one_hot(ids, len(weight))
    torch.testing.assert_close(e.double(), expected, rtol=2**-7, atol=1e-4)


def test_pays_on_a_gpu_alone(device):
    hidden, weight = (torch.zeros(4, 64, device=device, dtype=torch.bfloat16) for _ in range(2))
    assert module.pays(hidden, weight) == GPU
    assert not module.pays(hidden.float(), weight.float()) and not module.pays(hidden[:, :60], weight)
