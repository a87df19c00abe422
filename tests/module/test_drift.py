"""The KL to the base, against a sum over tokens by hand, of an engine that says what the test has written down."""

from types import SimpleNamespace

import pytest
import torch

from r1lab.model.policy import new_policy
from r1lab.module.drift import kl_to_base
from r1lab.module.evaluation import EVALUATION_STEP
from r1lab.module.head import LinearHead
from r1lab.rollout.sampling import Sampling
from r1lab.types import Completion, Prompt
from tests.module.test_logprobs import COMPLETIONS, CONFIG, PROMPTS

TOKENIZER = SimpleNamespace(pad_token_id=0)


class Counted(LinearHead):
    """The definitions, counting the passes."""

    def __init__(self):
        super().__init__("torch")
        self.passes = 0

    def logprob(self, *args, **kwargs):
        self.passes += 1
        return super().logprob(*args, **kwargs)


def measured(policy, base, temperature=1.0):
    def generate(model, prompts, *, group_size, sampling, seed, step):
        assert model is policy and (group_size, seed, step) == (1, 7, EVALUATION_STEP)
        return [Completion(tuple(COMPLETIONS[prompt.index]), "", False) for prompt in prompts]

    prompts = [Prompt(tuple(ids), "", "", index=i) for i, ids in enumerate(PROMPTS)]
    engine = SimpleNamespace(generate=generate)
    head = Counted()
    found = kl_to_base(policy, base, TOKENIZER, engine, prompts, sampling=Sampling(temperature, 8), seed=7, head=head)
    assert head.passes == 2
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_is_the_mean_of_k3_over_the_policys_own_tokens(temperature):
    models = policy, base = [new_policy(CONFIG, seed=seed) for seed in (0, 1)]
    expected, divisor = [], temperature or 1.0  # greedy completions are compared at 1
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        for t, token in enumerate(completion):
            ids = torch.tensor([prompt + completion[:t]])
            with torch.no_grad():
                own, other = (float((m(ids).logits[0, -1] / divisor).log_softmax(-1)[token]) for m in models)
            expected.append(torch.tensor(other - own).expm1().item() - (other - own))
    assert measured(policy, base, temperature) == pytest.approx(sum(expected) / 7, rel=1e-4)


def test_a_policy_that_has_not_moved_is_at_zero():
    policy = new_policy(CONFIG, seed=0)
    assert measured(policy, policy) == 0.0
