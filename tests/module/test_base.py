"""What every module around a mixture of experts does with its routers."""

import math

import pandas as pd
import pytest
import torch

from r1lab.analysis.run import load_run
from r1lab.model.moe import routers
from r1lab.module.base import PolicyModule
from r1lab.module.checkpoint import load_checkpoint, read_checkpoint
from tests.module.test_grpo import SPREAD

BASE = (
    "experiment=tiny_base",
    "callback=default",
    "data.batch_size=8",
    "data.validation_documents=6",
    "model=tiny_moe_16",
)
BALANCED = (*BASE, "routing=balanced", "routing.bias_rate=0.01", "routing.balance_weight=0.1")


def bias_of(folder) -> torch.Tensor:
    policy, _, _ = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    return torch.stack([router.e_score_correction_bias for router in routers(policy).values()])


def metrics(folder) -> pd.DataFrame:
    return load_run(folder).metrics


def test_frozen_the_bias_stays_and_the_load_is_logged(train_small, tmp_path):
    folder = train_small(tmp_path, *SPREAD, "model=tiny_moe_16")
    assert bias_of(folder).abs().max() == 0
    found = metrics(folder)
    assert (found["routing/max_violation"] > 0).all() and "loss/balance" not in found
    assert found["routing/layer_1/entropy"].between(0, 1).all()
    load = pd.read_csv(folder / "expert_load.csv")
    assert load[["step", "layer"]].values.tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert load.filter(like="expert_").sum(axis=1).tolist() == pytest.approx([16] * 4, rel=1e-2)


@pytest.mark.parametrize(
    "overrides",
    [
        BALANCED,
        (*SPREAD, "model=tiny_moe_16", "routing.bias_rate=0.01", "routing.balance_weight=0.1"),
        pytest.param(
            (*SPREAD, "experiment=ppo", "model=tiny_moe_16", "routing.bias_rate=0.01", "routing.balance_weight=0.1"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["sft", "grpo", "ppo"],
)
def test_balanced_each_expert_is_moved_by_the_rate_each_step(overrides, train_small, tmp_path):
    folder = train_small(tmp_path, *overrides, "model.policy.dtype=float32")
    load = pd.read_csv(folder / "expert_load.csv")
    expected = torch.zeros(2, 16)
    for row in load.itertuples(index=False):
        expected[row.layer] += 0.01 * torch.sign(1 - torch.tensor(row[2:]))
    torch.testing.assert_close(bias_of(folder), expected)
    assert (metrics(folder)["loss/balance"] > 0.1).all()  # 0.1 in each of two layers, if even


def test_microbatches_change_neither_load_nor_balance_loss(train_small, tmp_path):
    whole, split = (
        metrics(train_small(tmp_path / name, *BALANCED, f"data.microbatch_tokens={tokens}"))
        for name, tokens in (("whole", 0), ("split", 40))
    )
    for name in ("loss/total", "loss/balance", "routing/max_violation", "optimizer/gradient_norm", "validation/loss"):
        expected = pytest.approx(whole[name].dropna().tolist(), rel=1e-3, abs=1e-5)
        assert split[name].dropna().tolist() == expected, name


@pytest.mark.slow
def test_the_balance_loss_is_the_routers_gradient(train_small, tmp_path):
    norms = [
        metrics(train_small(tmp_path / str(weight), *BASE, f"routing.balance_weight={weight}"))
        for weight in (0.0, 10.0)
    ]
    assert norms[1]["optimizer/gradient_norm"][0] > 1.5 * norms[0]["optimizer/gradient_norm"][0]
    assert norms[0]["loss/total"][0] == norms[1]["loss/total"][0]  # the cross-entropy alone


@pytest.mark.parametrize("precision", [pytest.param("32-true", marks=pytest.mark.slow), "bf16-true"])
@pytest.mark.slow
def test_the_bias_goes_on_exactly(precision, train_small, tmp_path):
    options = (
        *BALANCED,
        "routing.bias_rate=0.001",
        f"trainer.precision={precision}",
        "callback.checkpoint.every_n_train_steps=1",
    )
    whole = train_small(tmp_path / "whole", *options, "trainer.max_steps=3")
    first = train_small(tmp_path / "first", *options, "trainer.max_steps=2")
    ckpt = first / "checkpoints" / "last.ckpt"
    rest = train_small(tmp_path / "rest", *options, "trainer.max_steps=3", f"ckpt_path={ckpt}")
    saved = [read_checkpoint(f / "checkpoints" / "last.ckpt") for f in (whole, rest)]
    assert torch.equal(*(x["r1lab"]["routing_bias"]["policy"] for x in saved))
    assert all(x["r1lab"]["routing_bias"]["policy"].dtype == torch.float32 for x in saved)
    for name, value in saved[0]["state_dict"].items():
        assert torch.equal(value, saved[1]["state_dict"][name]), name


def test_mtp_learns_beside_the_base_and_is_dropped(train_small, tmp_path):
    with_mtp, without = (
        train_small(tmp_path / str(weight), *BASE, f"module.mtp_weight={weight}") for weight in (0.3, 0.0)
    )
    found = metrics(with_mtp)
    assert (found["loss/mtp"] > 1).all() and found["loss/mtp"].nunique() == 2
    assert (found["memory/mtp_mib"] > 0.1).all()
    assert "loss/mtp" not in metrics(without)
    # Its gradient reaches the trunk; its weights lie beside the policy, which loads without them.
    assert found["optimizer/gradient_norm"][0] != metrics(without)["optimizer/gradient_norm"][0]
    names = read_checkpoint(with_mtp / "checkpoints" / "last.ckpt")["state_dict"]
    assert any(name.startswith("mtp.body") for name in names)
    policy, _, _ = load_checkpoint(with_mtp / "checkpoints" / "last.ckpt")
    assert not [name for name, _ in policy.named_parameters() if "mtp" in name]
    assert "routing/layer_2/max_violation" in found  # its block has experts, too


@pytest.mark.slow
def test_weights_in_bfloat16_learn_by_rl_too(train_small, tmp_path):
    options = ("model=tiny_moe_16", "trainer.precision=bf16-true", "routing.bias_rate=0.0001", "experiment=ppo")
    folder = train_small(tmp_path, *SPREAD, *options)
    assert metrics(folder)["loss/total"].notna().all()
    state = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    found = {name: value for name, value in state.items() if name.endswith("e_score_correction_bias")}
    assert {name.split(".")[0] for name in found} == {"policy", "reference", "value_model"}
    assert all(value.dtype == torch.float32 for value in found.values())
    policy, _, _ = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert policy.dtype == torch.bfloat16


def test_activations_that_are_computed_again_change_no_number(train_small, tmp_path):
    kept, again = (
        metrics(train_small(tmp_path / on, *SPREAD, "model=tiny_moe_16", f"model.activation_checkpointing={on}"))
        for on in ("false", "true")
    )
    for name in ("loss/total", "optimizer/gradient_norm", "routing/max_violation", "rollout/completion_length"):
        assert again[name].tolist() == pytest.approx(kept[name].tolist(), rel=1e-5), name


REPLAY = (
    *SPREAD,
    "model=tiny_moe_16",
    "routing=replay",
    "module.num_minibatches=2",
    "optimizer.lr=0.05",
    "trainer.max_steps=4",
)


def test_replayed_the_first_update_goes_where_sampling_went(train_small, tmp_path):
    found = metrics(train_small(tmp_path, *REPLAY))
    # Of a rollout's first update the weights are those that sampled; after it the routers would choose otherwise.
    assert found["routing/changed"][0] == 0 and found["routing/changed"][2] == 0
    assert found["routing/changed"][1] > 0


def test_experts_are_recorded_beside_each_token_but_the_last(train_small, tmp_path):
    folder = train_small(tmp_path, *REPLAY, "trainer.max_steps=1", "callback.checkpoint.every_n_train_steps=1")
    (rollout,) = read_checkpoint(folder / "checkpoints" / "last.ckpt")["r1lab"]["rollouts"]
    for prompt, completion in zip(rollout["prompts"], rollout["completions"], strict=True):
        assert completion["experts"].shape == (len(prompt["ids"]) + len(completion["ids"]) - 1, 2, 4)
        assert completion["experts"].dtype == torch.int16 and completion["experts"].min() >= 0


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("model=tiny_student_small", "routing.bias_rate=0.1"), "routing.bias_rate=0.1: the model has no router"),
        (("model=tiny_student_small", "routing=replay"), "routing.replay=true: the model has no router"),
        (("routing.bias_rate=-1",), "routing.bias_rate must be at least 0"),
        (("routing=replay", "rollout=generate"), "take rollout=loop"),
        ((*BASE, "module.mtp_weight=-1"), "module.mtp_weight must be at least 0"),
    ],
)
def test_what_cannot_be_is_told(overrides, told, train_small, tmp_path):
    with pytest.raises(ValueError, match=told):
        train_small(tmp_path, *overrides, "evaluate=false", "callback.samples.shown=0")


# ---- the share of an update that reaches the weights ------------------------------------------------------------

AT_RL_RATE = (*SPREAD, "optimizer.lr=1e-5")
HALF = "trainer.precision=bf16-true"
REMEDY = "trainer.precision=bf16-mixed model.policy.dtype=float32"
THREE = ("trainer.max_steps=3", "trainer.val_check_interval=3")


def warnings_of(caplog) -> list[str]:
    return [record.message for record in caplog.records if "realised=" in record.message]


@pytest.mark.parametrize(
    "setting", [HALF, pytest.param(("model=tiny", "model.policy.dtype=bfloat16"), marks=pytest.mark.slow)]
)
def test_bfloat16_weights_are_warned_of_once_at_the_second_step(setting, train_small, tmp_path, caplog):
    setting = (setting,) if isinstance(setting, str) else setting
    folder = train_small(tmp_path, *AT_RL_RATE, *setting, *THREE, "reference=ema")
    assert metrics(folder)["optimizer/realised"].between(0.05, 0.5).all()
    (warning,) = warnings_of(caplog)
    assert "at step 2" in warning and REMEDY in warning
    assert any("reference.decay=0.99" in record.message and REMEDY in record.message for record in caplog.records)


@pytest.mark.parametrize(
    "setting",
    [
        "trainer.precision=bf16-mixed",
        pytest.param("trainer.precision=32-true", marks=pytest.mark.slow),
        pytest.param("optimizer=adamw_8bit", marks=pytest.mark.slow),
        pytest.param("module.microbatch_tokens=30", marks=pytest.mark.slow),
        pytest.param("strategy=fsdp2", marks=pytest.mark.slow),
    ],
)
def test_float32_weights_take_their_updates(setting, train_small, tmp_path, caplog):
    if "8bit" in setting:
        pytest.importorskip("bitsandbytes")
    folder = train_small(tmp_path, *AT_RL_RATE, setting, "trainer.accelerator=cpu")
    assert metrics(folder)["optimizer/realised"].tolist() == pytest.approx([1, 1], abs=1e-3)
    assert not warnings_of(caplog)


@pytest.mark.slow
def test_the_warning_waits_for_the_second_step_with_an_update(train_small, tmp_path, caplog):
    # The first step of a warm-up is at a rate of 0.
    folder = train_small(tmp_path, *AT_RL_RATE, HALF, *THREE, "optimizer.scheduler.num_warmup_steps=1")
    assert metrics(folder)["optimizer/realised"].isna().tolist() == [True, False, False]
    assert "at step 3" in warnings_of(caplog)[0]


@pytest.mark.slow
def test_each_of_ppo_s_models_is_measured(train_small, tmp_path, caplog):
    folder = train_small(tmp_path, *AT_RL_RATE, HALF, "experiment=ppo", "module.value_lr=1e-2")
    found = metrics(folder)
    assert (found["optimizer/realised"] < 0.5).all() and (found["optimizer/value_realised"] > 0.5).all()
    (warning,) = warnings_of(caplog)
    assert warning.startswith("optimizer/realised")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        (HALF,),
        ("model=tiny", "model.policy.dtype=bfloat16"),
        ("trainer.precision=bf16-mixed",),
        ("strategy=fsdp2", HALF),
        ("strategy=fsdp2", "model=tiny", "model.policy.dtype=bfloat16"),
        ("strategy=fsdp2", "strategy.param_dtype=bfloat16"),
        ("strategy=fsdp", "strategy._target_=tests.invariant.scripted.FSDPOnCPU", HALF),
    ],
)
def test_adapters_take_their_updates_on_any_base(settings, train_small, tmp_path, caplog):
    pytest.importorskip("peft")
    options = ("adapter=lora", "trainer.accelerator=cpu", "optimizer.lr=1e-2")
    folder = train_small(tmp_path, *AT_RL_RATE, *options, *settings)
    assert metrics(folder)["optimizer/realised"].tolist() == pytest.approx([1, 1], abs=1e-3)
    assert metrics(folder)["loss/kl"][1] > 1e-4  # and the passes see them
    assert not warnings_of(caplog)


@pytest.mark.slow
def test_fsdp_rejects_adapters_on_a_base_in_another_dtype(train_small, tmp_path):
    pytest.importorskip("peft")
    fsdp = ("strategy=fsdp", "strategy._target_=tests.invariant.scripted.FSDPOnCPU", "trainer.accelerator=cpu")
    with pytest.raises(ValueError, match="bfloat16 and float32: set model.policy.dtype=float32"):
        train_small(tmp_path, *AT_RL_RATE, "adapter=lora", "model=tiny", "model.policy.dtype=bfloat16", *fsdp)


@pytest.mark.slow
def test_a_skipped_step_has_no_update(train_small, tmp_path):
    options = ("optimizer.lr=1e30", "optimizer.max_bad_steps=1", "trainer.val_check_interval=50")
    with pytest.raises(FloatingPointError):
        train_small(tmp_path, *SPREAD, *options, "trainer.max_steps=3")
    found = metrics(tmp_path)
    skipped = found["optimizer/bad_steps"].diff().fillna(0) > 0
    assert skipped.any() and found["optimizer/realised"][skipped].isna().all()


@pytest.mark.slow
def test_an_optimizer_that_cannot_be_measured_says_so(train_small, tmp_path, caplog):
    caplog.set_level("INFO", "r1lab")
    options = ("optimizer.optimizer._target_=torch.optim.Adafactor", "~optimizer.optimizer.betas")
    assert "optimizer/realised" not in metrics(train_small(tmp_path, *SPREAD, *options))
    assert any("optimizer/realised is not logged" in record.message for record in caplog.records)


@pytest.fixture
def skip_first(monkeypatch):
    """The first step of the next run has a loss that is not a number."""
    take_step = PolicyModule.take_step
    monkeypatch.setattr(
        PolicyModule,
        "take_step",
        lambda self, loss, batch: take_step(self, math.nan if self.step == 0 else loss, batch),
    )


LINEAR = ("optimizer.scheduler.name=linear", "optimizer.lr=1e-4")


@pytest.mark.parametrize(
    "overrides",
    [
        (*SPREAD, *LINEAR, "module.num_minibatches=2"),
        pytest.param((*BASE, "model=tiny_student_small"), marks=pytest.mark.slow),
        pytest.param((*SPREAD, *LINEAR, "experiment=ppo"), marks=pytest.mark.slow),
    ],
    ids=["grpo", "sft", "ppo"],
)
def test_a_skipped_step_counts_as_a_step(overrides, skip_first, train_small, tmp_path):
    intervals = ("trainer.val_check_interval=2", "callback.checkpoint.every_n_train_steps=1")
    folder = train_small(tmp_path, *overrides, *intervals, "trainer.max_steps=2", "evaluate=false")
    run = load_run(folder)
    assert run.summary["status"] == "finished" and run.summary["steps"] == 2
    steps = run.metrics.dropna(subset=["optimizer/lr"])
    assert steps["step"].tolist() == [1, 2] and steps["optimizer/bad_steps"].tolist() == [1, 1]
    if LINEAR[0] in overrides:
        assert steps["optimizer/lr"].tolist() == pytest.approx([5e-5, 0])  # the next step's: 0 ends the schedule
    assert run.metrics.dropna(subset=["validation/pass_at_1"])["step"].tolist() == [2]
    saved = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == saved["r1lab"]["step"] == 2


def test_a_skipped_step_changes_no_weight(skip_first, train_small, tmp_path):
    folder = train_small(
        tmp_path, *SPREAD, "trainer.max_steps=1", "reference=fixed", "optimizer.optimizer.weight_decay=0.1"
    )
    saved = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    weights = saved["state_dict"]
    assert not saved["optimizer_states"][0]["state"]
    for name in [name for name in weights if name.startswith("policy.")]:
        assert torch.equal(weights[name], weights[name.replace("policy.", "reference.", 1)]), name
