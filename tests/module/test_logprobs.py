import pytest
import torch

from r1lab.model.policy import new_policy
from r1lab.module.logprobs import completion_logprobs
from r1lab.rollout.collate import collate
from tests.architectures import tiny_model

CONFIG = {
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
PROMPTS = [[3, 4, 5, 6], [7], [8, 9]]
COMPLETIONS = [[2, 1], [4, 5, 6, 1], [12]]


@pytest.fixture(scope="module")
def model():
    return new_policy(CONFIG, seed=0)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_a_log_softmax_over_each_row_alone(model, temperature):
    batch = collate(PROMPTS, COMPLETIONS, pad_id=0)
    with torch.no_grad():
        logprobs, entropy = completion_logprobs(model, batch, temperature=temperature, entropy="value")
    assert logprobs.shape == entropy.shape == (3, 4)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0]
        for t, token in enumerate(completion):
            all_logprobs = (logits[len(prompt) - 1 + t] / temperature).log_softmax(-1)
            assert logprobs[row, t].item() == pytest.approx(all_logprobs[token].item(), abs=1e-5)
            expected = -(all_logprobs.exp() * all_logprobs).sum().item()
            assert entropy[row, t].item() == pytest.approx(expected, abs=1e-5)
    assert logprobs[~batch.completion_mask].tolist() == entropy[~batch.completion_mask].tolist() == [0.0] * 5


def test_padding_and_its_token_change_nothing(model):
    with torch.no_grad():
        together, _ = completion_logprobs(model, collate(PROMPTS, COMPLETIONS, pad_id=0), temperature=1.0)
        other, _ = completion_logprobs(model, collate(PROMPTS, COMPLETIONS, pad_id=11), temperature=1.0)
        alone, _ = completion_logprobs(model, collate(PROMPTS[2:], COMPLETIONS[2:], pad_id=0), temperature=1.0)
    assert torch.equal(together, other)
    torch.testing.assert_close(together[2, :1], alone[0])


def test_gradient_reaches_the_policy(model):
    logprobs, entropy = completion_logprobs(model, collate(PROMPTS, COMPLETIONS, pad_id=0), temperature=1.0)
    assert entropy is None
    logprobs.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    model.zero_grad()


@pytest.mark.parametrize(
    "architecture", ["phi", "gemma2", "granite", "cohere", "recurrent_gemma", "jamba", "falcon_h1"]
)
def test_logprobs_are_those_of_the_models_own_logits(architecture):
    """phi has a bias, gemma2 and recurrent_gemma a soft cap, the others but jamba a factor."""
    model = tiny_model(architecture)
    with torch.no_grad():
        logprobs, _ = completion_logprobs(model, collate(PROMPTS, COMPLETIONS, pad_id=0), temperature=0.8)
        logits = model(torch.tensor([PROMPTS[1] + COMPLETIONS[1]]), use_cache=False).logits[0, :-1]
    expected = (logits / 0.8).log_softmax(-1).gather(1, torch.tensor(COMPLETIONS[1])[:, None]).squeeze(1)
    torch.testing.assert_close(logprobs[1], expected)
