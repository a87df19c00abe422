import math

import pytest
import torch

from r1lab.kernel.rows import Rows, gradient, statistics


def run(logits, ids, *, temperature=1.0, softcap=None, bias=None, stride=None, store=True):
    """Statistics of rows, and what is left in the buffer, which had NaN beside the rows."""
    n, vocabulary = logits.shape
    buffer = torch.full((n, stride or -(-vocabulary // 64) * 64), math.nan, dtype=logits.dtype, device=logits.device)
    buffer[:, :vocabulary] = logits
    rows = Rows.empty(n, logits.device)
    options = {"temperature": temperature, "softcap": softcap}
    statistics(buffer[:, :vocabulary], ids, bias, rows, store=store, **options)
    return rows, buffer[:, :vocabulary]


def exact(logits, ids, temperature=1.0):
    z = logits.double() / temperature
    log_p = z.log_softmax(-1)
    p = log_p.exp()
    onehot = torch.nn.functional.one_hot(ids, logits.shape[1])
    return {
        "logprob": log_p.gather(1, ids[:, None]).squeeze(1),
        "entropy": -(p * torch.where(p > 0, log_p, 0.0)).sum(1),
        "log_normaliser": z.logsumexp(1),
        "gradient": (onehot - p) / temperature,
        "hit": z.gather(1, ids[:, None]).squeeze(1) >= z.max(1).values,
    }


def check(logits, ids, *, temperature=1.0, rtol=1e-5, **options):
    rows, left = run(logits, ids, temperature=temperature, **options)
    expected = exact(logits, ids, temperature)
    for name in ("logprob", "entropy", "log_normaliser"):
        torch.testing.assert_close(getattr(rows, name).double(), expected[name], rtol=rtol, atol=3e-6)
    assert torch.equal(rows.hit, expected["hit"])
    found = left.double() / (-temperature * rows.total[:, None].double())
    # The interpreter truncates to bfloat16, a GPU rounds.
    error = 2**-7 if logits.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected["gradient"], rtol=error, atol=1e-6)


def draw(n, vocabulary, device, dtype=torch.float32, scale=5.0):
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(n, vocabulary, generator=generator)).to(device, dtype)
    ids = torch.randint(vocabulary, (n,), generator=generator).to(device)
    ids[0], ids[-1] = 0, vocabulary - 1
    return logits, ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [2, 64, 65, 300])
def test_rows(device, vocabulary, dtype):
    check(*draw(5, vocabulary, device, dtype), temperature=0.7)


@pytest.mark.parametrize("stride", [301, 333, 384])
def test_any_stride(device, stride):
    check(*draw(3, 300, device), stride=stride)


def test_a_peak_far_above_what_came_before(device):
    # the shift rises once, twice, and from nothing: a row that begins with forbidden tokens
    logits, ids = draw(4, 300, device)
    logits[0, 200] += 150
    logits[1, 70] += 100
    logits[1, 250] += 300
    logits[2, :130] = -math.inf
    ids[2] = 131
    check(logits, ids, rtol=1e-4)


def test_target_that_is_forbidden(device):
    logits, ids = draw(2, 100, device)
    logits[0, ids[0]] = -math.inf
    rows, _ = run(logits, ids)
    assert rows.logprob[0] == -math.inf and rows.entropy.isfinite().all() and not rows.hit[0]


def test_nan_shows(device):
    logits, ids = draw(2, 100, device)
    logits[0, 99 if ids[0] != 99 else 98] = math.nan
    rows, _ = run(logits, ids)
    assert rows.logprob[0].isnan() and rows.logprob[1].isfinite()


def test_argmax_hit(device):
    logits, _ = draw(3, 200, device)
    ids = logits.argmax(1)
    ids[1] = (ids[1] + 1) % 200
    assert run(logits, ids)[0].hit.tolist() == [True, False, True]


def test_without_store_nothing_is_written(device):
    logits, ids = draw(3, 100, device)
    assert torch.equal(run(logits, ids, store=False)[1], logits)


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("biased", [False, True])
def test_gradient_of_logprob_and_entropy(device, softcap, biased):
    logits, ids = draw(4, 150, device)
    logits[1, :70] = -math.inf if softcap is None else -100.0
    ids[1] = 100
    bias = torch.randn(150, generator=torch.Generator().manual_seed(1)).to(device) if biased else None
    g, h = torch.randn(2, 4, generator=torch.Generator().manual_seed(2)).to(device)

    source = logits.double().clamp(min=-1e4).requires_grad_()
    z = source if bias is None else source + bias.double()
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    log_p = (z / 0.7).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(1)
    (g * log_p.gather(1, ids[:, None]).squeeze(1) + h * entropy).sum().backward()

    rows, _ = run(logits, ids, temperature=0.7, softcap=softcap, bias=bias, store=False)
    torch.testing.assert_close(rows.entropy.double(), entropy.detach(), rtol=1e-5, atol=1e-5)
    options = {"temperature": 0.7, "softcap": softcap}
    gradient(logits, ids, bias, rows.log_normaliser, rows.entropy, g, h, **options)
    torch.testing.assert_close(logits.double(), source.grad, rtol=1e-4, atol=3e-6)
