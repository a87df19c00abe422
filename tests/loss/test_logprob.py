import math

import pytest
import torch

from r1lab.loss.logprob import linear_logprob, linear_statistics, logprob


def test_hand_worked():
    # logits 0 and ln 3: probabilities 1/4, 3/4; entropy 1/4 ln 4 + 3/4 ln(4/3) = ln 4 - 3/4 ln 3
    hidden = torch.tensor([[1.0], [1.0]])
    head = torch.tensor([[0.0], [math.log(3)]])
    logprob, entropy = linear_logprob(hidden, head, torch.tensor([0, 1]), temperature=1.0, entropy="value")
    torch.testing.assert_close(logprob, torch.tensor([math.log(1 / 4), math.log(3 / 4)]))
    torch.testing.assert_close(entropy, torch.full((2,), math.log(4) - 0.75 * math.log(3)))


def test_temperature_divides_the_logits():
    # logits 0 and ln 9 at temperature 2 are 0 and ln 3
    hidden, head = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(9)]])
    logprob, entropy = linear_logprob(hidden, head, torch.tensor([1]), temperature=2.0, entropy="value")
    torch.testing.assert_close(logprob, torch.tensor([math.log(3 / 4)]))
    torch.testing.assert_close(entropy, torch.tensor([math.log(4) - 0.75 * math.log(3)]))


def test_value_and_gradient_equal_log_softmax():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    head = torch.randn(11, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    ids = torch.randint(11, (9,), generator=generator)
    weight = torch.randn(2, 9, dtype=torch.float64, generator=generator)
    logprob, entropy = linear_logprob(hidden, head, ids, temperature=0.7, entropy="gradient")
    table = torch.log_softmax(hidden @ head.T / 0.7, dim=-1)
    expected = table[torch.arange(9), ids], -(table.exp() * table).sum(-1)
    torch.testing.assert_close((logprob, entropy), expected)
    ours = torch.autograd.grad((weight[0] * logprob + weight[1] * entropy).sum(), (hidden, head))
    theirs = torch.autograd.grad((weight[0] * expected[0] + weight[1] * expected[1]).sum(), (hidden, head))
    torch.testing.assert_close(ours, theirs)


def test_half_precision_is_computed_in_float32():
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(5, 64, generator=generator).bfloat16(), torch.randn(300, 64, generator=generator)
    ids = torch.arange(5)
    logprob, entropy = linear_logprob(hidden, head.bfloat16(), ids, temperature=1.0, entropy="value")
    expected, _ = linear_logprob(hidden.float(), head.bfloat16().float(), ids, temperature=1.0)
    assert logprob.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprob, expected)


def test_large_logits_stay_finite():
    head = torch.tensor([[1e4], [-1e4]])
    logprob, entropy = linear_logprob(torch.ones(1, 1), head, torch.tensor([0]), temperature=1.0, entropy="value")
    assert logprob.item() == 0 and entropy.item() == 0


def test_entropy_is_left_out_by_default():
    assert linear_logprob(torch.ones(1, 1), torch.ones(2, 1), torch.tensor([0]), temperature=1.0)[1] is None


def test_entropy_as_a_value_has_no_gradient():
    hidden, head = torch.randn(3, 2, requires_grad=True), torch.randn(5, 2)
    _, value = linear_logprob(hidden, head, torch.arange(3), temperature=1.0, entropy="value")
    _, entropy = linear_logprob(hidden, head, torch.arange(3), temperature=1.0, entropy="gradient")
    assert torch.equal(value, entropy) and entropy.requires_grad and not value.requires_grad
    with pytest.raises(ValueError, match="none, value or gradient"):
        linear_logprob(hidden, head, torch.arange(3), temperature=1.0, entropy=True)


@pytest.mark.parametrize("name", ["temperature", "softcap", "chunk_bytes"])
def test_what_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be .*above 0.*, got 0"):
        linear_logprob(torch.ones(1, 1), torch.ones(2, 1), torch.tensor([0]), **({"temperature": 1.0} | {name: 0}))


def test_soft_cap_and_bias():
    # head gives 0 and 2, the bias 1 and 1, cap 1: tanh(1), tanh(3); temperature 1/2
    logprob, _ = linear_logprob(
        torch.ones(1, 1),
        torch.tensor([[0.0], [2.0]]),
        torch.tensor([1]),
        temperature=0.5,
        bias=torch.ones(2),
        softcap=1.0,
    )
    expected = -math.log1p(math.exp(2 * (math.tanh(1) - math.tanh(3))))
    torch.testing.assert_close(logprob, torch.tensor([expected]))


def test_a_forbidden_token_adds_nothing():
    bias = torch.tensor([0.0, -math.inf, 0.0])
    logprob, entropy = linear_logprob(
        torch.zeros(2, 1), torch.ones(3, 1), torch.tensor([0, 1]), temperature=1.0, bias=bias, entropy="value"
    )
    torch.testing.assert_close(logprob, torch.tensor([-math.log(2), -math.inf]))
    torch.testing.assert_close(entropy, torch.full((2,), math.log(2)))


def inputs(n=7, width=3, vocabulary=5):
    generator = torch.Generator().manual_seed(0)
    draw = {"dtype": torch.float64, "generator": generator, "requires_grad": True}
    hidden, head = torch.randn(n, width, **draw), torch.randn(vocabulary, width, **draw)
    bias = torch.randn(vocabulary, **draw)
    return hidden, head, bias, torch.randint(vocabulary, (n,), generator=generator)


@pytest.mark.parametrize("entropy", ["none", "value", "gradient"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_chunks_change_nothing(rows, entropy):
    hidden, head, bias, ids = inputs()

    def run(chunk_bytes):
        logprob, entropies = linear_logprob(
            hidden, head, ids, temperature=0.7, bias=bias, softcap=2.0, entropy=entropy, chunk_bytes=chunk_bytes
        )
        total = logprob.sum() + (entropies.square().sum() if entropy == "gradient" else 0)
        return logprob, entropies, *torch.autograd.grad(total, (hidden, head, bias))

    torch.testing.assert_close(run(rows * 5 * 8), run(1 << 20), rtol=1e-12, atol=1e-12)


def test_chunks_bound_what_is_kept():
    hidden, head, bias, ids = inputs(n=64, vocabulary=100)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        linear_logprob(hidden, head, ids, temperature=1.0, bias=bias, chunk_bytes=4 * 100 * 8)
    assert max(kept, default=0) < 1000


@pytest.mark.parametrize("chunk_bytes", [80, 1 << 20])
def test_gradcheck(chunk_bytes):
    hidden, head, bias, ids = inputs()

    def both(hidden, head, bias):
        return linear_logprob(
            hidden,
            head,
            ids,
            temperature=0.7,
            bias=bias,
            softcap=2.0,
            entropy="gradient",
            chunk_bytes=chunk_bytes,
        )

    assert torch.autograd.gradcheck(both, (hidden, head, bias))


def test_logits_that_exist():
    hidden, head, bias, ids = inputs()
    options = {"temperature": 0.7, "bias": bias, "softcap": 2.0, "entropy": "gradient"}
    expected = linear_logprob(hidden, head, ids, **options)
    found = logprob(hidden @ head.T, ids, **options)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(sum(x.sum() for x in xs), (hidden, head, bias)) for xs in (found, expected))
    torch.testing.assert_close(*gradients)
    assert logprob(hidden @ head.T, ids, temperature=0.7)[1] is None
    half = logprob((hidden @ head.T).bfloat16(), ids, temperature=0.7, entropy="value")
    assert all(x.dtype == torch.float32 for x in half)


@pytest.mark.parametrize("chunk_bytes", [2 * 5 * 8, 1 << 20])
def test_statistics(chunk_bytes):
    # logits 2, 1, 1 under the hidden state 1 and -2, -1, -1 under -1: the last two share the place of the largest
    hidden, head = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], requires_grad=True), torch.tensor([[2.0], [1.0], [1.0]])
    found = linear_statistics(hidden, head, torch.tensor([0, 1, 0, 2]), temperature=2.0, chunk_bytes=chunk_bytes)
    assert found.hit.tolist() == [True, False, False, True] and not found.logprob.requires_grad
    hidden, head, bias, ids = inputs()
    options = {"temperature": 0.7, "bias": bias, "softcap": 2.0, "chunk_bytes": chunk_bytes}
    found = linear_statistics(hidden, head, ids, **options)
    expected = linear_logprob(hidden, head, ids, entropy="value", **options)
    torch.testing.assert_close((found.logprob, found.entropy), tuple(x.detach() for x in expected))
