import pytest
import torch

from r1lab.model.policy import new_policy
from r1lab.model.value import ValueModel, value_model
from tests.module.test_logprobs import CONFIG


@pytest.fixture(scope="module")
def policy():
    return new_policy(CONFIG, seed=0)


def test_values_are_linear_in_the_hidden_states_and_start_at_zero():
    model = ValueModel(2, None)
    hidden = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16)
    assert model(hidden).tolist() == [0.0, 0.0]
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[10.0, 1.0]]))
        model.head.bias.fill_(0.5)
    # In float32 whatever the trunk's precision
    assert model(hidden).tolist() == [12.5, 34.5] and model(hidden).dtype == torch.float32


def test_a_separate_critic_is_a_copy_of_the_trunk_that_learns(policy):
    model = value_model(policy, "separate")
    trunk = policy.base_model.state_dict()
    assert all(torch.equal(value, trunk[name]) for name, value in model.body.state_dict().items())
    size = sum(p.numel() for p in policy.base_model.parameters())
    assert sum(p.numel() for p in model.parameters()) == size + 16 + 1
    assert all(p.requires_grad for p in model.parameters()) and not model.body.training
    with torch.no_grad():
        next(model.body.parameters()).add_(1)
    assert not torch.equal(next(model.body.parameters()), next(policy.base_model.parameters()))


def test_a_shared_critic_is_the_head_alone(policy):
    assert [tuple(p.shape) for p in value_model(policy, "shared").parameters()] == [(1, 16), (1,)]


def test_another_critic_is_refused(policy):
    with pytest.raises(ValueError, match="module.critic 'both' is not one of separate, shared"):
        value_model(policy, "both")
