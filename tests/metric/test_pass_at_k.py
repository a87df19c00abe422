from itertools import combinations

import pytest
import torch

from r1lab.metric.pass_at_k import pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_equals_enumeration_of_all_subsets(n):
    for k in range(1, n + 1):
        expected = []
        for c in range(n + 1):
            subsets = list(combinations([True] * c + [False] * (n - c), k))
            expected.append(sum(any(s) for s in subsets) / len(subsets))
        estimate = pass_at_k(n, list(range(n + 1)), k)
        torch.testing.assert_close(estimate, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_hand_worked():
    # n=4, c=1, k=2: 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k(4, [1], 2).tolist() == [0.5]
    # n=4 and n=10 together at k=1: c/n
    torch.testing.assert_close(pass_at_k([4, 10], [1, 3], 1), torch.tensor([0.25, 0.3], dtype=torch.float64))


def test_large_counts_stay_exact():
    # n=10_000, c=1: the one right sample is among k of n with probability k/n.
    assert float(pass_at_k(10_000, [1], 256)) == pytest.approx(0.0256, rel=1e-9)
    assert pass_at_k(10_000, [0, 10_000], 9_999).tolist() == [0.0, 1.0]


def test_unbiased():
    # p = .3 in 8 samples: the mean over many prompts is 1 - .7^4 = .7599 for k=4; standard error below .002.
    generator = torch.Generator().manual_seed(0)
    correct = (torch.rand(20_000, 8, generator=generator) < 0.3).sum(1)
    assert abs(float(pass_at_k(8, correct, 4).mean()) - 0.7599) < 0.008


@pytest.mark.parametrize(
    ("n", "c", "k"), [(4, [1], 5), (4, [1], 0), (4, [5], 1), (4, [-1], 1), ([8, 2], [1, 1], 4), (4, [], 1)]
)
def test_refuses(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)
