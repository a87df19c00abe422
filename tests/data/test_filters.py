import re

import pytest

from r1lab.data.filters import FILTERS, keep, make_filters, repeated

GOOD = {
    "prompt": "q",
    "completion": "<think> a b c </think> <answer> d </answer>",
    "accuracy": 1.0,
    "truncated": False,
    "wellformed": True,
    "language_consistency": 1.0,
    "length": 9,
    "completion_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9],
}
SETTINGS = {
    "correct": {},
    "wellformed": {},
    "one_language": {"at_least": 0.9},
    "no_repetition": {"ngram": 2, "at_most": 0.0},
    "paragraphs": {"most": 44},
    "no_code": {},
    "length": {"least": 4, "most": 9},
}


def rows(*changes):
    return [GOOD | {"prompt": f"q{i}"} | change for i, change in enumerate(changes)]


@pytest.mark.parametrize(
    "change, by",
    [
        ({"accuracy": 0.5}, "correct"),
        ({"truncated": True}, "correct"),
        ({"wellformed": False}, "wellformed"),
        ({"language_consistency": 0.89}, "one_language"),
        ({"completion": "甲乙丙甲乙", "completion_ids": [1, 2, 3, 1, 2]}, "no_repetition"),
        ({"completion": "short\n\n" + "long " * 9}, "paragraphs"),
        ({"completion": "so\n ```python\nx\n```"}, "no_code"),
        ({"language_consistency": None}, "one_language"),  # reasoning without a word
        ({"length": 10}, "length"),
        ({"length": 3}, "length"),
        # The first that a row fails is counted.
        ({"accuracy": 0.0, "wellformed": False, "length": 99}, "correct"),
    ],
)
def test_each_filter_takes_what_it_is_for(change, by):
    kept, taken = keep(rows({}, change), make_filters(SETTINGS), per_prompt=1)
    assert kept == rows({})
    assert taken[by] == 1 == sum(taken.values())


def test_short_paragraphs_stay():
    paragraphs = "\n\n".join(["as long as this one is `x`"] * 3)
    assert keep(rows({"completion": paragraphs}), make_filters(SETTINGS), per_prompt=1)[1]["paragraphs"] == 0


def test_kept_and_taken_are_all_there_were_and_filtering_again_changes_nothing():
    given = rows({}, {"accuracy": 0.0}, {"length": 99}, {"prompt": "q0"}, {"prompt": "q0", "completion": "x y z w"})
    kept, taken = keep(given, make_filters(SETTINGS), per_prompt=1)
    assert len(kept) + sum(taken.values()) == len(given)
    assert taken["duplicate"] == 1 and taken["more_of_a_prompt"] == 1
    again, none = keep(kept, make_filters(SETTINGS), per_prompt=1)
    assert again == kept and not any(none.values())
    # In their order, and no filter depends on the rows before but those two.
    assert kept == [row for row in given if row in kept][: len(kept)]


def test_so_many_of_a_prompt():
    given = [GOOD | {"completion": f"w{i} x{i}"} for i in range(5)]
    for most in (1, 3, 9):
        assert keep(given, make_filters(SETTINGS), per_prompt=most)[0] == given[:most]


def test_repeated():
    assert repeated("a b c d".split(), 2) == 0.0
    assert repeated("a b a b a b".split(), 2) == pytest.approx(3 / 5)  # ab ba ab ba ab: two kinds of five
    assert repeated("a b".split(), 3) == 0.0


def test_an_unknown_filter():
    with pytest.raises(ValueError, match=f"no filter nice; there are {', '.join(FILTERS)}"):
        make_filters({"nice": {}})


def test_reasoning_in_figures_may_be_kept():
    filters = make_filters({"one_language": {"at_least": 0.9, "wordless": True}})
    kept, taken = keep(rows({"language_consistency": None}, {"language_consistency": 0.5}), filters, per_prompt=2)
    assert len(kept) == 1 and taken["one_language"] == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"one_language": {"at_leest": 1}},
            "the filter one_language takes {at_least: ..., wordless: ...}, got {'at_leest': 1}",
        ),
        ({"length": {"least": 1}}, "the filter length takes {least: ..., most: ...}, got"),
        ({"one_language": None}, "the filter one_language takes"),
        ({"one_language": {"at_least": "abc"}}, "one_language.at_least must be a number, got 'abc'"),
        ({"one_language": {"at_least": True}}, "one_language.at_least must be a number, got True"),
        ({"one_language": {"at_least": 1, "wordless": 1}}, "one_language.wordless must be true or false, got 1"),
    ],
)
def test_settings_that_are_not_the_filter_s(settings, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        make_filters(settings)


def test_null_is_no_filter():
    assert make_filters(None) == {}
    with pytest.raises(ValueError, match=r"filters must be a mapping .*, or null for none, got \['correct'\]"):
        make_filters(["correct"])
