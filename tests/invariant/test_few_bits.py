"""Runs with something in few bits, or with adapters: they train, say what they hold, and resume exactly."""

import json

import pytest
import torch

from r1lab.analysis.run import load_run
from r1lab.build import quantized_settings
from r1lab.entry import root
from r1lab.evaluate import evaluate
from r1lab.load import load
from r1lab.module.checkpoint import load_checkpoint, read_checkpoint
from r1lab.module.grpo import GRPO
from tests.conftest import compose_run
from tests.invariant.test_resume import assert_same, read
from tests.module.test_grpo import SPREAD

FOUR = (
    *SPREAD,
    "show=false",
    "trainer.max_steps=4",
    "callback.checkpoint.every_n_train_steps=1",
    "+trainer.limit_val_batches=0",
    "loss.beta=0.5",
    "optimizer.lr=0.003",
    "module.num_minibatches=2",
)
REWARD_MODEL = ("experiment=reward_model", "model=tiny_bilingual_untrained", "data.batch_size=4")
OPTIONS = {
    # A new reference after the third step, in the middle of a rollout.
    "8bit": ("reference=refresh", "reference.refresh_every=3", "reference.quantize=8bit", "optimizer=adamw_8bit"),
    "nf4": ("reference.quantize=nf4",),
    "qlora": ("adapter=qlora", "adapter.rank=4"),
}
GPU = torch.cuda.is_available()
if GPU:
    OPTIONS["paged"] = ("optimizer=adamw_8bit_paged",)


@pytest.fixture(scope="module")
def runs(train_small, tmp_path_factory):
    """The folder of a run of four steps of each option, and of one with none."""
    options = {"plain": (), **OPTIONS}
    return {name: train_small(tmp_path_factory.mktemp(name), *FOUR, *own) for name, own in options.items()}


@pytest.mark.parametrize(
    "option",
    [
        pytest.param("8bit", marks=pytest.mark.slow),
        pytest.param("nf4", marks=pytest.mark.slow),
        "qlora",
        pytest.param("paged", marks=pytest.mark.skipif(not GPU, reason="pages a GPU's memory, R1LAB_TEST_GPU=1")),
    ],
)
def test_stopped_and_resumed_it_is_the_same(runs, option, train_small, tmp_path, monkeypatch):
    def fail(module, prompts, batch_idx, original=GRPO.training_step):
        if module.step == 3:
            raise RuntimeError("power cut")
        original(module, prompts, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(GRPO, "training_step", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            train_small(tmp_path, *FOUR, *OPTIONS[option])
    resumed = train_small(tmp_path, *FOUR, *OPTIONS[option], "ckpt_path=last")
    whole, again = (read(folder) for folder in (runs[option], resumed))
    for run in (whole, again):  # the fit alone, not how often it was started
        run.pop("samples")
    assert_same(whole, again)
    assert all(float(row["optimizer/gradient_norm"]) > 0 for row in whole["metrics"])


def test_what_each_holds(runs):
    held = {name: load_run(folder).metrics.iloc[-1].filter(like="memory/") for name, folder in runs.items()}
    plain = held["plain"]
    assert plain["memory/reference_mib"] == plain["memory/policy_mib"]
    assert held["8bit"]["memory/reference_mib"] < 0.3 * plain["memory/reference_mib"]
    assert held["nf4"]["memory/reference_mib"] < 0.17 * plain["memory/reference_mib"]
    assert held["8bit"]["memory/optimizer_mib"] < 0.27 * plain["memory/optimizer_mib"]
    assert held["qlora"]["memory/reference_mib"] == 0
    assert held["qlora"]["memory/trained_parameters"] < 0.1 * plain["memory/trained_parameters"]
    assert held["qlora"]["memory/policy_mib"] < 0.2 * plain["memory/policy_mib"]
    assert held["qlora"]["memory/gradients_mib"] < 0.1 * plain["memory/gradients_mib"]


def test_the_kl_starts_at_nothing_where_the_reference_is_the_policy_itself(runs):
    first = {name: load_run(folder).metrics["loss/kl"].iloc[0] for name, folder in runs.items()}
    last = {name: load_run(folder).metrics["loss/kl"].iloc[-1] for name, folder in runs.items()}
    assert all(abs(first[name]) < 1e-6 < last[name] for name in ("plain", "qlora"))
    # A reference in few bits is apart from the policy before the first step, and in fewer bits further.
    assert 1e-6 < first["8bit"] < first["nf4"] / 10


def test_training_costs_less_where_the_base_is_frozen(runs):
    spent = {name: load_run(folder).summary["flops"] for name, folder in runs.items()}
    # Each token of a rollout is scored once by the reference and trained on once.
    ratio = {name: flops["training"] / flops["scoring"] for name, flops in spent.items()}
    assert ratio["plain"] == pytest.approx(ratio["nf4"], rel=0.02)
    assert ratio["qlora"] < 0.75 * ratio["plain"]


def test_a_checkpoint_of_adapters_is_a_plain_model_to_who_loads_it(runs, command, tmp_path):
    last = runs["qlora"] / "checkpoints/last.ckpt"
    state = read_checkpoint(last)["state_dict"]
    assert not any(name.startswith("reference.") for name in state)
    policy, _, config = load_checkpoint(last)
    plain, _, _ = load_checkpoint(runs["plain"] / "checkpoints/last.ckpt")
    assert policy.state_dict().keys() == plain.state_dict().keys() and config["adapter"]["quantize"] == "nf4"
    loaded = load(str(runs["qlora"]))
    assert all(
        torch.equal(a, b.to(a.device)) for a, b in zip(policy.parameters(), loaded.policy.parameters(), strict=True)
    )
    sizes = {name: (runs[name] / "checkpoints/last.ckpt").stat().st_size for name in ("plain", "qlora")}
    assert sizes["qlora"] < 0.15 * sizes["plain"]
    options = ("num_prompts=4", "num_samples=1", "ks=[1]", "splits=[heldout]", "max_new_tokens=4")
    evaluate(command("evaluate", f"checkpoint={runs['qlora']}", *options, f"output={tmp_path / 'scores.json'}"))
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]["heldout"]["num_prompts"] == 4


@pytest.mark.parametrize(
    "overrides",
    [
        (*SPREAD, "experiment=ppo", "adapter=qlora", "adapter.rank=2"),
        pytest.param(
            (*SPREAD, "experiment=ppo", "adapter=lora", "module.critic=shared", "loss.kl_placement=reward"),
            marks=pytest.mark.slow,
        ),
        (*REWARD_MODEL, "adapter=qlora"),
        pytest.param(
            ("experiment=tiny_base", "callback=default", "adapter=lora", "data.batch_size=4"), marks=pytest.mark.slow
        ),
    ],
)
def test_other_algorithms_train_adapters_too(overrides, train_small, tmp_path):
    run = load_run(train_small(tmp_path, *overrides, "callback.samples.shown=0", "evaluate=false", "show=false"))
    assert run.summary["status"] == "finished" and run.summary["steps"] == 2
    state = read_checkpoint(tmp_path / "checkpoints/last.ckpt")["state_dict"]
    moved = [name for name, value in state.items() if ".lora_B." in name and name.startswith("policy.") and value.any()]
    assert moved
    assert run.summary["trained_parameters"] < 200_000


def test_a_teacher_in_few_bits(tiny_run, train_small, tmp_path):
    options = ("experiment=distill", "show=false", "evaluate=false", f"module.teacher.name={tiny_run}")
    run = load_run(train_small(tmp_path, *options, "module.teacher.quantize=nf4")).metrics
    assert run["memory/teacher_mib"].iloc[0] < 0.2 * run["memory/policy_mib"].iloc[0]
    assert 0 < run["loss/total"].iloc[0] < 1


def test_kl_to_base_is_to_the_policy_with_its_adapters_off(train_small, tmp_path):
    options = ("adapter=qlora", "show=false", "evaluation.kl_prompts=4", "optimizer.lr=0.01")
    spread = tuple(option for option in SPREAD if option != "evaluate=false")
    run = load_run(train_small(tmp_path, *spread, *options))
    assert 1e-7 < run.summary["after"]["heldout"]["kl_to_base"] < 1


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("reference.quantize=int8",), "reference.quantize=int8 must be 8bit, nf4, or null for none"),
        (("reference=ema", "reference.quantize=nf4"), "an average moves by less than the steps of a quantised weight"),
        (("adapter=lora", "reference=refresh"), "reference.refresh_every=400 with adapter.rank"),
        (("adapter=lora", "reference=ema"), "reference.refresh_every=1 with adapter.rank"),
        (("adapter=lora", "reference.quantize=nf4"), "set adapter.quantize for both"),
        (("adapter.quantize=nf4",), "adapter.quantize=nf4 is for a frozen base"),
        (("adapter=lora", "adapter.targets=[w]"), "there is no linear layer w"),
        (("optimizer=adamw_8bit_paged",), "optimizer=adamw_8bit_paged pages the memory of a CUDA GPU"),
    ],
)
def test_what_does_not_go_together_is_told_before_a_step(overrides, message, train_small, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Exception, match=message) as raised:
        train_small(tmp_path, *overrides)
    cause = root(raised.value)
    assert isinstance(cause, ValueError) and "\n" not in str(cause) and not (tmp_path / "summary.json").exists()


def test_what_of_a_config_is_quantised(tmp_path):
    assert quantized_settings(compose_run(tmp_path)) == []
    overrides = ("optimizer=adamw_8bit_paged", "reference.quantize=8bit", "adapter=qlora")
    expected = ["optimizer=adamw_8bit_paged", "reference.quantize=8bit", "adapter.quantize=nf4"]
    assert quantized_settings(compose_run(tmp_path, *overrides)) == expected
