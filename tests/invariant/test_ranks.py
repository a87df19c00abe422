"""Two processes that share a batch do what one does: with a copy of the model each, and with the model in shards."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from r1lab.export import export
from r1lab.module.checkpoint import CheckpointError, load_checkpoint, read_checkpoint
from tests.invariant.ranks import run_ranks
from tests.invariant.scripted import record

COMMON = (
    "trainer.accelerator=cpu",
    "reward.accuracy._target_=tests.invariant.scripted.even",
    "evaluate=false",
    "callback.samples.shown=0",
    "optimizer.lr=0.003",
    "loss.beta=0.1",
)
DYNAMIC = (
    "rollout.batch_size=16",
    "rollout.max_resamples=4",
    "data.curriculum.highest=0.1",
    "reward.accuracy._target_=tests.invariant.scripted.seldom",
)
# Most completions of an untrained policy are cut off at two tokens: all of some rank's.
NOTHING = ("module.mask_truncated=true", "rollout.max_new_tokens=2", "trainer.max_steps=3", "rollout.batch_size=8")
HALF_USED = (
    "trainer.val_check_interval=4",
    "module.num_minibatches=2",
    "callback.checkpoint.every_n_train_steps=1",
    "optimizer.scheduler.num_training_steps=4",
)
NOTED = ("reward.accuracy._target_=tests.invariant.scripted.noted",)
# A rate at which no token is sent to another expert by a rounding of the weights.
FIVE = ("trainer.max_steps=5", "trainer.val_check_interval=5", "optimizer.lr=0.0001")
# Rollouts from a record, and microbatches that differ between the ranks.
BALANCED = ("routing.bias_rate=0.01", "routing.balance_weight=0.1")
RECORDED = (*FIVE, *BALANCED, "rollout=recorded", "module.microbatch_tokens=60")
SFT = (
    "experiment=tiny_base",
    "callback=default",
    "data.batch_size=8",
    "data.microbatch_tokens=60",
    "data.validation_documents=5",
    "module.mtp_weight=0.3",
    *FIVE,
    *BALANCED,
)
REFRESHED = ("trainer.max_steps=3", "trainer.val_check_interval=3", "reference=refresh", "reference.refresh_every=1")
RESUMED = (*HALF_USED, "reference=refresh", "reference.refresh_every=2", "routing.bias_rate=0.01")
# Enough completions that their mean length tells whether the policies are alike.
MIXED = (
    "trainer.precision=bf16-mixed",
    "rollout.batch_size=128",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
)
DDP, SHARDED = "strategy=ddp", "strategy=fsdp2"
FSDP = "strategy=fsdp"
# Not in the middle of a rollout, which is of as many ranks as it was.
HALF = ("trainer.max_steps=2", "optimizer.scheduler.num_training_steps=4", "routing.bias_rate=0.01")
ONE_RANK = {
    "grpo": (),
    "dynamic": DYNAMIC,
    "nothing": NOTHING,
    "recorded": RECORDED,
    "sft": SFT,
    "live": (*FIVE, *NOTED, "+reward.accuracy.folder=NOTES/one"),
}
# In the default tests; the others are slow.
TWO_RANKS = {
    "ddp/grpo": (DDP,),
    "fsdp2/recorded": (SHARDED, *RECORDED),
    "fsdp2/sft": (SHARDED, *SFT),
    "fsdp2/live": (
        SHARDED,
        *FIVE,
        *NOTED,
        "+reward.accuracy.folder=NOTES/two",
        "evaluate=true",
        "evaluation.num_prompts=8",
    ),
    "fsdp2/shards": (SHARDED, *HALF),
    "fsdp2/on_two": (SHARDED, *HALF, "trainer.max_steps=4", "ckpt_path=SHARDS"),
    "fsdp2/refreshed": (SHARDED, *REFRESHED),
}
MORE = {
    "ddp/whole": (DDP, *HALF_USED, "trainer.max_steps=4"),
    "ddp/halted": (DDP, *HALF_USED, "trainer.max_steps=3"),
    "ddp/halted ": (DDP, *HALF_USED, "trainer.max_steps=4", "ckpt_path=last"),
    "ddp/dynamic": (DDP, *DYNAMIC),
    "ddp/nothing": (DDP, *NOTHING),
    "fsdp2/nothing": (SHARDED, *NOTHING),
    "fsdp2/in_turn": (SHARDED, *RECORDED, "strategy.in_turn=true"),
    "fsdp2/layers": (SHARDED, "strategy.sampler=layers", *DYNAMIC),
    "fsdp2/whole": (SHARDED, *RESUMED, "trainer.max_steps=4"),
    "fsdp2/halted": (SHARDED, *RESUMED, "trainer.max_steps=2"),
    "fsdp2/halted ": (SHARDED, *RESUMED, "trainer.max_steps=4", "ckpt_path=last"),
    "fsdp2/one_file": (SHARDED, "strategy.checkpoint=whole"),
    "fsdp/grpo": (FSDP,),
    "fsdp/refreshed": (FSDP, *REFRESHED),
    "fsdp/sft": (FSDP, *SFT),
    "fsdp/whole": (FSDP, *RESUMED, "trainer.max_steps=4"),
    "fsdp/halted": (FSDP, *RESUMED, "trainer.max_steps=2"),
    "fsdp/halted ": (FSDP, *RESUMED, "trainer.max_steps=4", "ckpt_path=last"),
    "fsdp2/ppo": (SHARDED, "experiment=ppo"),
    "fsdp2/half": (SHARDED, *MIXED, "strategy.param_dtype=bfloat16"),
    "fsdp2/mixed": (SHARDED, *MIXED),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def recorded(folder) -> list[str]:
    """The overrides that take rollouts from a record."""
    return record(folder / "record.json")


@pytest.fixture(scope="module")
def overrides(recorded, folder):
    """overrides(those of a scenario): all of them."""

    def of(own) -> list[str]:
        replaced = [each for option in own for each in (recorded if option == "rollout=recorded" else [option])]
        if FSDP in own:
            replaced.append("strategy._target_=tests.invariant.scripted.FSDPOnCPU")
        replaced = [option.replace("NOTES", f"{folder}/notes") for option in replaced]
        replaced = [option.replace("SHARDS", f"{folder}/fsdp2/shards/checkpoints/last.ckpt") for option in replaced]
        return [*(["trainer.devices=2"] if "strategy=" in str(own) else []), *COMMON, *replaced]

    return of


@pytest.fixture(scope="module")
def two(folder, overrides):
    """two(name): the metrics of a scenario on two ranks."""
    run_ranks([(folder / name.strip(), overrides(own)) for name, own in TWO_RANKS.items()], folder)
    return lambda name: metrics(folder / name)


@pytest.fixture(scope="module")
def more(folder, overrides):
    """`two`, of the slow tests' scenarios."""
    run_ranks([(folder / name.strip(), overrides(own)) for name, own in MORE.items()], folder)
    return lambda name: metrics(folder / name)


@pytest.fixture(scope="module")
def one(folder, train_small, overrides):
    """one(name): the metrics of a scenario in this process."""

    def run(name: str) -> pd.DataFrame:
        if not (folder / name).exists():
            train_small(folder / name, *overrides(ONE_RANK[name]))
        return metrics(folder / name)

    return run


def metrics(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv").drop(columns="step")


def assert_equal(found: pd.DataFrame, expected: pd.DataFrame, names=None, rel=1e-4, abs=1e-5) -> None:
    # Padding is computed and counted, and how rows are packed depends on which of them a rank has; memory is a rank's.
    apart = ("time/", "flops/", "memory/")
    names = names or [name for name in expected if not name.startswith(apart) and "seconds" not in name]
    for name in names:
        assert found[name].tolist() == pytest.approx(expected[name].tolist(), rel=rel, abs=abs, nan_ok=True), name


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(checkpoint)["state_dict"]


# ---- a copy of the model each --------------------------------------------------------------------------------------


def test_two_ranks_equal_one(one, two):
    assert set(one("grpo")) == set(two("ddp/grpo"))
    assert 0 < one("grpo")["reward/accuracy"].iloc[0] < 1
    assert_equal(two("ddp/grpo"), one("grpo"))


@pytest.mark.slow
def test_two_ranks_sample_dynamically_as_one_does(one, more):
    expected = one("dynamic")
    assert (expected["rollout/prompts"] > 4).all()
    names = [name for name in expected if name.startswith("rollout/") or name == "reward/accuracy"]
    assert_equal(more("ddp/dynamic"), expected, names)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_rank_with_nothing_that_counts_takes_part(strategy, one, more):
    expected, found = one("nothing"), more(f"{strategy}/nothing")
    assert (expected["rollout/truncated"] > 0.9).all()
    assert_equal(found, expected, ["loss/total", "loss/policy_loss", "optimizer/gradient_norm"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_two_ranks_go_on_in_the_middle_of_a_rollout(strategy, more):
    expected = more(f"{strategy}/whole")
    names = [name for name in expected if "seconds" not in name]
    assert_equal(more(f"{strategy}/halted"), expected, names, rel=1e-6, abs=1e-12)


# ---- the model in shards -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["recorded", "sft"])
def test_losses_in_shards_are_one_ranks(scenario, one, two):
    expected = one(scenario)
    assert len(expected) == 5 and expected["loss/balance"].min() > 0.05
    # In the load a token counts whole, which a rounding sends elsewhere.
    names = [name for name in expected if name.startswith("loss/")]
    names += ["validation/loss"] if scenario == "sft" else ["advantage/zero_std_groups", "reward/mean"]
    assert_equal(two(f"fsdp2/{scenario}"), expected, names, rel=1e-5)
    assert_equal(two(f"fsdp2/{scenario}"), expected, ["optimizer/gradient_norm"], rel=2e-3)


def test_a_refreshed_reference_is_the_policy(two):
    assert_refreshed(two("fsdp2/refreshed"))


@pytest.mark.slow
def test_a_refreshed_reference_of_the_first_fsdp_is_the_policy(more):
    assert_refreshed(more("fsdp/refreshed"))


def assert_refreshed(found: pd.DataFrame) -> None:
    assert found["loss/reference_refreshed"].tolist() == [1, 1, 1] and found["optimizer/gradient_norm"].min() > 0.1
    assert found["loss/kl"].abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("own", [(), REFRESHED], ids=["grpo", "refreshed"])
def test_the_first_fsdp_on_one_rank_shards_nothing(own, one, folder, overrides, train_small):
    run = train_small(folder / f"fsdp_alone_{len(own)}", *overrides((FSDP, *own)), "trainer.devices=1")
    torch.distributed.destroy_process_group()
    if own:
        assert_refreshed(metrics(run))
    else:
        assert_equal(metrics(run), one("grpo"), ["loss/total", "optimizer/gradient_norm", "reward/mean"])


@pytest.mark.slow
def test_losses_by_the_first_fsdp_are_one_ranks(one, more):
    assert_equal(more("fsdp/grpo"), one("grpo"), ["loss/total", "optimizer/gradient_norm", "reward/mean"])
    assert_equal(more("fsdp/sft"), one("sft"), ["loss/total", "loss/balance", "loss/mtp", "validation/loss"], rel=1e-5)


def test_the_gathering_of_weights_is_a_part_of_a_rollout(one, two):
    found = two("fsdp2/live")
    assert (0 < found["time/gather_seconds"]).all()
    assert (found["time/gather_seconds"] < found["time/rollout_seconds"]).all()
    assert one("live")["time/gather_seconds"].tolist() == [0] * 5  # of one rank none are gathered


def test_a_rank_holds_its_shards_alone(one, two):
    for part in ("policy", "reference", "gradients", "optimizer"):
        share = two("fsdp2/recorded")[f"memory/{part}_mib"] / one("recorded")[f"memory/{part}_mib"]
        assert share.iloc[-1] == pytest.approx(0.5, abs=0.03), part


def test_the_first_rollout_is_the_same(one, two, folder):
    for run, name in ((one, "live"), (two, "fsdp2/live")):
        run(name)
    alone, *ranks = (
        json.loads((folder / "notes" / name).read_text().splitlines()[0])
        for name in ("one/rank_0.jsonl", "two/rank_0.jsonl", "two/rank_1.jsonl")
    )
    assert len(ranks[0]) == len(ranks[1]) > 1
    assert sorted(ranks[0] + ranks[1]) == sorted(alone)
    assert_equal(two("fsdp2/live").head(1), one("live").head(1), ["loss/total", "rollout/completion_length"])


@pytest.mark.slow
def test_what_is_sampled_from_is_in_the_dtype_of_the_passes(more):
    half, mixed = more("fsdp2/half"), more("fsdp2/mixed")
    # Layers compute in bfloat16 in both, but norms and routers in one alone.
    assert_equal(half, mixed, ["rollout/completion_length"], rel=0.1)
    # The parity of what is sampled, which any rounding changes: of two means of 128, four standard deviations.
    assert_equal(half, mixed, ["reward/mean"], abs=0.25)
    memory = [run["memory/sampler_mib"].iloc[-1] for run in (half, mixed)]
    assert memory[0] == pytest.approx(memory[1] / 2, rel=0.01)
    assert half["loss/total"].notna().all() and half["optimizer/gradient_norm"].min() > 0


def test_scores_before_and_after_are_of_the_whole_policy(two, folder):
    two("fsdp2/live")
    summary = json.loads((folder / "fsdp2/live/summary.json").read_text())
    assert summary["before"]["heldout"]["num_prompts"] == summary["after"]["heldout"]["num_prompts"] == 8


@pytest.mark.slow
def test_rollouts_layer_by_layer_are_those_of_a_copy(one, more):
    expected = one("dynamic")
    names = [name for name in expected if name.startswith("rollout/") or name == "reward/accuracy"]
    assert_equal(more("fsdp2/layers"), expected, names)


def test_a_checkpoint_of_two_ranks_goes_on_on_one(two, folder, overrides, train_small):
    two("fsdp2/on_two")
    train_small(folder / "on_one", *overrides((*TWO_RANKS["fsdp2/on_two"],)), "trainer.devices=1")
    torch.distributed.destroy_process_group()
    names = ["loss/total", "loss/kl", "optimizer/gradient_norm", "reward/mean"]
    assert_equal(metrics(folder / "on_one"), two("fsdp2/on_two"), names)
    two_ranks, one_rank = (weights(folder / name / "checkpoints" / "last.ckpt") for name in ("fsdp2/on_two", "on_one"))
    for name, value in two_ranks.items():
        assert (one_rank[name] - value).abs().mean() < 1e-5, name


def test_shards_load_without_ranks(two, folder):
    two("fsdp2/shards")
    shards = folder / "fsdp2/shards/checkpoints/last.ckpt"
    assert (shards / ".metadata").is_file()
    policy, _, config = load_checkpoint(shards)
    assert policy(torch.tensor([[5, 6]])).logits.isfinite().all() and config["strategy"]["checkpoint"] == "sharded"
    assert not list(shards.parent.glob(".*"))
    exported = AutoModelForCausalLM.from_pretrained(export(str(shards), folder / "exported"))
    assert torch.equal(exported(torch.tensor([[5, 6]])).logits, policy(torch.tensor([[5, 6]])).logits)


def test_damaged_shards_are_told_and_nothing_is_lost(two, folder, overrides, train_small):
    two("fsdp2/shards")
    for number, damage in enumerate((lambda path: os.truncate(path / "__1_0.distcp", 100), remove_index)):
        run = folder / f"damaged_{number}"
        shutil.copytree(folder / "fsdp2/shards", run)
        damage(run / "checkpoints/last.ckpt")
        summary = (run / "summary.json").read_text()
        with pytest.raises(CheckpointError, match="last.ckpt is damaged, or no checkpoint"):
            load_checkpoint(run)
        with pytest.raises(CheckpointError, match="last.ckpt is damaged, or no checkpoint"):
            train_small(run, *overrides(TWO_RANKS["fsdp2/shards"]), "trainer.devices=1", "ckpt_path=last")
        torch.distributed.destroy_process_group()
        assert json.loads((run / "summary.json").read_text()) == json.loads(summary)


def remove_index(shards: Path) -> None:
    (shards / ".metadata").unlink()


@pytest.mark.slow
def test_shards_of_the_first_fsdp_load_without_ranks(more, folder):
    more("fsdp/whole")
    of_first, of_second = (folder / f"{name}/whole/checkpoints/last.ckpt" for name in ("fsdp", "fsdp2"))
    assert of_first.is_dir()
    policy, _, _ = load_checkpoint(of_first)
    exported = AutoModelForCausalLM.from_pretrained(export(str(of_first), folder / "exported_fsdp"))
    assert torch.equal(exported(torch.tensor([[5, 6]])).logits, policy(torch.tensor([[5, 6]])).logits)
    found, expected = weights(of_first), weights(of_second)
    assert set(found) == set(expected)
    for name, weight in expected.items():
        assert torch.allclose(found[name], weight, atol=1e-5), name


@pytest.mark.slow
def test_one_file_of_two_ranks_loads_without_them(one, more, folder):
    more("fsdp2/one_file")
    one("grpo")
    assert (folder / "fsdp2/one_file/checkpoints/last.ckpt").is_file()
    policy, _, _ = load_checkpoint(folder / "fsdp2/one_file/checkpoints/last.ckpt")
    expected, _, _ = load_checkpoint(folder / "grpo/checkpoints/last.ckpt")
    for (name, value), other in zip(policy.state_dict().items(), expected.state_dict().values(), strict=True):
        # Adam makes whole steps of what was nothing but a rounding.
        assert (value - other).abs().mean() < 1e-5, name


@pytest.mark.slow
def test_a_value_model_in_shards_learns(more):
    found = more("fsdp2/ppo")
    assert found["loss/total"].notna().all() and (found["optimizer/value_gradient_norm"] > 0).all()


@pytest.mark.slow
def test_models_that_are_made_in_turn_are_the_same(more, two):
    pd.testing.assert_frame_equal(
        *(run("fsdp2/" + name).filter(regex="loss|norm") for run, name in ((more, "in_turn"), (two, "recorded")))
    )
