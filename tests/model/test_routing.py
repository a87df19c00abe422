import pytest
import torch

from r1lab.model.moe import routers
from r1lab.model.policy import checkpoint_activations, load_policy
from r1lab.model.routing import Recorder, Routing

SEQUENCES = torch.tensor([[0, 0, 0, 0], [1, 1, -1, -1]])
IDS = torch.tensor([[8, 9, 10, 11], [12, 13, 0, 0]])


@pytest.fixture
def model():
    return load_policy("tiny", dtype="float32", experts="eager")


def run(model, ids=IDS):
    return model(input_ids=ids, use_cache=False).logits


def own_sum(x):
    return x


def test_a_watched_pass_with_gradient_is_counted(model):
    routing = Routing(model, balance=False)
    k, num_experts = model.config.num_experts_per_tok, model.config.n_routed_experts
    run(model)
    with torch.no_grad(), routing.watch(SEQUENCES, 2):
        run(model)
    assert routing.load.sum() == 0
    with routing.watch(SEQUENCES, 2):
        run(model)
    assert routing.load.shape == (1, num_experts) and routing.load.sum() == 6 * k  # padding is not
    metrics = routing.step(rate=0.0, everyone=own_sum)
    assert {"max_violation", "layer_0/dead_experts", "entropy"} <= metrics.keys() and "changed" not in metrics
    assert routing.load.sum() == 0


def test_a_part_over_fewer_tokens_counts_those_that_the_pass_counts(model):
    routing, k = Routing(model, balance=False), model.config.num_experts_per_tok
    without_last = torch.tensor([[0, 0, 0, -1], [1, -1, -1, -1]])
    for sequences, counted in ((SEQUENCES, 4), (torch.full_like(SEQUENCES, -1), 0)):
        with routing.watch(sequences, 2), routing.over(without_last):
            run(model)
        assert routing.load.sum() == counted * k
        routing.step(rate=0.0, everyone=own_sum)


def test_padding_changes_no_load(model):
    loads = []
    for ids, sequences in (
        (IDS, SEQUENCES),
        (torch.cat([IDS, IDS[:, :2]], 1), torch.nn.functional.pad(SEQUENCES, (0, 2), value=-1)),
    ):
        routing = Routing(model, balance=False)
        with routing.watch(sequences, 2):
            run(model, ids)
        loads.append(routing.load)
        routing.close()
    assert torch.equal(*loads)


def test_the_step_moves_the_bias_and_the_choice_with_it(model):
    routing = Routing(model, balance=False)
    with routing.watch(SEQUENCES, 2):
        run(model)
    load = routing.load
    routing.step(rate=10.0, everyone=own_sum)
    assert torch.equal(routing.bias, 10 * torch.sign(load.mean() - load))
    busiest = int(load.argmax())
    with routing.watch(SEQUENCES, 2):
        run(model)
    assert routing.load[0, busiest] == 0


def test_checkpointing_counts_once_and_has_the_same_gradient(model):
    gradients, loads = [], []
    for checkpointing in (False, True):
        routing = Routing(model, balance=True)
        if checkpointing:
            checkpoint_activations(model)
        model.zero_grad()
        with routing.watch(SEQUENCES, 2):
            logits = run(model)
            (logits.logsumexp(-1).sum() + routing.loss).backward()
        loads.append(routing.load.clone())
        gradients.append(next(iter(routers(model).values())).weight.grad.clone())
        routing.close()
    assert torch.equal(*loads)
    torch.testing.assert_close(*gradients)


def test_the_balance_loss_reaches_the_router_alone_through_it(model):
    routing = Routing(model, balance=True)
    with routing.watch(SEQUENCES, 2):
        run(model)
        routing.loss.backward()
    assert next(iter(routers(model).values())).weight.grad.abs().sum() > 0
    assert routing.loss == 0.0  # of no pass


def test_a_recorded_choice_is_given_back(model):
    with Recorder(model) as recorder, torch.no_grad():
        logits = run(model)
    chosen = recorder.take()
    assert chosen.shape == (8, 1, model.config.num_experts_per_tok)
    routing = Routing(model, balance=False)
    # Another router, the old choice: only the gate weights are the new one's.
    router = next(iter(routers(model).values()))
    torch.nn.init.normal_(router.weight, std=0.5)
    with torch.no_grad():
        other = run(model)
    with routing.watch(SEQUENCES, 2, chosen.view(2, 4, 1, -1)):
        run(model)
    assert torch.equal(routing.load[0], torch.bincount(chosen.view(2, 4, -1)[SEQUENCES >= 0].flatten(), minlength=8))
    assert not torch.equal(logits, other)
    assert routing.step(rate=0.0, everyone=own_sum)["changed"] > 0.3


def test_a_choice_of_the_routers_own_changes_nothing(model):
    with Recorder(model) as recorder, torch.no_grad():
        logits = run(model)
    routing = Routing(model, balance=False)
    given = recorder.take().view(2, 4, 1, -1)
    given[:, -1] = -1  # chosen by the router
    with routing.watch(SEQUENCES, 2, given):
        torch.testing.assert_close(run(model), logits)
    assert routing.step(rate=0.0, everyone=own_sum)["changed"] == 0
