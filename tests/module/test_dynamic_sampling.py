import pytest

from r1lab.module.dynamic_sampling import Group, fill
from r1lab.types import Prompt


def group(index, accuracy, rewards=None):
    terms = {} if accuracy is None else {"accuracy": accuracy}
    return Group(Prompt((1,), "", "", index=index), [], rewards or accuracy, terms)


@pytest.mark.parametrize(
    "accuracy, rewards, mixed",
    [
        ([1.0, 0.0, 1.0], [0.0, 0.0, 0.0], True),
        ([1.0, 1.0, 1.0], [1.1, 1.0, 1.1], False),  # all right: the format alone differs
        ([0.9, 0.0, 0.5], [0.9, 0.0, 0.5], False),  # partial credit is not right
        ([None, None, 1.0], [0.0, 0.0, 1.0], False),
        ([None, None, None], [0.0, 0.0, 1.0], True),  # no accuracy applies
        (None, [0.5, 0.5], False),
        (None, [0.5, 0.4], True),
        (None, [0.5, float("nan"), float("nan")], False),  # NaN is no reward
        (None, [0.5, float("nan"), 0.4], True),
    ],
)
def test_a_mixed_group_has_right_and_wrong_completions(accuracy, rewards, mixed):
    assert group(0, accuracy, rewards).is_mixed == mixed


class Source:
    """Groups of one prompt after the other, mixed where the pattern says so."""

    def __init__(self, pattern):
        self.pattern, self.position, self.rounds = pattern, 0, []

    def __call__(self, count):
        numbers = range(self.position, self.position + count)
        self.position += count
        self.rounds.append(count)
        return [group(i, [0.0, float(self.pattern[i % len(self.pattern)] == "m")]) for i in numbers]


def indices(groups):
    return [g.prompt.index for g in groups]


def test_rounds_replace_what_is_missing_until_the_batch_is_full():
    source = Source("m..m.mm.")
    filled = fill(source, 4, max_resamples=9)
    # Of 0-3 two are mixed, of 4-5 one, of 6 one.
    assert source.rounds == [4, 2, 1]
    assert indices(filled.groups) == [0, 3, 5, 6] and indices(filled.sampled) == list(range(7))
    assert filled.metrics() == {
        "prompts": 7.0,
        "mixed_groups": 4 / 7,
        "filled_groups": 0.0,
        "sampled_accuracy": 4 / 14,
    }


def test_after_the_last_round_others_fill_the_batch():
    source = Source("..m......")
    filled = fill(source, 3, max_resamples=2)
    assert source.rounds == [3, 2, 2]
    assert indices(filled.groups) == [2, 0, 1]
    assert filled.metrics()["filled_groups"] == 2
    # A policy that is always right goes on as without dynamic sampling.
    source = Source(".")
    assert indices(fill(source, 3, max_resamples=0).groups) == [0, 1, 2] and source.rounds == [3]


def test_pass_rates_are_of_all_that_was_sampled():
    filled = fill(Source("m."), 2, max_resamples=1)
    assert [(prompt.index, rate) for prompt, rate in filled.pass_rates()] == [(0, 0.5), (1, 0.0), (2, 0.5)]
