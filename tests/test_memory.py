import json

import pandas as pd
import pytest
import torch
from transformers import DeepseekV3Config

from r1lab.advice import advice, expert_notes, notes
from r1lab.memory import OWN, SECTIONS, memory
from r1lab.model.fake import meta_model
from r1lab.model.passes import UpdateBytes
from r1lab.model.plan import Passes, make_plan
from r1lab.model.weights import counted
from r1lab.plan_inputs import folder_config, transformers_config
from r1lab.planner import Planner


@pytest.fixture
def planner(command):
    """planner(*overrides): of the composed config."""
    from omegaconf import OmegaConf

    def make(*overrides):
        config = command("memory", *overrides)
        given = {key: OmegaConf.to_container(config[key], resolve=True) for key in SECTIONS}
        return Planner(given | {"precision": config.trainer.precision}, {key: config[key] for key in OWN})

    return make


# Of passes that are not looked at here.
NOTHING = Passes(UpdateBytes(0, 0, 0))


def held(own, ranks=1):
    """What a planner says is held in all phases, in bytes."""
    return make_plan(own.models(None), NOTHING, own.optimizer, own.sharding(ranks)).held


def held_mib(planner, *overrides):
    parts = held(planner(*overrides))
    return {name: parts.get(name, 0) / 2**20 for name in ("policy", "gradients", "optimizer", "reference", "value")}


def measured_mib(folder):
    measured = json.loads((folder / "summary.json").read_text())["memory_mib"]
    return {name: measured[name] for name in ("policy", "gradients", "optimizer", "reference", "value")}


def test_what_is_held_is_what_a_run_holds(planner, tiny_run, small):
    assert held_mib(planner, *small) == pytest.approx(measured_mib(tiny_run), rel=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [
        ["preset=ppo", "model=tiny_untrained"],
        pytest.param(
            ["experiment=reward_model", "model=tiny_bilingual_untrained", "data.batch_size=8"], marks=pytest.mark.slow
        ),
        ["model=tiny_untrained", "adapter=lora"],
        pytest.param(["model=tiny_untrained", "adapter=qlora"], marks=pytest.mark.slow),
        pytest.param(["preset=ppo", "model=tiny_untrained", "adapter=lora"], marks=pytest.mark.slow),
        ["preset=ppo", "model=tiny_untrained", "adapter=lora", "trainer.precision=bf16-true"],
    ],
    ids=["value model", "a head that is not trained", "adapters", "on a quantised base", "and of a value model"]
    + ["adapters in half precision"],
)
def test_so_with_other_modules(planner, train_small, small, tmp_path, overrides):
    overrides = (*small[1:], *overrides, "evaluate=false", "show=false")
    folder = train_small(tmp_path, *overrides)
    assert held_mib(planner, *overrides) == pytest.approx(measured_mib(folder), rel=1e-6)


def test_the_table_and_the_data(command, tmp_path, capsys):
    given = ["model=tiny_student_small", "gpus=[1,4]", "debug=two_steps"]
    memory(command("memory", *given, f"output={tmp_path}/plans/plan.json"))
    shown = capsys.readouterr().out
    assert "llama: 114,560 parameters, float32" in shown and "update, in all" in shown
    assert "fits in 80 GiB" in shown and "would need less" not in shown
    assert "\nplanned: strategy=single on 1 GPU; strategy=fsdp2 on 4 GPUs\nCUDA: 600 MiB, fragments: 5% of" in shown
    data = json.loads((tmp_path / "plans" / "plan.json").read_text())
    one, four = data["plans"]
    assert (one["gpus"], four["gpus"], data["parameters"]) == (1, 4, 114_560)
    assert one["fits"] and one["held"]["policy"] > 4 * 114_560 > one["held"]["policy"] - 10_000
    assert one["peak"] == sum(one["held"].values()) + sum(one["phases"][one["largest_phase"]].values())
    assert four["held"]["optimizer"] < one["held"]["optimizer"] / 3

    memory(command("memory", *given, f"output={tmp_path}/plan.csv"))
    rows = pd.read_csv(tmp_path / "plan.csv")
    mine = rows[(rows.gpus == 1) & (rows.phase == "all")].set_index("part").bytes
    assert mine.to_dict() == one["held"]
    assert rows[(rows.gpus == 4) & (rows.part == "peak")].bytes.item() == four["peak"]


def test_a_narrow_table_has_a_whole_caption(command, capsys):
    memory(command("memory", "model=tiny_student_small", "debug=two_steps", "strategy=fsdp2"))
    assert "\nplanned: strategy=fsdp2 on 1 GPU\nCUDA: 600 MiB, fragments: 5% of the peak\n" in capsys.readouterr().out


@pytest.mark.slow
def test_what_helps_where_it_does_not_fit_and_by_how_much(command, planner, capsys):
    given = ["model=tiny_student_small", "strategy=single", "gpu_memory_gib=0.65", "module.microbatch_tokens=32000"]
    memory(command("memory", *given))
    shown = capsys.readouterr().out
    assert "short by" in shown and "of 1 GPUs, each would need less by about" in shown
    assert "more GPUs share its weights with strategy=fsdp2" in shown
    own = planner(*given)
    found = dict(advice(own, 1))
    saved = found["model.activation_checkpointing=true"]
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert saved == own.plan(1).needed - planner(*given, "model.activation_checkpointing=true").plan(1).needed > 0
    # Half the tokens, half of what their passes hold.
    update = sum(own.plan(1).phases["update"].values())
    assert found["half the module.microbatch_tokens"] == pytest.approx(1.05 * update / 2, rel=0.05)


def test_rows_follow_from_the_config(planner):
    of_rl = planner("rollout.batch_size=64", "rollout.group_size=8", "module.microbatch_tokens=0", "prompt_tokens=10")
    assert of_rl.width == 10 + 48
    assert (of_rl.prompts(1), of_rl.prompts(4), of_rl.prompts(16)) == (8, 2, 1)
    assert of_rl.microbatch(1).rows == 64 and of_rl.microbatch(4).counted == 16 * 48
    limited = planner("module.microbatch_tokens=600", "module.num_minibatches=2", "rollout.engine.batch_size=64")
    assert limited.microbatch(1).rows == 600 // limited.width
    assert limited.prompts(1) == 4 and limited.prompt_tokens == 11
    documents = planner("experiment=tiny_base", "data.batch_size=64", "data.microbatch_tokens=600")
    largest = documents.microbatch(1)
    assert documents.prompts(1) == 0 and 400 < largest.rows * largest.width <= 600
    assert largest.width == max(length for length, _ in documents.documents) and largest.counted < 600


def test_other_modules_are_planned(planner):
    plan = planner("experiment=distill", "model=tiny_student_small", "module.teacher.name=tiny").plan(1)
    assert plan.held["teacher"] > 4 * 900_000 and "rollout" in plan.phases and "logprobs" not in plan.phases
    supervised = planner("experiment=tiny_base", "model=tiny_student_small")
    assert "reference" not in held(supervised) and supervised.prompts(1) == 0
    further = planner("experiment=tiny_base", "module.mtp_weight=0.3").plan(1)
    without = planner("experiment=tiny_base").plan(1)
    block = further.held["multi-token prediction"]
    assert block > without.held["policy"] / 4
    more = [further.held[x] - without.held[x] for x in ("gradients", "optimizer")]
    assert more == pytest.approx([block, 2 * block], rel=1e-4)
    assert further.phases["update"]["activations"] > 1.3 * without.phases["update"]["activations"]
    mixed = planner("model=tiny_student_small", "trainer.precision=bf16-mixed")
    update, copies = mixed.update(mixed.microbatch(1), None, False, None)
    assert 0 < copies < held(mixed)["policy"] / 2
    half = planner("model=tiny_student_small", "trainer.precision=bf16-true")
    assert held(half)["policy"] == pytest.approx(held(mixed)["policy"] / 2, rel=0.01)
    # In shards weights are gathered in bfloat16, and Lightning's autocast is on as well.
    for compute in (None, torch.bfloat16):
        assert mixed.step(mixed.microbatch(1), compute, False).autocast is torch.bfloat16
    assert half.step(half.microbatch(1), None, False).autocast is None


def test_deepseek_v3_is_the_papers_and_transformers_own(command):
    policy = command("memory", "model=deepseek_v3").model.policy
    config, default = transformers_config({"config": dict(policy.config), "name": None}), DeepseekV3Config()
    for name in policy.config:
        # Transformers' defaults have the context before it was extended, and another spread of fresh weights.
        if name not in ("model_type", "max_position_embeddings", "initializer_range"):
            assert getattr(config, name) == getattr(default, name), name
    total, active = counted(meta_model(config, torch.bfloat16))
    assert round(total / 1e9) == 671 and 37 <= active / 1e9 < 38


@pytest.mark.slow
def test_deepseek_v3_on_many_gpus(command, capsys):
    gathered = ("strategy=fsdp2", "strategy.param_dtype=bfloat16")
    memory(command("memory", "model=deepseek_v3", "gpus=[8,512]", "rollout.max_new_tokens=1024", *gathered))
    shown = capsys.readouterr().out
    assert "671,026,404,352 parameters, 37,552,282,624 of them for a token, float32" in shown
    assert "a token of the cache is 70,272 bytes" in shown  # 61 layers of 512 + 64 numbers of 2 bytes
    assert "256 experts whole" in shown and "do not go round 512 GPUs" in shown
    assert "strategy.sampler=layers" in shown and "model.activation_checkpointing=true" in shown


def test_more_ranks_than_experts_hold_no_less_of_them(planner):
    own = planner("model=tiny_untrained", "strategy=fsdp2")
    few, many = (held(own, ranks)["policy"] for ranks in (8, 16))
    assert many > 0.6 * few
    flat = planner("model=tiny_untrained", "strategy=fsdp")
    assert held(flat, 16)["policy"] < many
    assert "8 experts whole" in " ".join(expert_notes(own, [8, 16]))
    assert expert_notes(own, [8]) == expert_notes(flat, [16]) == []


@pytest.mark.slow
def test_adapters_need_less_of_every_kind(planner):
    plans = [planner("model=tiny_untrained", f"adapter={name}").plan(1) for name in ("none", "lora", "qlora")]
    whole, lora, qlora = (plan.held for plan in plans)
    assert "reference" in whole and "reference" not in lora | qlora
    assert lora["gradients"] == qlora["gradients"] < whole["gradients"] / 5
    assert qlora["policy"] < whole["policy"] / 3 < whole["policy"] < lora["policy"]
    # What a frozen product does not save: its input.
    activations = [plan.phases["update"]["activations"] for plan in plans]
    assert activations == sorted(activations, reverse=True)


@pytest.mark.slow
def test_a_reward_model_with_adapters(planner):
    own = ("experiment=reward_model", "model=tiny_bilingual_untrained")
    plans = [planner(*own, f"adapter={name}").plan(1) for name in ("none", "lora", "qlora")]
    activations = [plan.phases["update"]["activations"] for plan in plans]
    assert activations == sorted(activations, reverse=True)


def test_parameters_are_counted_whatever_they_are_held_in(planner):
    numbers = [counted(planner("model=tiny_untrained", f"adapter={name}").policy) for name in ("lora", "qlora")]
    assert numbers[0] == numbers[1] > counted(planner("model=tiny_untrained").policy)


@pytest.mark.slow
@pytest.mark.parametrize("precision, bits", [("8bit", 8.5), ("nf4", 4.5)])
def test_a_teacher_in_few_bits(planner, tiny_run, precision, bits):
    plain, few = (
        planner("experiment=distill", f"module.teacher.name={tiny_run}", f"module.teacher.quantize={how}").plan(1)
        for how in ("null", precision)
    )
    # The embedding stays as it is.
    assert bits / 32 < few.held["teacher"] / plain.held["teacher"] < 1.2 * bits / 32
    assert few.peak < plain.peak


@pytest.mark.slow
def test_advice_keeps_what_is_quantised(planner):
    own = planner("model=tiny_untrained", "reference.quantize=nf4")
    changed = planner("model=tiny_untrained", "reference.quantize=nf4", "model.activation_checkpointing=true")
    saved = own.plan(1).needed - changed.plan(1).needed
    assert dict(advice(own, 1))["model.activation_checkpointing=true"] == saved


def test_what_is_quantised_is_planned_whole_on_several_ranks(planner):
    own = planner("model=tiny_untrained", "optimizer=adamw_8bit", "strategy=single")
    assert (own.strategy_of(1), own.strategy_of(2)) == ("single", "ddp")
    assert planner("model=tiny_untrained", "strategy=single").strategy_of(2) == "fsdp2"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gpus=0"], "gpus must be a number from 1"),
        (["gpus=[8,x]"], "gpus must be a number from 1"),
        (["gpus=[]"], "gpus must be a number from 1"),
        (["gpu_memory_gib=-1"], "gpu_memory_gib must be a number above 0"),
        (["gpu_memory_gib=.inf"], "gpu_memory_gib must be a number above 0"),
        (["strategy=fsdp2", "strategy.param_dtype=int8"], "strategy.param_dtype=int8 is no dtype of weights"),
        (["strategy=fsdp", "strategy.cpu_offload=true"], "last microbatch alone: take strategy=fsdp2"),
        (["strategy=fsdp2", "strategy.sampler=rows"], "strategy.sampler 'rows' is not one of whole, layers"),
        (
            ["strategy=fsdp2", "strategy.cpu_offload=true", "strategy.checkpoint=whole"],
            "take strategy.checkpoint=sharded",
        ),
        (["strategy=fsdp2", "adapter=qlora"], "leave out adapter.quantize=nf4, or take strategy=ddp"),
        (["adapter=lora", "adapter.targets=[nothing]"], "there is no linear layer nothing"),
        (["adapter=lora", "reference.quantize=nf4"], "set adapter.quantize for both, or reference.quantize=null"),
        (["trainer.precision=bf16-ish"], "trainer.precision=bf16-ish is not one of"),
        (["reference.quantize=nf5"], "reference.quantize=nf5 is not one of null, 8bit, nf4"),
        (["prompt_tokens=0"], "prompt_tokens must be a number from 1"),
        (["output=plan.txt"], "output=plan.txt must end in .json or .csv"),
        (["optimizer.optimizer._target_=torch.optim.Adafactor"], "state of Adafactor is not known"),
    ],
)
def test_wrong_settings_are_told(command, overrides, message):
    with pytest.raises(ValueError, match=message):
        memory(command("memory", *overrides))


def test_a_model_without_its_config_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"model.name=nobody/nothing: its config.json is needed"):
        folder_config("nobody/nothing")
    with pytest.raises(ValueError, match="config.json is needed"):
        folder_config(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        folder_config(str(tmp_path / "absent"))


def test_of_the_only_microbatch_not_everything_is_there_at_once(planner):
    sizes = ["experiment=r1zero", "rollout.batch_size=64", "rollout.group_size=8"]
    one, two = (planner(*sizes, f"module.microbatch_tokens={n}").plan(1) for n in (0, 2000))
    assert one.phases["update"]["not there at once"] < 0
    assert "not there at once" not in two.phases["update"]


def test_notes_are_of_every_number_of_gpus(planner):
    own = planner("model=moe_145m", "strategy=fsdp2")
    plans = {ranks: own.plan(ranks) for ranks in (1, 8)}
    found = notes(own, plans)
    assert found[0] == "rows and tokens of a microbatch: 33 x 59 (1 GPU), 32 x 59 (8 GPUs)"
    assert found[1].startswith("not there at once: ")
    assert found[2] == "a token of the cache is 5,120 bytes; rows that are sampled at a time: 256 (1 GPU), 32 (8 GPUs)"
    assert notes(own, {1: plans[1]})[:2] == [
        "rows and tokens of a microbatch: 33 x 59",
        "a token of the cache is 5,120 bytes; rows that are sampled at a time: 256",
    ]
