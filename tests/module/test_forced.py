from types import SimpleNamespace

import pytest
import torch

from r1lab.model.tiny import tiny_tokenizer
from r1lab.module.forced import SHARES, chance_level, forced_accuracy
from r1lab.task.arithmetic import Chain

TOKENIZER = tiny_tokenizer()
CHAINS = [
    Chain(7, (("+", 5), ("*", 3))),  # 12, 36
    Chain(9, (("-", 9), ("+", 8), ("-", 8))),  # 0, 8, 0
    Chain(2, (("*", 2), ("+", 1), ("-", 5))),  # 4, 5, 0
]


class Honest:
    """Works out what it is made to, and answers the last result it has written: 0 where it has written none."""

    device = torch.device("cpu")

    def __init__(self, wrong_results=False):
        self.wrong_results = wrong_results

    def __call__(self, input_ids, use_cache, logits_to_keep):
        logits = torch.zeros(len(input_ids), 1, len(TOKENIZER))
        for row, ids in enumerate(input_ids):
            logits[row, 0, TOKENIZER.encode(self.next_word(TOKENIZER.decode(ids).split()))[0]] = 1.0
        return SimpleNamespace(logits=logits)

    def next_word(self, words):
        start, end = words.index("User:") + 1, words.index("Assistant:")
        question = words[start:end]
        chain = Chain(int(question[0]), tuple(zip(question[1::2], map(int, question[2::2]), strict=True)))
        written = [w for w in words[end + 1 :] if w not in ("<think>", "</think>", "<answer>")]
        if words[-1] == "<answer>":
            return written[-1] if written else "0"
        word = chain.working().split()[len(written)]
        return "99" if self.wrong_results and written[-1] == "=" else word


def text(chain):
    return f"User: {chain.question} Assistant:"


@pytest.mark.parametrize(
    "share, expected",
    [
        ("direct", 2 / 3),  # all answer 0, which the second and third are
        ("third", 1 / 3),  # one step each: 12, 0, 4; the second passes through its answer
        ("two_thirds", 0.0),  # one step of two, two steps of three: 12, 8, 5
        ("all", 1.0),
    ],
)
def test_shares_of_the_working(share, expected):
    assert forced_accuracy(Honest(), TOKENIZER, CHAINS, text, SHARES[share]) == pytest.approx(expected)


def test_the_results_are_the_policys_own():
    assert forced_accuracy(Honest(wrong_results=True), TOKENIZER, CHAINS, text, 1.0) == 0.0


def test_chance_level_is_the_share_of_the_most_frequent_answer():
    class Task:
        def chain(self, split, index):
            return CHAINS[index % 3]  # answers 36, 0, 0

    assert chance_level(Task(), num_problems=300) == pytest.approx(2 / 3)
