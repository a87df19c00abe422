import math

import pytest
import torch
from torch import nn

from r1lab.analysis.run import load_run
from r1lab.build import build_policy_parts
from r1lab.module.logprobs import counted_hidden
from r1lab.module.ppo import ValuedRollout
from r1lab.rollout.collate import collate
from r1lab.train import build_module
from r1lab.types import Completion, Prompt
from tests.conftest import compose_run
from tests.module.test_grpo import SPREAD

PPO = ("experiment=ppo", *SPREAD)
COMPLETIONS = [Completion((5, 6, 1), "", False), Completion((7,), "", True)]
PROMPTS = [Prompt((6, 28, 8), "", ""), Prompt((6, 28, 8, 26, 7), "", "")]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """build(*overrides): the module of a run, with its models and without a trainer."""

    def built(*overrides):
        config = compose_run(tmp_path, *PPO, *overrides)
        module = build_module(config, build_policy_parts(config))
        module.configure_model()
        monkeypatch.setattr(module, "all_gather", lambda x: x)
        return module

    return built


def rollout(rewards, old=(), ref=(), kind=ValuedRollout):
    empty = {name: [] for name in kind.__dataclass_fields__}
    given = {"prompts": PROMPTS, "completions": COMPLETIONS, "rewards": torch.tensor(rewards)}
    return kind(
        **empty | given | {"old_logprobs": list(map(torch.tensor, old)), "ref_logprobs": list(map(torch.tensor, ref))}
    )


def batch():
    return collate([p.ids for p in PROMPTS], [c.ids for c in COMPLETIONS], pad_id=0)


# ---- what it is made of ---------------------------------------------------------------------------------------------


def test_the_reward_is_on_the_last_token_less_the_penalty_of_each(build):
    module = build("loss.beta=0.5", "advantage.gae_lambda=1", "advantage.whiten=false")
    judged = module.with_advantages(
        rollout([1.0, 3.0], old=[[-1.0, -2.0, -3.0], [-1.0]], ref=[[-2.0, -2.0, -1.0], [-5.0]])
    )
    # k1 = old - ref: 1, 0, -2 | 4, by .5.  Values are 0, so an advantage is what is still to come: 2, 2 - .5 | 3 - 2
    assert [x.tolist() for x in judged.token_advantages] == [[1.5, 2.0, 2.0], [1.0]]
    assert [x.tolist() for x in judged.returns] == [[1.5, 2.0, 2.0], [1.0]]
    assert judged.advantages.tolist() == pytest.approx([5.5 / 3, 1.0])
    assert [x.tolist() for x in judged.values] == [[0.0] * 3, [0.0]]


@pytest.mark.parametrize("whiten", ["true", "false"])
def test_a_completion_without_a_reward_trains_neither_model(build, whiten):
    module = build("reference=none", "loss.beta=0", f"advantage.whiten={whiten}")
    module.tokenwise = lambda function, rollout: [torch.tensor([0.5, 1.0, 1.5]), torch.tensor([0.25])]
    for rewards, unscored in (([1.0, math.nan], 1), ([math.nan, 1.0], 0)):
        judged = module.with_advantages(rollout(rewards))
        assert (judged.token_advantages[unscored] == 0).all()
        assert torch.equal(judged.returns[unscored], judged.values[unscored])
        alone = judged.token_advantages[1 - unscored]
        assert alone.isfinite().all()
        if whiten == "false":
            assert (alone != 0).any()
        elif len(alone) > 1:  # whitened over the counted tokens of the other completion alone
            assert alone.mean().abs() < 1e-6 and alone.std(correction=0).item() == pytest.approx(1)


def test_without_a_penalty_in_the_reward_the_last_token_has_all_of_it(build):
    for placement in ("loss", "none"):
        module = build("loss.beta=0.5", f"loss.kl_placement={placement}")
        rows = module.token_rewards(rollout([1.0, 3.0], ref=[[-2.0, -2.0, -1.0], [-5.0]]))
        assert [row.tolist() for row in rows] == [[0.0, 0.0, 1.0], [3.0]]


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_values_are_of_the_hidden_states_of_the_critics_trunk(build, critic):
    module = build(f"module.critic={critic}")
    with torch.no_grad():
        nn.init.normal_(module.value_model.head.weight)
        # A trunk of its own that has gone its own way
        for parameter in () if critic == "shared" else module.value_model.body.parameters():
            parameter.mul_(1.1)
    body = module.policy.base_model if critic == "shared" else module.value_model.body
    hidden = counted_hidden(module.policy.base_model, batch())
    values = module.values(batch(), hidden)
    expected = module.value_model(counted_hidden(body, batch()))
    assert torch.equal(values[batch().completion_mask], expected)
    assert values[1, 1:].tolist() == [0, 0] and values.abs().min(dim=1).values[0] > 0
    values.sum().backward()
    learns = [p.grad is not None for p in module.policy.base_model.parameters()]
    assert all(learns) if critic == "shared" else not any(learns)


def test_rates_of_the_two_groups(build):
    for value_lr, expected in (("0.01", 0.01), ("null", 0.002)):
        module = build("optimizer.lr=0.002", f"module.value_lr={value_lr}")
        policy, value = module.configure_optimizers()["optimizer"].param_groups
        assert (policy["lr"], value["lr"], value["name"]) == (0.002, expected, "value")
        assert {*map(id, policy["params"])} == {*map(id, module.policy.parameters())}
        assert {*map(id, value["params"])} == {*map(id, module.value_model.parameters())}


def test_a_valued_rollout_packs_and_unpacks(build):
    judged = build("reference=none", "loss.beta=0").with_advantages(rollout([1.0, 2.0]))
    again = ValuedRollout.unpack(judged.pack())
    assert again.completions == COMPLETIONS
    assert all(torch.equal(a, b) for a, b in zip(again.returns, judged.returns, strict=True))


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_microbatches_change_nothing(train_small, tmp_path):
    whole, split = (
        load_run(train_small(tmp_path / name, *PPO, f"module.microbatch_tokens={tokens}")).metrics
        for name, tokens in (("whole", 0), ("split", 30))
    )
    for name in ("total", "policy_loss", "value_loss", "explained_variance"):
        assert split[f"loss/{name}"].tolist() == pytest.approx(whole[f"loss/{name}"].tolist(), rel=1e-3, abs=1e-5)
    for name in ("gradient_norm", "value_gradient_norm"):
        assert split[f"optimizer/{name}"].tolist() == pytest.approx(whole[f"optimizer/{name}"].tolist(), rel=1e-3)
    assert whole["optimizer/value_gradient_norm"].min() > 1e-2


@pytest.mark.parametrize(
    "overrides",
    [
        ("module.critic=shared", "rollout.group_size=1", "loss.value_clip=null", "module.value_lr=null"),
        ("module.num_minibatches=2", "module.num_iterations=2", "trainer.max_steps=4", "loss.value_clip=1e-4"),
        ("loss.kl=ratio_k3", "loss.kl_placement=loss", "advantage.whiten=false", "loss.ratio_level=sequence"),
        ("reference=none", "loss.beta=0", "loss.entropy_coef=0.01", "loss.aggregate=constant_length"),
    ],
)
def test_every_part_can_be_chosen(overrides, train_small, tmp_path):
    run = load_run(train_small(tmp_path, *PPO, *overrides))
    assert run.summary["status"] == "finished"
    assert run.metrics["loss/total"].map(math.isfinite).all()
    parts = run.metrics.filter(regex=r"^loss/(policy|value|kl|entropy)_loss$").sum(axis=1)
    assert parts.tolist() == pytest.approx(run.metrics["loss/total"].tolist(), abs=1e-5)
    assert run.metrics["loss/value_loss"].iloc[0] > 0
    if "module.num_iterations=2" in overrides:
        # The values of the first pass are those before the update, so only what moved since is clipped.
        fractions = run.metrics["loss/value_clip_fraction"]
        assert fractions[0] == 0 and fractions[1:].max() > 0


def test_non_finite_values_are_skipped_counted_and_then_end_the_run(train_small, tmp_path):
    options = ("module.value_lr=1e30", "optimizer.max_bad_steps=0", "trainer.val_check_interval=50")
    with pytest.raises(FloatingPointError, match="in 1 steps.*bad_step_1.pt.*module.value_lr"):
        train_small(tmp_path, *PPO, *options)
    kept = torch.load(tmp_path / "bad_step_1.pt", weights_only=True)
    assert len(kept["rollout"]["values"]) == 8


@pytest.mark.parametrize(
    "setting, message",
    [
        ("module.critic=both", "module.critic 'both' is not one of separate, shared"),
        ("module.value_lr=0", "module.value_lr must be above 0"),
        ("loss.value_clip=0", "loss.value_clip must be above 0"),
        ("advantage.gamma=2", "advantage.gamma must be from 0 to 1"),
        ("advantage=group", "module=ppo needs advantage=gae and loss=ppo"),
        ("loss=grpo", "module=ppo needs advantage=gae and loss=ppo"),
        ("module=grpo", "module=grpo needs advantage=group and loss=grpo"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_sampled(setting, message, train_small, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_small(tmp_path, *PPO, setting)
    assert not (tmp_path / "summary.json").exists()


def test_memory_tells_what_a_value_model_takes(tiny_run, train_small, tmp_path):
    grpo = load_run(tiny_run).summary
    separate, shared = (
        load_run(train_small(tmp_path / critic, *PPO, f"module.critic={critic}")).summary
        for critic in ("separate", "shared")
    )
    held = grpo["memory_mib"]
    assert set(held) == {"policy", "gradients", "optimizer", "reference", "value"}
    assert held["value"] == 0 and held["reference"] == held["policy"] > 3
    # float32 weights: a gradient is as large, and Adam keeps two moments
    weights = grpo["trained_parameters"] * 4 / 2**20
    assert held["gradients"] == pytest.approx(weights, rel=1e-5)
    assert held["optimizer"] == pytest.approx(2 * weights, rel=1e-3)
    # Width 128. The output head is tied to the embedding, so the trunk is the whole policy.
    assert shared["trained_parameters"] == grpo["trained_parameters"] + 128 + 1
    assert separate["trained_parameters"] == 2 * grpo["trained_parameters"] + 128 + 1
    assert separate["memory_mib"]["value"] == pytest.approx(held["policy"] + 129 * 4 / 2**20)
