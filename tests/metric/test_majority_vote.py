from itertools import combinations

import pytest

from r1lab.metric.majority_vote import cons_at_k, majority_vote


def test_most_frequent_answer_wins():
    assert majority_vote(["7", "8", "7"], [1, 0, 1]) == 1.0
    assert majority_vote(["7", "8", "8"], [1, 0, 0]) == 0.0


def test_ties_count_equally():
    assert majority_vote(["7", "8"], [1, 0]) == 0.5
    # Three answers of two votes each, one of them right, and a straggler.
    assert majority_vote(["7", "8", "9", "7", "8", "9", "5"], [1, 0, 0, 1, 0, 0, 0]) == pytest.approx(1 / 3)


def test_samples_without_an_answer_do_not_vote():
    assert majority_vote([None, None, "7"], [0, 0, 1]) == 1.0
    assert majority_vote([None, None], [0, 0]) == 0.0
    assert majority_vote([], []) == 0.0


def test_partial_scores():
    assert majority_vote(["a", "a", "b"], [0.5, 0.5, 1]) == 0.5


def test_all_samples_vote_once_when_k_is_their_number():
    answers, correct = [["7", "8", "7"], ["1", "2", "2"]], [[1, 0, 1], [1, 0, 0]]
    assert cons_at_k(answers, correct, 3, resamples=1, seed=0).tolist() == [1.0, 0.0]


def test_smaller_k_approaches_the_mean_over_all_subsets():
    answers, correct = ["7", "7", "7", "8", "8", "9"], [1, 1, 1, 0, 0, 0]
    subsets = list(combinations(zip(answers, correct, strict=True), 3))
    exact = sum(majority_vote(*zip(*s, strict=True)) for s in subsets) / len(subsets)
    estimate = float(cons_at_k([answers], [correct], 3, resamples=4000, seed=0)[0])
    # The standard error of 4000 values in 0..1 is at most .5 / sqrt(4000) = .008.
    assert abs(estimate - exact) < 0.024
    assert float(cons_at_k([answers], [correct], 3, resamples=4000, seed=0)[0]) == estimate


def test_one_vote_is_the_mean_score():
    assert float(cons_at_k([["7", "8", "8", "9"]], [[1, 0, 0, 0]], 1, resamples=4000, seed=1)[0]) == pytest.approx(
        0.25, abs=0.03
    )


@pytest.mark.parametrize(("k", "resamples"), [(0, 1), (3, 1), (2, 0)])
def test_refuses(k, resamples):
    with pytest.raises(ValueError):
        cons_at_k([["7", "8"]], [[1, 0]], k, resamples=resamples, seed=0)
