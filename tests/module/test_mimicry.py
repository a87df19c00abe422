import pytest
import torch

from r1lab.load import load
from r1lab.model.policy import new_policy
from r1lab.module.mimicry import mimicry
from r1lab.rollout.sampling import Sampling


@pytest.fixture(scope="module")
def models(tiny_run):
    loaded = load(str(tiny_run))
    config = {"model_type": "llama", "vocab_size": 121, "hidden_size": 16, "intermediate_size": 16, "eos_token_id": 1}
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.5}
    return loaded, new_policy({**config, **shape}, seed=0)


def measured(loaded, student, teacher):
    prompts = [loaded.task.sample("heldout", i) for i in range(4)]
    return mimicry(
        student, teacher, loaded.tokenizer, loaded.engine, prompts, sampling=Sampling(1.0, 6), seed=1
    )  # fmt: skip


def test_a_model_mimics_itself(models):
    loaded, _ = models
    found = measured(loaded, loaded.policy, loaded.policy)
    assert found.pop("calibration") >= 0
    assert list(found.values()) == pytest.approx([0.0] * 4, abs=1e-6)


def test_each_kl_is_of_whole_distributions_on_either_ones_text(models):
    loaded, student = models
    teacher = loaded.policy
    found = measured(loaded, student, teacher)
    swapped = measured(loaded, teacher, student)
    for kind, other in (("forward_kl", "reverse_kl"), ("reverse_kl", "forward_kl")):
        for writer, is_now in (("teacher", "student"), ("student", "teacher")):
            assert found[f"{kind}/{writer}"] == pytest.approx(swapped[f"{other}/{is_now}"], rel=1e-5)
            assert found[f"{kind}/{writer}"] > 0
    # By hand, on the teacher's first completion.
    prompt = loaded.task.sample("heldout", 0)
    (completion,) = loaded.engine.generate(
        teacher, [prompt], group_size=1, sampling=Sampling(1.0, 6), seed=1, step=-1
    )  # fmt: skip
    ids = torch.tensor([[*prompt.ids, *completion.ids]])
    with torch.no_grad():
        t, s = (m(input_ids=ids).logits[0, len(prompt.ids) - 1 : -1].log_softmax(-1) for m in (teacher, student))
    alone = mimicry(
        student, teacher, loaded.tokenizer, loaded.engine, [prompt], sampling=Sampling(1.0, 6), seed=1
    )  # fmt: skip
    assert alone["forward_kl/teacher"] == pytest.approx(float((t.exp() * (t - s)).sum(-1).mean()), rel=1e-4)
