import copy

import pytest
import torch
from torch import nn

from r1lab.model import quantize
from r1lab.model.memory import MIB, memory_mib
from r1lab.model.optimizer import adamw_8bit

OPTIONS = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}


class Net(nn.Module):
    """One weight of 65,536 elements, and two under 4096."""

    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Linear(256, 256, bias=False), nn.Linear(256, 8)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(std=0.05, generator=generator)

    def forward(self, x):
        return self.small(self.large(x).tanh())


def train(net, optimizer, steps):
    for step in steps:
        x = torch.randn(16, 256, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = (net(x) - x[:, :8]).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


def made(net):
    return adamw_8bit(paged=False, **OPTIONS)(net.parameters())


def test_two_steps_and_two_resumed_are_four(tmp_path):
    whole = Net()
    optimizer = made(whole)
    train(whole, optimizer, range(4))

    first = Net()
    halfway = made(first)
    train(first, halfway, range(2))
    torch.save({"net": first.state_dict(), "optimizer": halfway.state_dict()}, tmp_path / "half")
    saved = torch.load(tmp_path / "half", weights_only=True)
    second = Net()
    resumed = made(second)
    second.load_state_dict(saved["net"])
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    for a, b in zip(optimizer.state.values(), resumed.state.values(), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def test_it_learns_about_as_adamw_does():
    losses = {}
    for name, make in {"8bit": made, "32bit": lambda net: torch.optim.AdamW(net.parameters(), **OPTIONS)}.items():
        net = Net()
        start = train(copy.deepcopy(net), make(copy.deepcopy(net)), [99])
        losses[name] = train(net, make(net), [*range(60), 99])
        assert losses[name] < 0.8 * start
    assert losses["8bit"] == pytest.approx(losses["32bit"], rel=0.05)


def test_its_state_is_two_bytes_a_parameter_but_for_small_ones():
    net = Net()
    optimizer = made(net)
    train(net, optimizer, range(1))
    large, small = 256 * 256, 256 * 8 + 8
    # Two moments of a byte, a float32 scale for 256 elements of each, and a table of 256 float32 for each moment.
    expected = 2 * large + 2 * 4 * large / 256 + 2 * 4 * 256 + 8 * small
    held = memory_mib(optimizer, policy=net, reference=None, value=None)["optimizer"]
    assert held == pytest.approx(expected / MIB, rel=1e-6)


def test_what_cannot_be_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="optimizer=adamw_8bit_paged pages the memory of a CUDA GPU.*take adamw_8bit"):
        adamw_8bit(paged=True, **OPTIONS)
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"optimizer=adamw_8bit needs .* pip install 'r1lab\[quantized\]'"):
        adamw_8bit(paged=False, **OPTIONS)
