import pytest
import torch
from torch import nn

from r1lab.model.reference import blend, frozen_copy, refresh


class Net(nn.Module):
    def __init__(self, weight, bias, count):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.register_buffer("bias", torch.tensor([bias]))
        self.register_buffer("count", torch.tensor([count]))

    def values(self):
        return self.weight.item(), self.bias.item(), self.count.item()


@pytest.fixture
def policy():
    return Net(3.0, 5.0, 7)


def test_a_frozen_copy_is_its_own(policy):
    reference = frozen_copy(policy.train())
    assert not reference.training and not reference.weight.requires_grad
    assert policy.training and policy.weight.requires_grad
    with torch.no_grad():
        policy.weight.add_(1)
        policy.bias.add_(1)
    assert reference.values() == (3.0, 5.0, 7)


def test_hard_copy_takes_parameters_and_buffers(policy):
    reference = Net(1.0, 1.0, 1)
    blend(reference, policy, 0.0)
    assert reference.values() == (3.0, 5.0, 7)
    assert policy.values() == (3.0, 5.0, 7)


def test_moving_average(policy):
    reference = Net(1.0, 1.0, 1)
    blend(reference, policy, 0.75)
    # .75 * 1 + .25 * 3 and .75 * 1 + .25 * 5; counts are not averaged
    assert reference.values() == (1.5, 2.0, 7)
    blend(reference, policy, 0.75)
    # .75 * 1.5 + .25 * 3 and .75 * 2 + .25 * 5
    assert reference.values() == (1.875, 2.75, 7)


def test_average_of_another_dtype(policy):
    reference = Net(1.0, 1.0, 1).bfloat16()
    blend(reference, policy, 0.75)
    assert reference.weight.dtype == torch.bfloat16
    assert reference.values() == (1.5, 2.0, 7)


@pytest.mark.parametrize("every, due", [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_when_it_is_refreshed(policy, every, due):
    reference = Net(1.0, 1.0, 1)
    done = [step for step in range(1, 7) if refresh(reference, policy, step=step, every=every, decay=0.5)]
    assert done == due
    assert reference.weight.item() == pytest.approx(3 - 2 * 0.5 ** len(due))


def test_moving_average_of_tied_weights_is_taken_once():
    class Tied(nn.Module):
        def __init__(self, value: float):
            super().__init__()
            self.embed, self.head = nn.Embedding(2, 2), nn.Linear(2, 2, bias=False)
            self.head.weight = self.embed.weight
            nn.init.constant_(self.embed.weight, value)

    reference, policy = Tied(0.0), Tied(1.0)
    blend(reference, policy, decay=0.9)
    # .9 * 0 + .1 * 1; taken once for each of its two names it would be .19
    assert torch.allclose(reference.embed.weight, torch.full((2, 2), 0.1))
