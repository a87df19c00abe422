import numpy as np
import pandas as pd
import pytest
import torch

from r1lab.analysis.tokens import token_table, tokens_figure
from r1lab.model.policy import load_policy, load_tokenizer
from r1lab.types import Completion, Prompt
from tests.module.test_drift import Counted


@pytest.fixture(scope="module")
def two_policies():
    """The tiny base, and one whose logits are those of the base times 1.2."""
    base, policy = (load_policy("tiny", dtype="float32") for _ in range(2))
    with torch.no_grad():
        policy.model.norm.weight.mul_(1.2)
    return policy, base


def record(tokenizer, prompt, text):
    ids = (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)
    prompt = Prompt(tuple(tokenizer.encode(prompt, add_special_tokens=False)), prompt, "12")
    return prompt, Completion(ids, text, truncated=False)


def test_each_token_against_its_definition(two_policies):
    policy, base = two_policies
    tokenizer = load_tokenizer("tiny")
    prompt, completion = record(tokenizer, "User: 7 + 5 Assistant:", "<answer> 12 </answer>")
    head = Counted()
    table = token_table(policy, base, tokenizer, prompt, completion, temperature=1.0, head=head)
    assert head.passes == 2
    assert table["token"].tolist() == ["<answer>", "12", "</answer>", "<eos>"]
    with torch.no_grad():
        logits = base(torch.tensor([[*prompt.ids, *completion.ids]])).logits[0, len(prompt.ids) - 1 : -1].double()
    for column, scaled in (("base_logprob", logits), ("logprob", 1.2 * logits)):
        expected = scaled.log_softmax(-1)[torch.arange(4), list(completion.ids)]
        np.testing.assert_allclose(table[column], expected.numpy(), atol=1e-5)
    difference = (table["logprob"] - table["base_logprob"]).to_numpy()
    assert np.abs(difference).max() > 0.01
    np.testing.assert_allclose(table["ratio"], np.exp(difference), rtol=1e-5)
    np.testing.assert_allclose(table["k1"], difference, atol=1e-6)
    np.testing.assert_allclose(table["k2"], difference**2 / 2, atol=1e-6)
    np.testing.assert_allclose(table["k3"], np.exp(-difference) - 1 + difference, atol=1e-6)


def test_a_policy_against_itself(two_policies):
    base, tokenizer = two_policies[1], load_tokenizer("tiny")
    prompt, completion = record(tokenizer, "User: 7 + 5 Assistant:", "12")
    table = token_table(base, base, tokenizer, prompt, completion, temperature=0.5)
    assert table["ratio"].tolist() == [1.0, 1.0] and table["k3"].tolist() == [0.0, 0.0]


def test_bars_stand_on_one_and_on_zero():
    table = pd.DataFrame({"token": ["a", "$b$", "c"], "ratio": [4.0, 1.0, 0.5], "k3": [0.6, 0.0, 0.3]})
    above, below = tokens_figure(table).axes
    assert above.get_yscale() == "log"
    np.testing.assert_allclose([(bar.get_y(), bar.get_y() + bar.get_height()) for bar in above.patches[:1]], [(1, 4)])
    np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in above.patches], table["ratio"])
    np.testing.assert_allclose([bar.get_height() for bar in below.patches], table["k3"])
    assert [label.get_text() for label in below.get_xticklabels()] == ["a", "$b$", "c"]
