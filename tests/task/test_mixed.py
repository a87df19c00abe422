from collections import Counter

import pytest

from r1lab.task.mixed import Mixed
from r1lab.types import Prompt


class Named:
    splits = ("train", "validation", "heldout")
    template = "template"

    def __init__(self, name):
        self.name = name

    def sample(self, split, index):
        return Prompt((1,), f"{self.name} {split} {index}", self.name, index=index, kind=self.name, columns={"n": 1})

    def is_correct(self, prompt, answer):
        return 0.5 if answer == f"{self.name}!" else 0.0


def refuse():
    raise AssertionError("a part without weight is not made")


PARTS = {"sums": lambda: Named("sum"), "echoes": lambda: Named("echo"), "unused": refuse}
SOURCES = {"sums": 3, "echoes": 1, "unused": 0}


def test_shares_follow_the_weights_and_the_number_alone():
    task, again = Mixed(PARTS, SOURCES), Mixed(PARTS, dict(SOURCES))
    prompts = [task.sample("train", index) for index in range(1000)]
    assert prompts[::-1] == [again.sample("train", index) for index in reversed(range(1000))]
    counts = Counter(prompt.kind for prompt in prompts)
    assert set(counts) == {"sum", "echo"} and 0.7 < counts["sum"] / 1000 < 0.8
    assert all(prompt.text == f"{prompt.kind} train {index}" for index, prompt in enumerate(prompts))
    assert [p.kind for p in prompts] != [task.sample("heldout", index).kind for index in range(1000)]


def test_answers_are_checked_by_the_part_that_asked():
    task = Mixed(PARTS, SOURCES)
    for index in range(20):
        prompt = task.sample("validation", index)
        assert prompt.columns["n"] == 1
        assert (task.is_correct(prompt, "sum!"), task.is_correct(prompt, "echo!")) == (
            (0.5, 0.0) if prompt.kind == "sum" else (0.0, 0.5)
        )


def test_it_has_the_splits_of_all_parts():
    harder = Named("hard")
    harder.splits = (*Named.splits, "harder")
    assert Mixed({"hard": lambda: harder}, {"hard": 1}).splits == harder.splits
    task = Mixed({"hard": lambda: harder, "sums": PARTS["sums"]}, {"hard": 1, "sums": 1})
    assert task.splits == Named.splits
    with pytest.raises(ValueError, match="unknown split 'harder'; there are train, validation, heldout"):
        task.sample("harder", 0)


def test_its_vocabularies_are_those_of_its_parts():
    one, other = Named("one"), Named("other")
    one.vocabularies, other.vocabularies = {"a": ["x"], "b": ["y"]}, {"a": ["z"]}
    parts = {"one": lambda: one, "other": lambda: other, "sums": PARTS["sums"]}
    assert Mixed(parts, dict.fromkeys(parts, 1)).vocabularies == {"a": {"x", "z"}, "b": {"y"}}
    assert not Mixed(PARTS, SOURCES).vocabularies


@pytest.mark.parametrize(
    "sources, told",
    [
        (
            {"words": 1},
            r"task.sources names words, which is no part; there are sums, echoes, unused, and \+task@task.p",
        ),
        ({"sums": -1, "echoes": 2}, "task.sources must be weights of at least 0"),
        ({"sums": 0}, "not all 0"),
        ({}, "not all 0"),
    ],
)
def test_wrong_sources(sources, told):
    with pytest.raises(ValueError, match=told):
        Mixed(PARTS, sources)
