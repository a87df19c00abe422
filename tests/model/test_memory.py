import pytest
import torch
from torch import nn

from r1lab.model.memory import MIB, memory_mib, trained
from r1lab.model.reference import frozen_copy


class Tied(nn.Module):
    """An embedding of 1 MiB, a head with the same weight, a buffer of half a MiB."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(1024, 256)
        self.head = nn.Linear(256, 1024, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("routing", torch.zeros(1024, 256, dtype=torch.bfloat16))


def step(optimizer, model):
    model.embed.weight.square().sum().backward()
    optimizer.step()


def test_a_policy_alone():
    policy = Tied()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    held = {"policy": 1.5, "reference": 0, "value": 0, "gradients": 0, "optimizer": 0}
    assert memory_mib(optimizer, policy=policy, reference=None, value=None) == held
    step(optimizer, policy)
    # The gradient stays; SGD without momentum keeps nothing.
    assert memory_mib(optimizer, policy=policy, reference=None, value=None) == held | {"gradients": 1.0}


def test_reference_value_model_and_adam():
    policy, value = Tied(), nn.Linear(256, 1024, bias=False, dtype=torch.bfloat16)
    groups = [{"params": list(policy.parameters())}, {"params": list(value.parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    value.weight.sum().backward()
    step(optimizer, policy)
    held = memory_mib(optimizer, policy=policy, reference=frozen_copy(policy), value=value)
    # Two moments like each weight, and a float32 counter for each of the two.
    assert held.pop("optimizer") == pytest.approx(2 * (1 + 0.5) + 2 * 4 / MIB)
    assert held == {"policy": 1.5, "reference": 1.5, "value": 0.5, "gradients": 1.5}
    assert sum(p.numel() for p in trained(optimizer)) == 2 * 1024 * 256
