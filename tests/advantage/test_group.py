import math

import pytest
import torch

from r1lab.advantage.group import group_advantages, group_std, zero_std_groups


def binary_group(correct: int, size: int = 16) -> torch.Tensor:
    return (torch.arange(size, dtype=torch.float64) < correct).double()[None]


# With k of 16 correct the mean is k/16 and the variance (ddof 0) k/16 (1 - k/16); ddof 1 multiplies the std by
# sqrt(16/15). For k = 1: (1 - .0625) / sqrt(.0625 * .9375) = 3.8730, and times sqrt(15/16) = 3.75.
@pytest.mark.parametrize(
    ("correct", "ddof", "right", "wrong"),
    [
        (1, 0, 3.8730, -0.2582),
        (4, 0, 1.7321, -0.5774),
        (8, 0, 1.0, -1.0),
        (15, 0, 0.2582, -3.8730),
        (1, 1, 3.75, -0.25),
        (4, 1, 1.6771, -0.5590),
        (8, 1, 0.9682, -0.9682),
        (15, 1, 0.25, -3.75),
    ],
)
def test_binary_groups_of_16(correct, ddof, right, wrong):
    advantages = group_advantages(binary_group(correct), scale="std", ddof=ddof, eps=0.0)[0]
    torch.testing.assert_close(advantages[:correct].mean().item(), right, atol=5e-5, rtol=0)
    torch.testing.assert_close(advantages[correct:].mean().item(), wrong, atol=5e-5, rtol=0)
    assert advantages[:correct].unique().numel() == 1


def test_eps_is_added_to_the_std():
    # std (ddof 0) of 0, 2 is 1: 1 / (1 + .25) = .8
    advantages = group_advantages(torch.tensor([[0.0, 2.0]]), scale="std", ddof=0, eps=0.25)
    torch.testing.assert_close(advantages, torch.tensor([[-0.8, 0.8]]))


def test_no_scale_is_the_difference_from_the_mean():
    # means 1 and 3
    advantages = group_advantages(torch.tensor([[0.0, 2.0], [1.0, 5.0]]), scale="none", ddof=1, eps=1e-4)
    torch.testing.assert_close(advantages, torch.tensor([[-1.0, 1.0], [-2.0, 2.0]]))


@pytest.mark.parametrize(("ddof", "std"), [(0, 14.0 / 4), (1, 14.0 / 3)])
def test_batch_std_is_over_all_rewards(ddof, std):
    # all rewards 0 2 1 5: mean 2, squares 4 + 0 + 1 + 9 = 14; still centred by group
    advantages = group_advantages(torch.tensor([[0.0, 2.0], [1.0, 5.0]]), scale="batch_std", ddof=ddof, eps=0.0)
    torch.testing.assert_close(advantages, torch.tensor([[-1.0, 1.0], [-2.0, 2.0]]) / std**0.5)


@pytest.mark.parametrize("scale", ["std", "batch_std", "none"])
@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-4])
def test_groups_of_equal_rewards_get_exactly_zero(scale, eps):
    # The float32 mean of 0.1 over 7 is not 0.1: the rounding must not come out as an advantage.
    rewards = torch.tensor([[0.1] * 7, [0.1, 0.3, 0.7, 0.1, 1.0, 0.0, 0.2]])
    advantages = group_advantages(rewards, scale=scale, ddof=1, eps=eps)
    assert (advantages[0] == 0).all()
    assert (advantages[1] != 0).any()
    assert advantages.isfinite().all()


@pytest.mark.parametrize("scale", ["std", "batch_std", "none"])
def test_all_groups_equal(scale):
    rewards = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert (group_advantages(rewards, scale=scale, ddof=0, eps=0.0)[:, 0] == 0).all()
    assert (group_advantages(rewards[:1], scale=scale, ddof=0, eps=0.0) == 0).all()


@pytest.mark.parametrize("scale", ["std", "batch_std", "none"])
@pytest.mark.parametrize("ddof", [0, 1])
def test_advantages_of_a_group_sum_to_zero(scale, ddof):
    rewards = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    advantages = group_advantages(rewards, scale=scale, ddof=ddof, eps=1e-4)
    torch.testing.assert_close(advantages.sum(dim=1), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
    assert advantages.abs().max() > 0.1


def test_zero_std_groups():
    rewards = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert zero_std_groups(rewards).tolist() == [True, False, True]


def test_integer_rewards():
    advantages = group_advantages(torch.tensor([[0, 1]]), scale="none", ddof=0, eps=0.0)
    torch.testing.assert_close(advantages, torch.tensor([[-0.5, 0.5]]))


def test_a_group_of_one_has_no_std():
    single = torch.tensor([[1.0], [0.0]])
    for ddof in (0, 1):
        with pytest.raises(ValueError, match="group_size"):
            group_advantages(single, scale="std", ddof=ddof, eps=1e-4)
    assert (group_advantages(single, scale="none", ddof=1, eps=1e-4) == 0).all()


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="'sd' is not one of std, batch_std, none"):
        group_advantages(torch.zeros(1, 2), scale="sd", ddof=0, eps=0.0)
    with pytest.raises(ValueError, match=r"\[P, G\]"):
        group_advantages(torch.zeros(4), scale="std", ddof=0, eps=0.0)


@pytest.mark.parametrize("scale, expected", [("std", 1.0), ("batch_std", 1.0), ("none", 5e37)])
def test_squares_of_large_rewards_do_not_overflow(scale, expected):
    # std of 1e38, 0, 0, 1e38 is 5e37, and its square is beyond float32
    advantages = group_advantages(torch.tensor([[1e38, 0.0, 0.0, 1e38]]), scale=scale, ddof=0, eps=1e-4)
    torch.testing.assert_close(advantages, torch.tensor([[expected, -expected, -expected, expected]]))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_no_digit_of_the_std_depends_on_the_size_of_rewards(size):
    rewards = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) * size
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, correction=1, keepdim=True) + 1e-4)
    assert torch.equal(group_advantages(rewards, scale="std", ddof=1, eps=1e-4), expected)


def test_a_completion_without_a_reward_is_left_out_of_its_group():
    nan = math.nan
    rewards = torch.tensor([[0.0, 2.0, nan, 4.0], [1.0, nan, nan, nan], [nan] * 4, [0.0, 1.0, 2.0, 3.0]])
    left = group_advantages(torch.tensor([[0.0, 2.0, 4.0]]), scale="std", ddof=1, eps=1e-4)[0]
    for scale in ("std", "none"):
        found = group_advantages(rewards, scale=scale, ddof=1, eps=1e-4)
        # mean 2 and std 2 of 0, 2, 4
        expected = torch.tensor([-2.0, 0.0, 0.0, 2.0]) / (2 + 1e-4 if scale == "std" else 1)
        torch.testing.assert_close(found[0], expected)
        assert found[0][[0, 1, 3]].tolist() == left.tolist() or scale == "none"
        assert (found[1:3] == 0).all()
        assert torch.equal(found[3], group_advantages(rewards[3:], scale=scale, ddof=1, eps=1e-4)[0])
    found = group_advantages(rewards, scale="batch_std", ddof=0, eps=0.0)
    std = torch.tensor([0.0, 2.0, 4.0, 1.0, 0.0, 1.0, 2.0, 3.0]).std(correction=0)
    torch.testing.assert_close(found[0], torch.tensor([-2.0, 0.0, 0.0, 2.0]) / std)
    assert zero_std_groups(rewards).tolist() == [False, True, True, False]
    assert group_std(rewards, ddof=0)[1] == 0 and group_std(rewards, ddof=0)[2].isnan()
