import pytest
import torch
from transformers import AutoConfig

from r1lab.model.fake import meta_model
from r1lab.model.passes import Microbatch
from r1lab.module.dry_run import DryHead, DryRun, Step, dry_run
from r1lab.rollout.sampling import Sampling

V, WIDTH = 512, 32
CONFIG = AutoConfig.for_model(
    "llama", vocab_size=V, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, pad_token_id=0, tie_word_embeddings=True,
)  # fmt: skip
BATCH = Microbatch(4, 32, 96)


@pytest.fixture(scope="module")
def policy():
    return meta_model(CONFIG, torch.float32)


def step(module: str, head: str = "torch", **options) -> Step:
    return Step(module, BATCH, DryHead(head, None), prompt_tokens=8, sampling=Sampling(1.0, 24), **options)


@pytest.mark.parametrize("head", ["torch", "triton"])
def test_a_step_of_grpo(policy, head):
    found = dry_run(step("grpo", head, prompts=2, group_size=4, reference=True), policy)
    logits = 96 * V * 4
    assert found.update.head > logits and found.logprobs > logits
    assert found.rollout.cache == pytest.approx(8 * 31 * 2 * 2 * WIDTH * 4, rel=0.1)
    alone = dry_run(step("grpo", head), policy)
    assert alone.rollout is None and alone.logprobs == 0
    assert alone.update == found.update


def test_a_value_model_has_passes_of_its_own(policy):
    plain, valued = (DryRun.of(step(module), policy).update()[0] for module in ("grpo", "ppo"))
    assert valued.activations == pytest.approx(2 * plain.activations, rel=0.1)
    shared = DryRun.of(step("ppo", critic="shared"), policy).update()[0]
    assert plain.activations <= shared.activations < 1.1 * plain.activations


@pytest.mark.parametrize("head", ["torch", "triton"])
@pytest.mark.parametrize("mode", ["sft", "reverse_kl", "jsd", "top_k", "sampled"])
def test_distillation_in_each_mode(policy, mode, head):
    update, _ = DryRun.of(step("distill", head, mode=mode, k=3), policy, policy).update()
    logits = 96 * V * 4
    assert update.head > (2 if mode in ("reverse_kl", "jsd") else 1) * logits
    assert update.peak >= update.activations + update.head


def test_a_reward_model_has_no_logits(policy):
    scored = Step("reward_model", Microbatch(4, 32, 4), DryHead("torch", None))
    update, _ = DryRun.of(scored, policy).update()
    assert update.head < V * 4 * 4


def test_a_teacher_is_asked_without_gradient(policy):
    logprobs, rollout = DryRun.of(step("opd"), policy, policy).before()
    assert logprobs > 96 * V * 4 and rollout is None
