import pytest
import torch

from r1lab.model.moe import (
    biases,
    cast,
    load_metrics,
    load_of,
    next_bias,
    routers,
    sequence_balance,
    set_biases,
    weights_of,
)
from r1lab.model.policy import load_policy


@pytest.fixture(scope="module")
def model():
    return load_policy("tiny", dtype="float32", experts="grouped_mm")


def test_the_tiny_base_has_one_router(model):
    assert list(routers(model)) == ["model.layers.1.mlp.gate"]
    assert routers(None, torch.nn.Linear(2, 2)) == {}


def test_load_leaves_padding_out():
    chosen = torch.tensor([[0, 1], [1, 2], [3, 3]])
    assert load_of(chosen, torch.tensor([True, True, False]), 4).tolist() == [1, 2, 1, 0]


def test_weights_are_the_routers_own(model):
    router = routers(model)["model.layers.1.mlp.gate"]
    logits, weights, chosen = router(torch.randn(1, 7, model.config.hidden_size))
    torch.testing.assert_close(weights_of(logits, chosen, router), weights)


def test_bias_goes_up_where_the_load_is_below_the_mean():
    bias, load = torch.zeros(2, 3), torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 6.0]])
    expected = torch.tensor([[-0.1, 0.0, 0.1], [0.1, 0.1, -0.1]])
    torch.testing.assert_close(next_bias(bias, load, 0.1), expected)


def test_metrics_of_known_loads():
    metrics = load_metrics(torch.tensor([[2.0, 2.0, 2.0, 2.0], [8.0, 0.0, 0.0, 0.0], [4.0, 4.0, 0.0, 0.0]]))
    assert metrics["max_violation"].tolist() == [0, 3, 1]
    assert metrics["dead_experts"].tolist() == [0, 0.75, 0.5]
    torch.testing.assert_close(metrics["entropy"], torch.tensor([1.0, 0.0, 0.5]))


def by_the_formula(logits: torch.Tensor, sequences: list[int], num_sequences: int, k: int) -> torch.Tensor:
    """Equations 17 to 20 of 2412.19437, token by token."""
    total, num_experts = torch.zeros(()), logits.shape[1]
    for number in range(num_sequences):
        rows = [logits[t].sigmoid() for t, s in enumerate(sequences) if s == number]
        f, p = torch.zeros(num_experts), torch.zeros(num_experts)
        for scores in rows:
            f[scores.topk(k).indices] += num_experts / (k * len(rows))
            p = p + scores / scores.sum() / len(rows)
        total = total + (f * p).sum()
    return total


def test_sequence_balance_is_the_papers():
    torch.manual_seed(0)
    logits, sequences = torch.randn(9, 4, requires_grad=True), [0, 0, 0, -1, 1, 1, 1, 1, -1]
    loss = sequence_balance(logits, torch.tensor(sequences), 2, top_k=2)
    expected = by_the_formula(logits, sequences, 2, 2)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (loss, expected))
    torch.testing.assert_close(ours, theirs)
    assert ours[3].abs().sum() == 0 == ours[8].abs().sum()
    assert sequence_balance(logits, torch.full((9,), -1), 2, top_k=2) == 0


def test_an_even_load_has_balance_1_and_an_uneven_one_more():
    even = torch.eye(4) * 2
    assert float(sequence_balance(even, torch.zeros(4, dtype=torch.long), 1, top_k=1)) == pytest.approx(1)
    uneven = torch.tensor([[2.0, 0, 0, 0]] * 4)
    assert float(sequence_balance(uneven, torch.zeros(4, dtype=torch.long), 1, top_k=1)) > 1.2


def test_the_bias_stays_where_it_was_when_the_weights_lie_elsewhere():
    # As in shards whose parameters are offloaded: the pass gathers them where the tokens are.
    model = load_policy("tiny", dtype="float32")
    (router,) = routers(model).values()
    router.weight = torch.nn.Parameter(router.weight.to("meta"))
    set_biases(torch.full((1, 8), 0.25), routers(model))
    assert torch.equal(router.e_score_correction_bias, torch.full((8,), 0.25))


def test_the_bias_stays_exact_through_a_cast():
    model = load_policy("tiny", dtype="float32")
    set_biases(torch.full((1, 8), 0.0012345), routers(model))
    assert cast(model, torch.bfloat16) is model and model.dtype == torch.bfloat16
    assert torch.equal(biases(routers(model)), torch.full((1, 8), 0.0012345))
    assert next(iter(routers(model).values())).e_score_correction_bias.dtype == torch.float32
    assert cast(torch.nn.Linear(2, 2), torch.bfloat16).weight.dtype == torch.bfloat16
