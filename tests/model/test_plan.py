from dataclasses import replace

import pytest
import torch

from r1lab.model.passes import RolloutBytes, UpdateBytes
from r1lab.model.plan import CONTEXT, FRAGMENTED, WORKSPACE, Models, Passes, Sharding, make_plan
from r1lab.model.weights import Weight

MIB = 2**20
# 4 MiB in two layers, 2 MiB beside them, all float32.
LAYERS = [Weight(f"layers.{i}", (512, 1024), torch.float32, i, True) for i in range(2)]
POLICY = [*LAYERS, Weight("embed", (512, 1024), torch.float32, None, True)]
MODELS = Models(POLICY, trained=POLICY, reference=POLICY)
PASSES = Passes(UpdateBytes(10 * MIB, 3 * MIB, 15 * MIB), 5 * MIB, RolloutBytes(4 * MIB, 6 * MIB, 1), 0)


def mib(parts: dict[str, int]) -> dict[str, float]:
    return {name: round(nbytes / MIB, 3) for name, nbytes in parts.items()}


def test_one_gpu_holds_all_of_it():
    plan = make_plan(MODELS, PASSES, "AdamW", Sharding(1))
    held = {"policy": 6, "gradients": 6, "optimizer": 12, "reference": 6, "cuBLAS workspace": 64}
    assert mib(plan.held) == held
    assert mib(plan.phases["rollout"]) == {"cache": 4, "pass and sampling": 2}
    assert mib(plan.phases["logprobs"]) == {"pass": 5}
    assert mib(plan.phases["update"]) == {"activations": 10, "head buffers": 3, "temporaries": 2}
    assert mib(plan.phases["step"]) == {"temporaries": 6}
    assert plan.largest == "update"
    assert plan.peak == sum(plan.held.values()) + 15 * MIB
    assert plan.needed == pytest.approx(plan.peak * (1 + FRAGMENTED) + CONTEXT, abs=1)


def test_gradients_of_the_only_microbatch_are_made_while_activations_go():
    # All of them would be 15 + 4 MiB of layers: here 15 with none, 8 with one layer's 2, 5 with both.
    course = ((15 * MIB, 0), (8 * MIB, 1), (5 * MIB, 2))
    only = replace(PASSES, update=replace(PASSES.update, course=course), accumulated=False)
    plan, several = (make_plan(MODELS, p, "AdamW", Sharding(1)) for p in (only, replace(only, accumulated=True)))
    assert several.peak - plan.peak == 4 * MIB and mib(plan.phases["update"])["not there at once"] == -4
    # At the end of its backward pass where there is more of them: 4 + 14.
    late = replace(only, update=replace(only.update, course=(*course[:2], (14 * MIB, 2))))
    assert several.peak - make_plan(MODELS, late, "AdamW", Sharding(1)).peak == 1 * MIB
    # Shards' are half as many, and what lies on the host is none of it.
    shards = make_plan(MODELS, only, "AdamW", Sharding(2, sharded=True))
    assert mib(shards.phases["update"])["not there at once"] == -2
    host = make_plan(MODELS, only, "AdamW", Sharding(2, sharded=True, cpu_offload=True))
    assert "not there at once" not in host.phases["update"]


def test_the_step_of_a_large_model_with_few_tokens_is_its_peak():
    small = replace(PASSES, update=UpdateBytes(MIB, 0, MIB), rollout=None, logprobs=0)
    assert make_plan(MODELS, small, "AdamW", Sharding(1)).largest == "step"
    assert make_plan(MODELS, small, "AdamW8bit", Sharding(1)).largest == "update"


def test_data_parallel_ranks_hold_buckets_of_gradients_as_well():
    held = make_plan(MODELS, PASSES, "AdamW", Sharding(2)).held
    assert mib(held)["gradient buckets"] == mib(held)["policy"] == 6


def test_shards_and_what_is_gathered_of_them():
    plan = make_plan(MODELS, PASSES, "AdamW", Sharding(2, sharded=True, gather="layer"))
    held = {"policy": 3, "gradients": 3, "optimizer": 6, "reference": 3, "cuBLAS workspace": 64}
    assert mib(plan.held) == held
    # The root of 2, and three layers of 2: the one that computes, the next, and what arrives.
    assert mib(plan.phases["rollout"])["gathered weights"] == 2 + 3 * 2
    # Gradients: the root's, a layer's and the copy that goes out, less the one that the dry run had.
    assert mib(plan.phases["update"])["whole gradients"] == 2 + 2 + 2 - 2
    whole = make_plan(MODELS, PASSES, "AdamW", Sharding(2, sharded=True, gather="whole"))
    assert "gathered weights" not in whole.phases["rollout"] and mib(whole.held)["sampler"] == 6
    half = make_plan(MODELS, PASSES, "AdamW", Sharding(2, sharded=True, param_dtype=torch.bfloat16))
    assert mib(half.phases["rollout"])["gathered weights"] == 1 + 3
    assert half.held == plan.held
    half = make_plan(MODELS, PASSES, "AdamW", Sharding(2, sharded=True, gather="whole", param_dtype=torch.bfloat16))
    assert mib(half.held)["sampler"] == 3


def test_one_rank_of_shards_copies_what_it_computes_with():
    alone = Sharding(1, sharded=True, param_dtype=torch.bfloat16)
    plan = make_plan(MODELS, PASSES, "AdamW", alone)
    assert mib(plan.phases["update"])["gathered weights"] == mib(plan.phases["logprobs"])["gathered weights"] == 1 + 1
    plan = make_plan(MODELS, PASSES, "AdamW", replace(alone, param_dtype=None))
    assert mib(plan.phases["logprobs"])["gathered weights"] == 2 + 2
    flat = make_plan(MODELS, PASSES, "AdamW", Sharding(1, sharded=True, flat=True))
    assert "gathered weights" not in flat.phases["update"]


def test_what_is_on_the_host_is_not_on_the_device():
    plan = make_plan(MODELS, PASSES, "AdamW", Sharding(2, sharded=True, reference_on_cpu=True))
    assert "reference" not in plan.held and mib(plan.host) == {"reference": 3}
    plan = make_plan(MODELS, PASSES, "AdamW", Sharding(2, sharded=True, cpu_offload=True))
    assert set(plan.held) == {"reference", "cuBLAS workspace"} and "step" in plan.phases
    assert mib(plan.host) == {"policy": 3, "gradients": 3, "optimizer": 6}
    assert plan.held["cuBLAS workspace"] == WORKSPACE


@pytest.mark.parametrize(("how", "mebibytes"), [("8bit", 2 + 2 * (0.5 + 1 / 32)), ("nf4", 2 + 2 * (0.25 + 1 / 32))])
def test_of_a_quantised_reference_the_layers_matrices_are(how, mebibytes):
    plan = make_plan(replace(MODELS, reference_quantised=how), PASSES, "AdamW", Sharding(1))
    assert mib(plan.held)["reference"] == pytest.approx(mebibytes, abs=0.001)


def test_other_models_and_copies_are_held_in_all_phases():
    models = replace(MODELS, value=LAYERS, trained=[*POLICY, *LAYERS], teacher=LAYERS[:1])
    plan = make_plan(models, replace(PASSES, copies=MIB), "AdamW", Sharding(1))
    held = mib(plan.held)
    assert (held["value"], held["teacher"], held["autocast copies"]) == (4, 2, 1)
    assert (held["gradients"], held["optimizer"]) == (10, 20)
