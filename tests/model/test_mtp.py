import pytest
import torch

from r1lab.model.mtp import MultiTokenPrediction
from r1lab.model.policy import load_policy, new_policy

LLAMA = {"model_type": "llama", "vocab_size": 31, "hidden_size": 16, "intermediate_size": 32} | {
    name: 2 for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
}


@pytest.fixture(params=["deepseek", "llama"])
def model(request):
    return (
        load_policy("tiny", dtype="float32", experts="eager")
        if request.param == "deepseek"
        else new_policy(LLAMA, seed=1)
    )


def test_it_sees_the_next_token_and_none_after_it(model):
    mtp = MultiTokenPrediction(model, seed=1).eval()
    ids = torch.randint(2, 30, (2, 6))
    embed = model.get_input_embeddings()

    def predict(ids):
        hidden = model.base_model(input_ids=ids).last_hidden_state
        return mtp(hidden, embed(torch.nn.functional.pad(ids[:, 1:], (0, 1))))

    with torch.no_grad():
        before = predict(ids)
        changed = ids.clone()
        changed[:, 3] = (changed[:, 3] + 1) % 28 + 2
        after = predict(changed)
    assert before.shape == (2, 6, model.config.hidden_size)
    same = (before - after).abs().amax(-1) < 1e-6
    # The place before the changed token is the first that sees it.
    assert same.tolist() == [[True, True, False, False, False, False]] * 2


def test_it_holds_neither_embedding_nor_head_and_is_the_seeds(model):
    mtp, again, other = (MultiTokenPrediction(model, seed=seed) for seed in (1, 1, 2))
    names = dict(mtp.named_parameters())
    assert not [name for name in names if "embed_tokens" in name or "lm_head" in name]
    assert all(torch.equal(p, q) for p, q in zip(mtp.parameters(), again.parameters(), strict=True))
    assert not torch.equal(mtp.projection.weight, other.projection.weight)
    assert mtp.body.config.num_hidden_layers == 1 and model.config.num_hidden_layers == 2
