import math
from dataclasses import replace
from datetime import date

import pandas as pd
import pytest
import torch

from r1lab.advantage.group import group_advantages
from r1lab.analysis.run import load_run
from r1lab.module.checkpoint import read_checkpoint
from r1lab.module.grpo import GRPO
from r1lab.task.arithmetic import Arithmetic
from tests.conftest import compose_run

# Completions of random policies differ in length alone; a reward with a spread gives every group a gradient.
SPREAD = (
    "+reward.even={_target_: tests.module.test_grpo.even, weight: 1.0}",
    "evaluate=false",
    "callback.samples.shown=0",
)


def even(prompts, completions, **settings):
    return [float(sum(c.ids) % 2) for c in completions]


def metrics(folder) -> pd.DataFrame:
    return load_run(folder).metrics


def test_microbatches_change_nothing(train_small, tmp_path):
    whole, split = (
        metrics(train_small(tmp_path / name, *SPREAD, f"module.microbatch_tokens={tokens}"))
        for name, tokens in (("whole", 0), ("split", 30))
    )
    for name in ("loss/total", "loss/policy_loss", "loss/entropy", "optimizer/gradient_norm"):
        # Float32 sums in another order; the first step's gradient norm is about 1.
        assert split[name].tolist() == pytest.approx(whole[name].tolist(), rel=1e-3, abs=1e-5), name
    assert whole["optimizer/gradient_norm"][0] > 1e-2


@pytest.mark.parametrize(
    "overrides",
    [
        ("loss.kl=k1", "loss.kl_placement=reward", "loss.beta=0.1"),
        ("loss.kl=ratio_k3", "module.num_minibatches=2", "module.num_iterations=2", "trainer.max_steps=4"),
        ("loss.kl_target=0.05",),
        ("reference=ema",),
        ("rollout=generate",),
        ("reference=none", "loss.beta=0"),
        ("loss.kl_placement=none",),
        ("advantage.scale=batch_std", "advantage.ddof=1"),
        ("loss.ratio_level=sequence", "loss.aggregate=token_mean"),
        ("loss.entropy_coef=0.01", "loss.ratio_cap=3.0", "advantage.scale=none", "loss.aggregate=constant_length"),
    ],
)
def test_every_part_can_be_chosen(overrides, train_small, tmp_path):
    run = load_run(train_small(tmp_path, *SPREAD, *overrides))
    assert run.summary["status"] == "finished"
    assert run.metrics["loss/total"].map(math.isfinite).all()
    has_kl = not {"reference=none", "loss.kl_placement=none"} & set(overrides)
    assert ("loss/kl" in run.metrics) == has_kl
    if "loss.kl_target=0.05" in overrides:
        # The first KL is 0, below the target: the error is clipped to -0.2, so beta falls by 0.2 / 10 (kl_horizon).
        assert run.metrics["loss/beta"][0] == pytest.approx(0.001 * (1 - 0.2 / 10))


def test_ranks_that_prompts_do_not_divide_among_are_refused_before_they_start(train_small, tmp_path):
    given = ("strategy=ddp", "trainer.accelerator=cpu", "trainer.devices=3", "evaluate=false")
    with pytest.raises(
        ValueError, match="= 4 prompts a rollout does not divide among 3 ranks: rollout.batch_size=24 does"
    ):
        train_small(tmp_path, *given, "rollout.batch_size=16", "rollout.group_size=4")
    assert not torch.distributed.is_initialized()


def test_minibatches_cover_a_rollout_once_each_iteration(train_small, tmp_path):
    options = (
        "module.num_minibatches=4",
        "module.num_iterations=2",
        "trainer.max_steps=8",
        "trainer.val_check_interval=8",
    )
    run = load_run(train_small(tmp_path, *SPREAD, *options))
    # One rollout serves all eight steps; only from the second on has the policy moved away from the sampling one.
    sampled = run.metrics["time/rollout_seconds"] > 0
    assert sampled.tolist() == [True] + [False] * 7
    assert run.metrics["loss/ratio_mean"][0] == pytest.approx(1, abs=1e-5)
    assert (run.metrics["loss/ratio_mean"][1:] - 1).abs().max() > 1e-5


def test_non_finite_steps_are_skipped_counted_and_then_end_the_run(train_small, tmp_path):
    # The first step throws the weights out of range, so the losses of the second and the third are not finite.
    with pytest.raises(FloatingPointError, match="2 steps.*bad_step_2.pt"):
        train_small(
            tmp_path,
            *SPREAD,
            "optimizer.lr=1e30",
            "optimizer.max_bad_steps=1",
            "trainer.val_check_interval=50",
            "trainer.max_steps=3",
        )
    run = load_run(tmp_path)
    assert run.summary["status"] == "failed"
    kept = torch.load(tmp_path / "bad_step_2.pt", weights_only=True)
    assert len(kept["rows"]) == 8
    assert not math.isfinite(kept["loss"]) or not math.isfinite(kept["gradient_norm"])


def test_the_reference_is_refreshed_when_due(train_small, tmp_path):
    weights = {}
    for name, overrides in {
        "fixed": ("reference=fixed",),
        "refresh": ("reference=refresh", "reference.refresh_every=2"),
    }.items():
        folder = train_small(tmp_path / name, *SPREAD, *overrides)
        state = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
        weights[name] = {part: state[f"{part}.model.embed_tokens.weight"] for part in ("policy", "reference")}
    assert torch.equal(weights["refresh"]["reference"], weights["refresh"]["policy"])
    assert not torch.equal(weights["fixed"]["reference"], weights["fixed"]["policy"])


@pytest.mark.parametrize(
    "setting, known",
    [
        ("loss.aggregate=tokenmean", "sequence_mean, token_mean"),
        ("loss.ratio_level=word", "token, sequence"),
        ("loss.kl=k4", "k1, k2, k3"),
        ("loss.ratio_cap=0.5", "ratio_cap must be above 1"),
        ("advantage.scale=sd", "std, batch_std, none"),
    ],
)
def test_a_name_that_is_wrong_is_told_before_anything_is_sampled(setting, known, train_small, tmp_path):
    with pytest.raises(ValueError, match=known):
        train_small(tmp_path, setting)
    assert not (tmp_path / "summary.json").exists()


def test_the_penalty_in_the_reward_is_told_apart_from_it(train_small, tmp_path):
    run = load_run(train_small(tmp_path, *SPREAD, "loss.kl=k1", "loss.kl_placement=reward", "loss.beta=5"))
    # The first rollout is the reference's own; the reward is the weighted sum of its terms, whatever the penalty.
    assert run.metrics["reward/kl_penalty"][0] == pytest.approx(0, abs=1e-4)
    assert abs(run.metrics["reward/kl_penalty"][1]) > 1e-3
    assert run.metrics["reward/mean"].tolist() == pytest.approx(run.metrics["reward/even"].tolist())


def test_supervised_steps_that_are_not_finite_are_skipped_too(train_small, tmp_path):
    options = ("experiment=tiny_base", "callback=default", "callback.samples.shown=0", "data.batch_size=4")
    with pytest.raises(FloatingPointError, match="not finite in 1 steps"):
        train_small(tmp_path, *options, "optimizer.lr=1e30", "optimizer.scheduler.num_warmup_steps=0",
                    "optimizer.max_bad_steps=0")  # fmt: skip
    (kept,) = tmp_path.glob("bad_step_*.pt")
    assert torch.load(kept, weights_only=True)["microbatches"]


def test_lengths_of_right_and_wrong_answers_make_up_the_mean(train_small, tmp_path):
    options = ("reward.accuracy._target_=tests.module.test_grpo.even", "evaluate=false", "callback.samples.shown=0")
    table = metrics(train_small(tmp_path, *options)).dropna(subset=["rollout/correct_completion_length"])
    right, wrong = (table[f"rollout/{name}_completion_length"] for name in ("correct", "wrong"))
    made_up = table["reward/accuracy"] * right + (1 - table["reward/accuracy"]) * wrong
    assert len(table) and made_up.tolist() == pytest.approx(table["rollout/completion_length"].tolist(), rel=1e-5)


def test_prompts_that_accuracy_is_not_for_are_neither_right_nor_wrong(train_small, tmp_path, monkeypatch):
    monkeypatch.setattr("r1lab.build._refuse_absent_kinds", lambda *_: None)  # which no task of one kind would pass
    table = metrics(train_small(tmp_path, "reward.accuracy.kinds=[other]", "evaluate=false"))
    assert "rollout/completion_length" in table
    assert not {"rollout/correct_completion_length", "rollout/wrong_completion_length"} & set(table)


def test_truncated_completions_count_in_no_loss_but_in_the_baseline(train_small, tmp_path, monkeypatch):
    rollouts, counted = [], []
    accumulate, batches = GRPO.accumulate, GRPO.batches

    def watched(self, rows):
        rollouts.append(self.rollout)
        return accumulate(self, rows)

    def rows_of(self, rollout, rows):
        if rollouts and rollout is rollouts[-1]:
            counted.extend(rows)
        return batches(self, rollout, rows)

    monkeypatch.setattr(GRPO, "accumulate", watched)
    monkeypatch.setattr(GRPO, "batches", rows_of)
    options = ("module.mask_truncated=true", "rollout.batch_size=64", "rollout.max_new_tokens=60",
               "trainer.max_steps=1", "trainer.val_check_interval=1")  # fmt: skip
    run = load_run(train_small(tmp_path, *SPREAD, *options))
    (rollout,) = rollouts
    truncated = {i for i, completion in enumerate(rollout.completions) if completion.truncated}
    assert 0 < len(truncated) < 64 and set(counted) == set(range(64)) - truncated
    assert torch.equal(rollout.advantages, group_advantages(rollout.rewards.view(16, 4), scale="std", ddof=0,
                                                            eps=1e-4).flatten())  # fmt: skip
    # sequence_mean: a masked sequence adds nothing and still is one; at the first step every ratio is 1.
    kept = torch.tensor([i not in truncated for i in range(64)])
    assert run.metrics["loss/policy_loss"][0] == pytest.approx(-(rollout.advantages * kept).sum().item() / 64, abs=1e-5)


def test_dynamic_sampling_trains_on_mixed_groups(train_small, tmp_path):
    accuracy = "reward.accuracy._target_=tests.module.test_grpo.seldom"
    options = (accuracy, "rollout.batch_size=32", "evaluate=false", "callback.samples.shown=0")
    always = metrics(train_small(tmp_path / "all", *options))
    mixed = metrics(train_small(tmp_path / "mixed", *options, "rollout.max_resamples=9"))
    assert (always["advantage/zero_std_groups"] > 0).all()
    assert (mixed["advantage/zero_std_groups"] == 0).all() and (mixed["rollout/filled_groups"] == 0).all()
    assert (mixed["rollout/prompts"] * mixed["rollout/mixed_groups"]).tolist() == pytest.approx([8, 8])
    assert (mixed["rollout/sampled_accuracy"] < mixed["reward/accuracy"]).all()


def seldom(prompts, completions, **settings):
    return [float(sum(c.ids) % 8 == 0) for c in completions]


def test_a_group_of_one_cannot_be_mixed(train_small, tmp_path):
    with pytest.raises(ValueError, match="rollout.max_resamples=1 .*group of one always is: raise rollout.group_size"):
        train_small(tmp_path, "rollout.max_resamples=1", "rollout.group_size=1", "advantage.scale=none")


# Two parts of the same kind would be one in the metrics.
MIXED = (
    "task=mixed",
    "+task@task.parts.other=arithmetic",
    "task.parts.other._target_=tests.module.test_grpo.Other",
    "task.sources={arithmetic:1,other:1}",
)


class Other(Arithmetic):
    name = "other"


def test_kinds_of_a_mixture_have_metrics_of_their_own(train_small, tmp_path):
    options = ("rollout.batch_size=32", "callback.samples.shown=0", "evaluation.num_prompts=16")
    accuracy = "reward.accuracy._target_=tests.module.test_grpo.even"
    run = load_run(train_small(tmp_path, *MIXED, *options, accuracy, "data.validation_prompts=16"))
    names = [f"{kind}" for kind in ("arithmetic", "other")]
    for name in ("reward/mean", "reward/accuracy"):
        # Of eight prompts the shares of both kinds add up to the whole.
        own = run.metrics[[f"{name}/{kind}" for kind in names]]
        assert (own.min(axis=1) <= run.metrics[name]).all() and (run.metrics[name] <= own.max(axis=1)).all()
    assert {f"validation/pass_at_1/{kind}" for kind in names} <= set(run.metrics)
    assert {f"pass_at_1/{kind}_low" for kind in names} <= set(run.summary["after"]["heldout"])


def test_prompts_that_no_checkpoint_can_store_end_the_run_at_the_first_rollout(train_small, tmp_path, monkeypatch):
    sample = Arithmetic.sample

    def dated(self, split, index):
        prompt = sample(self, split, index)
        return replace(prompt, columns={**prompt.columns, "day": date(2026, 1, 1)})

    monkeypatch.setattr(Arithmetic, "sample", dated)
    with pytest.raises(
        ValueError, match=r"^prompts\[0\].columns.day \(datetime.date\) cannot be stored in a checkpoint"
    ):
        train_small(tmp_path, *SPREAD, "module.num_minibatches=2")


def scored_in_part(prompts, completions, **settings):
    """The second completion of each group has no reward, and neither has the whole last group."""
    last = len(completions) - 4
    return [None if i % 4 == 1 or i >= last else float(len(c.ids) + i % 3) for i, c in enumerate(completions)]


def no_reward(prompts, completions, **settings):
    return [None] * len(completions)


ONLY = ("~reward.accuracy", "~reward.format", "evaluate=false", "callback.samples.shown=0")


def test_completions_without_a_reward_are_left_out_of_their_groups(train_small, tmp_path):
    term = "+reward.part={_target_: tests.module.test_grpo.scored_in_part, weight: 2.0}"
    options = ("trainer.max_steps=1", "rollout.batch_size=12", "callback.samples.groups=3", "advantage.ddof=1")
    run = load_run(train_small(tmp_path, *ONLY, term, *options))
    rows = run.samples
    assert [row["reward"] is None for row in rows] == [False, True, False, False] * 2 + [True] * 4
    for group in (rows[:4], rows[4:8]):
        rewards = torch.tensor([[row["reward"] for row in group if row["reward"] is not None]])
        expected = group_advantages(rewards, scale="std", ddof=1, eps=1e-4)[0].tolist()
        assert [row["advantage"] for row in group if row["reward"] is not None] == pytest.approx(expected)
        assert max(map(abs, expected)) > 0.1
    assert all(row["advantage"] == 0 for row in rows if row["reward"] is None)
    scored = [row["reward"] for row in rows if row["reward"] is not None]
    first = run.metrics.iloc[0]
    assert first["reward/mean"] == pytest.approx(sum(scored) / len(scored)) == 2 * first["reward/part"]
    assert first["reward/unscored"] == pytest.approx(6 / 12) and first["reward/unscored_groups"] == pytest.approx(1 / 3)
    assert first["advantage/zero_std_groups"] == pytest.approx(1 / 3) and first["reward/std"] > 0
    assert math.isfinite(first["loss/total"])


@pytest.mark.slow
def test_a_rollout_without_any_reward_is_warned_of(train_small, tmp_path, caplog):
    term = "+reward.none={_target_: tests.module.test_grpo.no_reward, weight: 1.0}"
    run = load_run(train_small(tmp_path, *ONLY, term, "trainer.max_steps=1"))
    assert "step 1: no reward term applies to any of the 8 completions" in caplog.text
    assert run.metrics["reward/unscored"].tolist() == [1.0] and "reward/mean" not in run.metrics
    assert run.metrics["optimizer/bad_steps"].tolist() == [0]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ("rollout.group_size=1", "advantage.scale=none"),
            "rollout.group_size=1: .*raise rollout.group_size to at least 2",
        ),
        (("~reward.accuracy", "~reward.format"), "there is no reward term: every reward is 0"),
        (
            ("reward.accuracy.weight=0", "reward.format.weight=0"),
            "reward.accuracy.weight=0, reward.format.weight=0: every reward is 0, .*give one a weight other than 0",
        ),
        pytest.param(
            ("rollout.group_size=1",), "more than 1 rewards, got 1; raise rollout.group_size", marks=pytest.mark.slow
        ),
        pytest.param(
            ("rollout.group_size=1", "advantage.scale=batch_std", "rollout.batch_size=4"),
            "more than 1 rewards, got 1; raise rollout.group_size",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("experiment=ppo", "reward.accuracy.weight=0", "reward.format.weight=0"),
            "reward.accuracy.weight=0, reward.format.weight=0: every reward is 0",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_rewards_that_teach_nothing_are_rejected(overrides, message, train_small, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_small(tmp_path, *overrides)
    assert not (tmp_path / "summary.json").exists()


def returns(rewards):
    """REINFORCE without a baseline."""
    return rewards


def test_groups_of_one_may_learn_by_an_advantage_of_ones_own(tmp_path):
    from r1lab.build import build_policy_parts
    from r1lab.train import build_module

    options = ("rollout.group_size=1", "advantage._target_=tests.module.test_grpo.returns", "~advantage.scale",
               "~advantage.ddof", "~advantage.eps")  # fmt: skip
    config = compose_run(tmp_path, *options)
    assert build_module(config, build_policy_parts(config)).group_size == 1
