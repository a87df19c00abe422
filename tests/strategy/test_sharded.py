import threading
import time

import pytest
import torch
from torch import nn

from r1lab.strategy.sharded import _buckets, as_forward, clip_gradient, copy_whole, is_sharded, local, turn
from tests.invariant.ranks import run_module


def test_a_whole_model_is_left_alone():
    model = nn.Linear(2, 2)
    assert not is_sharded(model) and not is_sharded(None)
    assert as_forward(lambda: 7, model, None) == 7
    assert local(model.weight) is model.weight


def test_ranks_take_turns():
    ranks, order, barrier = 3, [], threading.Barrier(3)

    def rank(number):
        with turn(number, ranks, barrier.wait):
            order.append(("in", number))
            time.sleep(0.02)
            order.append(("out", number))

    threads = [threading.Thread(target=rank, args=[number]) for number in reversed(range(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert order == [(what, number) for number in range(ranks) for what in ("in", "out")]


def test_the_gradient_is_clipped_as_torch_does():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    ours, theirs = ([nn.Parameter(torch.zeros_like(g)) for g in gradients] for _ in range(2))
    for parameters in (ours, theirs):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    without = nn.Parameter(torch.zeros(1))
    assert clip_gradient([*ours, without], 1.0, lambda x: x) == pytest.approx(5.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    before = ours[0].grad.clone()
    assert clip_gradient(ours, 10.0, lambda x: x) == pytest.approx(1.0) and torch.equal(ours[0].grad, before)


def test_the_norm_is_of_all_ranks():
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([3.0])
    # Another rank's shard has a 4.
    assert clip_gradient([parameter], 1.0, lambda x: x + 16) == pytest.approx(5.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6]))


def test_weights_and_buffers_are_copied():
    source, target = (nn.BatchNorm1d(3) for _ in range(2))
    nn.init.normal_(source.weight)
    source.running_mean += 1
    copy_whole(source, target)
    assert torch.equal(source.weight, target.weight) and torch.equal(source.running_mean, target.running_mean)


def test_buckets():
    half = torch.bfloat16
    wholes = [
        torch.zeros(n, dtype=dtype) for n, dtype in ((2, half), (3, half), (1, half), (9, half), (1, None), (1, None))
    ]
    buckets = [[len(whole) for _, whole in bucket] for bucket in _buckets([(None, whole) for whole in wholes], 10)]
    assert buckets == [[2, 3], [1], [9], [1, 1]]
    assert list(_buckets([], 10)) == []


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_whole_copies(ranks, tmp_path):
    # In processes of their own: torch keeps a group for longer than it is there, and a fork of this one would hang.
    run_module(["tests.strategy.copies"], tmp_path, ranks, timeout=120)
    said = (tmp_path / "rank_0.txt").read_text()
    assert said.count(f"copies are equal, {ranks} ranks") >= 2, said
