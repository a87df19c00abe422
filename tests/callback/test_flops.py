import pytest

from r1lab.analysis.run import load_run
from r1lab.callback.flops import KINDS, Flops
from r1lab.model.flops import ForwardCost, forward_cost
from r1lab.model.policy import new_policy
from r1lab.module.logprobs import counted_hidden
from r1lab.rollout.collate import collate
from tests.module.test_grpo import SPREAD
from tests.module.test_logprobs import CONFIG


@pytest.fixture(scope="module")
def run(train_small, tmp_path_factory):
    return load_run(train_small(tmp_path_factory.mktemp("flops"), *SPREAD, "trainer.max_steps=3"))


def test_the_summary_has_what_the_metrics_end_with(run):
    last, spent = run.metrics.iloc[-1], run.summary["flops"]
    assert set(spent) == {*KINDS, "total"}
    assert spent["total"] == pytest.approx(sum(spent[kind] for kind in KINDS), rel=1e-6)
    assert all(spent[kind] == pytest.approx(last[f"flops/{kind}"]) and spent[kind] > 0 for kind in KINDS)


def test_a_step_costs_what_its_tokens_do(run):
    """Sampling and the reference's pass read each token once, the update three times; attention is small here."""
    steps = run.metrics[[f"flops/{kind}" for kind in KINDS]].diff().iloc[1:]
    training, rollout, scoring = (steps[f"flops/{kind}"] for kind in KINDS)
    assert (training / scoring).tolist() == pytest.approx([3.0] * len(steps), rel=1e-6)
    assert (rollout < training).all()


def test_multi_token_prediction_counts(train_small, tmp_path):
    options = ("experiment=tiny_base", "callback=default", "data.batch_size=4", "trainer.max_steps=1")
    without, beside = (
        load_run(train_small(tmp_path / str(weight), *options, f"module.mtp_weight={weight}")).summary["flops"][
            "training"
        ]
        for weight in (0, 0.3)
    )
    # A layer more beside two, and the head twice.
    assert 1.3 < beside / without < 1.9


def test_packed_rows_count_their_tokens_and_the_pairs_within_each():
    spent = []
    counter = Flops(cost=forward_cost, budget=None)
    counter.add = lambda kind, forward: spent.append((kind, forward))
    model = new_policy(CONFIG, seed=0)
    rows = [[1, 2, 3], [4, 5, 6, 7, 8], [9]], [[10], [11], [12]]
    for packed in (False, True):  # the first use of each probes the model
        counted_hidden(model.base_model, collate(*rows, 0, packed=packed))
    hook = counter.hook(model.base_model, ForwardCost(token=1000.0, pair=1.0, head=0.0, trained=1.0))
    for packed in (False, True):
        counted_hidden(model.base_model, collate(*rows, 0, packed=packed))
    hook.remove()
    # Three rows of 6 tokens see 21 pairs each; packed they have 4, 6 and 2 tokens, and 10, 21 and 3 pairs.
    assert spent == [("training", 18_000 + 63), ("training", 12_000 + 34)]


@pytest.mark.slow
def test_the_budget_ends_the_fit_after_the_step_that_spends_it(run, train_small, tmp_path):
    first, second = run.metrics["flops/total"][:2]
    budget = f"budget.flops={(first + second) / 2:.0f}"
    ended = load_run(train_small(tmp_path, *SPREAD, "trainer.max_steps=3", budget))
    assert ended.summary["steps"] == 2 and ended.summary["status"] == "finished"
    assert ended.summary["flops"]["total"] == pytest.approx(second, rel=1e-6)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="budget.flops must be above 0, or null"):
        Flops(cost=forward_cost, budget=0.0)
