import math

import pytest
import torch

from r1lab.kernel import chunks
from r1lab.kernel.linear_logprob import linear_logprob, linear_statistics, logprob
from r1lab.loss import logprob as definition

# N, H, V; the last of each list only where there is a GPU
SMALL = [(1, 8, 130), (5, 8, 257)]
FULL = [(1, 64, 50257), (33, 256, 151936), (300, 512, 129280), (1000, 64, 50257)]
SHAPES = FULL if torch.cuda.is_available() else SMALL


def inputs(shape, device, dtype, *, biased=False):
    n, width, vocabulary = shape
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, width, generator=generator).to(dtype)
    head = (3 * width**-0.5 * torch.randn(vocabulary, width, generator=generator)).to(dtype)
    bias = torch.randn(vocabulary, generator=generator).to(dtype) if biased else None
    ids = torch.randint(vocabulary, (n,), generator=generator)
    ids[-1], ids[0] = vocabulary - 1, 0
    weights = torch.randn(2, n, generator=generator).to(device)
    return (
        *(None if x is None else x.to(device).requires_grad_() for x in (hidden, head, bias)),
        ids.to(device),
        weights,
    )


def materialised(hidden, head, ids, *, temperature, bias, softcap, entropy):
    """As a model makes logits, in the dtype it is in; the softmax in float32."""
    logits = hidden @ head.T
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if bias is None else logits + bias
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    log_p = (logits / temperature).log_softmax(-1)
    return log_p.gather(1, ids[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(1)


def results(function, tensors, ids, weights, **options):
    options = {"entropy": "gradient"} | options
    values = function(*tensors[:2], ids, bias=tensors[2], temperature=0.9, **options)
    values = values[:1] if options["entropy"] == "none" else values
    total = sum((w * v).sum() for w, v in zip(weights, values, strict=False))
    given = [x for x in tensors if x is not None]
    return *(v.detach() for v in values), *torch.autograd.grad(total, given)


@pytest.mark.parametrize(("biased", "softcap"), [(False, None), (True, 5.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "entropy"), [*((shape, "gradient") for shape in SHAPES), (SHAPES[1], "none")], ids=str
)
def test_against_float64(device, shape, entropy, dtype, biased, softcap, assert_close_to_float64):
    *tensors, ids, weights = inputs(shape, device, dtype, biased=biased)
    doubles = [None if x is None else x.detach().double().requires_grad_() for x in tensors]
    options = {"softcap": softcap, "entropy": entropy}
    exact = results(materialised, doubles, ids, weights.double(), **options)
    same = results(materialised, tensors, ids, weights, **options)
    for pieces in (1, 3):
        budget = -(-shape[0] // pieces) * (shape[2] + 64) * dtype.itemsize
        fused = results(linear_logprob, tensors, ids, weights, chunk_bytes=budget, **options)
        last = -1 if biased else None
        assert_close_to_float64(fused[:last], same[:last], exact[:last])
        # The bias's gradient sums those of logits, which are in the logits' dtype: a rounding more.
        assert_close_to_float64(fused[-1:], same[-1:], exact[-1:], slack=max(torch.finfo(dtype).eps, 1e-6))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it is taken without being told")
@pytest.mark.parametrize(("biased", "softcap"), [(False, None), (True, 5.0)])
@pytest.mark.parametrize("entropy", ["none", "gradient"])
def test_with_the_product_of_the_gpu(
    device, entropy, biased, softcap, product_of_the_gpu, calls, assert_close_to_float64
):
    made = calls(chunks, "_backward_of_product")
    *tensors, ids, weights = inputs((20, 24, 150), device, torch.float32, biased=biased)
    doubles = [None if x is None else x.detach().double().requires_grad_() for x in tensors]
    options = {"softcap": softcap, "entropy": entropy}
    exact = results(materialised, doubles, ids, weights.double(), **options)
    same = results(materialised, tensors, ids, weights, **options)
    for budget in (1 << 20, 16 * 192 * 4):
        fused = results(linear_logprob, tensors, ids, weights, chunk_bytes=budget, **options)
        assert_close_to_float64(fused, same, exact, slack=3e-6)
    assert len(made) == (2 if entropy == "none" else 0)


def test_gradients_of_tiny_size_survive_float16(device):
    *tensors, ids, weights = inputs(SHAPES[-1], device, torch.float16)
    large, small = (results(linear_logprob, tensors, ids, weights * scale)[2:] for scale in (1.0, 2.0**-12))
    for a, b in zip(large, small, strict=True):
        torch.testing.assert_close(b.float() * 2**12, a.float(), rtol=0.02, atol=a.abs().max().item() * 1e-2)


def test_forward_only(device):
    hidden, head, _, ids, _ = inputs(SHAPES[-1], device, torch.bfloat16)
    found = linear_statistics(hidden, head, ids, temperature=0.9, chunk_bytes=1 << 14)
    logprobs, entropy = linear_logprob(hidden, head, ids, temperature=0.9, entropy="value")
    torch.testing.assert_close((found.logprob, found.entropy), (logprobs.detach(), entropy))
    assert not found.logprob.requires_grad and not entropy.requires_grad
    assert torch.equal(found.hit, (hidden @ head.T).gather(1, ids[:, None])[:, 0] >= (hidden @ head.T).amax(1))


def apart(x):
    """The same numbers, each with another between it and the next."""
    return torch.stack([x, x], dim=-1)[..., 0]


def test_statistics_as_defined(device):
    hidden, head, bias, ids, _ = inputs(SHAPES[-1], device, torch.float32, biased=True)
    ids[1:3] = (hidden @ head.T + bias)[1:3].argmax(1)
    options = {"temperature": 0.9, "softcap": 5.0, "chunk_bytes": 3 * SHAPES[-1][2] * 4}
    found = linear_statistics(hidden.T.contiguous().T, head, apart(ids), bias=apart(bias), **options)
    expected = definition.linear_statistics(hidden, head, ids, bias=bias, **options)
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-4, atol=1e-5)
    assert found.hit[1:3].all() and not found.hit.all() and not found.logprob.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("entropy", ["none", "value", "gradient"])
def test_logits_that_lie_anyhow(device, entropy, dtype):
    hidden, head, bias, ids, weights = inputs(SHAPES[1], device, dtype, biased=True)
    logits = (hidden @ head.T).detach()

    def run(function, *tensors):
        tensors = [x.detach().requires_grad_() for x in tensors]
        options = {"temperature": 0.7, "bias": tensors[1], "softcap": 5.0, "entropy": entropy}
        values = [x for x in function(tensors[0], apart(ids), **options) if x is not None]
        before = tensors[0].detach().clone()
        total = sum((w * v).sum() for w, v in zip(weights, values, strict=False) if v.requires_grad)
        gradients = torch.autograd.grad(total, tensors)
        assert torch.equal(tensors[0], before)
        return *(v.detach() for v in values), *gradients

    exact = run(definition.logprob, logits, bias)
    # The interpreter truncates to bfloat16, a GPU rounds.
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-6, "atol": 2e-3}
    wide = torch.full((len(logits), logits.shape[1] + 70), math.nan, dtype=dtype, device=device)
    wide[:, 70:] = logits
    for lying in (logits, logits.T.contiguous().T, wide[:, 70:]):
        torch.testing.assert_close(run(logprob, lying, apart(bias)), exact, **close)


@pytest.mark.parametrize("name", ["linear_logprob", "linear_statistics", "logprob"])
def test_signature(name, same_signature):
    same_signature(globals()[name], getattr(definition, name))


def test_logits_that_exist(device, assert_close_to_float64):
    hidden, head, _, ids, weights = inputs(SHAPES[-1], device, torch.float32)
    logits = (hidden @ head.T).detach()
    logits[0, 1] = -math.inf

    def run(function, dtype):
        source = logits.to(dtype).clone().requires_grad_()
        values = function(source, ids, temperature=0.7, entropy="gradient")
        total = sum((w * v).sum() for w, v in zip(weights.to(dtype), values, strict=True))
        return *(v.detach() for v in values), *torch.autograd.grad(total, source)

    def plain(source, ids, *, temperature, entropy):
        log_p = (source / temperature).log_softmax(-1)
        finite = log_p.masked_fill(log_p == -math.inf, 0.0)
        return log_p.gather(1, ids[:, None]).squeeze(1), -(log_p.exp() * finite).sum(1)

    assert_close_to_float64(run(logprob, torch.float32), run(plain, torch.float32), run(plain, torch.float64))


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_has_no_gradient(device, frozen):
    *tensors, ids, _ = inputs(SHAPES[0], device, torch.float32)
    tensors[frozen].requires_grad_(False)
    logprobs, _ = linear_logprob(*tensors[:2], ids, temperature=1.0)
    logprobs.sum().backward()
    assert tensors[frozen].grad is None and tensors[1 - frozen].grad.isfinite().all()


def test_autocast_keeps_a_float32_gradient(device):
    *tensors, ids, _ = inputs(SHAPES[-1], device, torch.float32)
    with torch.autocast(device, dtype=torch.bfloat16):
        logprobs, _ = linear_logprob(*tensors[:2], ids, temperature=1.0)
    logprobs.sum().backward()
    exact, _ = definition.linear_logprob(*tensors[:2], ids, temperature=1.0)
    gradients = torch.autograd.grad(exact.sum(), tensors[:2])
    for x, expected in zip(tensors, gradients, strict=False):
        assert x.grad.dtype == torch.float32
        torch.testing.assert_close(x.grad, expected, rtol=0.1, atol=0.03 * expected.abs().max().item())


def test_no_tokens(device):
    hidden = torch.zeros(0, 4, device=device, requires_grad=True)
    head = torch.ones(7, 4, device=device, requires_grad=True)
    logprobs, _ = linear_logprob(hidden, head, torch.zeros(0, dtype=torch.int64, device=device), temperature=1.0)
    logprobs.sum().backward()
    assert logprobs.shape == (0,) and (head.grad == 0).all()


@pytest.mark.parametrize("value", [0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["temperature", "softcap", "chunk_bytes"])
def test_what_must_be_positive(device, name, value):
    for function in (linear_logprob, definition.linear_logprob):
        with pytest.raises(ValueError, match=rf"{name} must be .*above 0.*, got {value}"):
            function(torch.ones(1, 1), torch.ones(2, 1), torch.tensor([0]), **({"temperature": 1.0} | {name: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": torch.zeros(3)}, r"bias must be \[11\] like head, got \[3\]"),
        ({"ids": torch.zeros(3, dtype=torch.int64)}, r"ids must be int64 \[4\] like hidden, got torch.int64 \[3\]"),
        ({"ids": torch.zeros(4, dtype=torch.bool)}, "ids must be int64"),
        ({"head": torch.zeros(11, 7)}, "hidden must be"),
        ({"head": torch.zeros(0, 8)}, "V above 0"),
    ],
)
def test_shapes_that_do_not_fit(changes, message):
    arguments = {"hidden": torch.ones(4, 8), "head": torch.ones(11, 8), "ids": torch.zeros(4, dtype=torch.int64)}
    for function in (linear_logprob, linear_statistics, definition.linear_logprob, definition.linear_statistics):
        with pytest.raises(ValueError, match=message):
            function(**arguments | changes, temperature=1.0)


def test_several_ids_a_token_are_the_definition_s_alone():
    ids = torch.zeros(4, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="take the definition, kernel=torch"):
        linear_logprob(torch.ones(4, 8), torch.ones(11, 8), ids, temperature=1.0)
    with pytest.raises(ValueError, match="ids must be int64"):
        logprob(torch.ones(4, 11), ids[:2, 0], temperature=1.0)


@pytest.mark.parametrize("stored", [False, True])
def test_an_id_outside_the_vocabulary_has_no_logprob(device, stored):
    """And nothing is written for it, before or behind its row."""
    hidden, head, _, ids, _ = inputs(SHAPES[1], device, torch.float32)
    vocabulary, bad = SHAPES[1][2], torch.zeros_like(ids, dtype=torch.bool)
    ids[1], ids[3], bad[[1, 3]] = vocabulary, -100, True
    if stored:
        from r1lab.kernel.rows import Rows, statistics

        rows = Rows.empty(len(ids), device)
        padded = torch.full((len(ids) + 2, vocabulary), 7.0, device=device)
        padded[1:-1] = (hidden @ head.T).detach()
        statistics(padded[1:-1], ids, None, rows, temperature=1.0, softcap=None, store=True)
        assert (padded[[0, -1]] == 7).all()
        found = rows.logprob
    else:
        found = linear_logprob(hidden, head, ids, temperature=1.0)[0]
    assert found.isnan().equal(bad)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it is taken without being told")
def test_an_id_outside_the_vocabulary_under_the_product_of_the_gpu(device, product_of_the_gpu):
    hidden, head, _, ids, _ = inputs((20, 24, 150), device, torch.float32)
    bad = torch.zeros_like(ids, dtype=torch.bool)
    ids[1], ids[3], bad[[1, 3]] = 150, -1, True
    logprobs, _ = linear_logprob(hidden, head, ids, temperature=1.0)
    assert logprobs.isnan().equal(bad)
    logprobs[~bad].sum().backward()
    assert hidden.grad[~bad].isfinite().all()


@pytest.mark.parametrize("softcap", [0.5, 30.0, 1e3, 1e7, 1e30])
def test_a_soft_cap_of_any_size(device, softcap, assert_close_to_float64):
    hidden, head, _, ids, _ = inputs(SHAPES[1], device, torch.float32)
    given = [x.detach() for x in (hidden, head)]
    exact, torch_s, found = (
        function(*(x.to(dtype) for x in given), ids, temperature=1.0, softcap=softcap)[0]
        for function, dtype in (
            (definition.linear_logprob, torch.float64),
            (definition.linear_logprob, torch.float32),
            (linear_logprob, torch.float32),
        )
    )
    assert_close_to_float64([found], [torch_s], [exact])
