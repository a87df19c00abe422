import random
from collections import Counter

import pytest

from r1lab.model.tiny import tiny_tokenizer
from r1lab.task.arithmetic import Arithmetic, Chain, make_chain, split_of
from r1lab.task.protocol import SPLITS
from r1lab.task.template import Template

OPERANDS = {"+": (1, 9), "-": (1, 9), "*": (2, 5)}


def arithmetic(**changed) -> Arithmetic:
    options = {
        "num_steps": [2, 3, 4],
        "harder_num_steps": [5, 6],
        "operands": OPERANDS,
        "question": "{chain}",
    } | changed
    return Arithmetic(tiny_tokenizer(), Template("User: {question} Assistant:"), **options)


def test_a_chain_is_read_from_left_to_right_modulo_100():
    # 38 * 3 = 114, kept as 14; 14 + 7 = 21; 21 - 25 = -4, kept as 96.
    # (2 + 3) * 4 = 20, where precedence would have it 14.
    assert Chain(38, (("*", 3), ("+", 7), ("-", 25))).totals == [38, 14, 21, 96]
    assert Chain(2, (("+", 3), ("*", 4))).answer == "20"


def test_a_working_is_its_steps_written_out():
    chain = Chain(38, (("*", 3), ("+", 7)))
    assert chain.working() == "38 * 3 = 14 , 14 + 7 = 21"
    assert chain.working(1) == "38 * 3 = 14"


def test_no_step_comes_twice_and_operands_keep_to_their_bounds():
    for seed in range(200):
        steps = make_chain(random.Random(seed), 6, OPERANDS).steps
        assert len(set(steps)) == 6
        assert all(OPERANDS[sign][0] <= operand <= OPERANDS[sign][1] for sign, operand in steps)


def test_a_problem_follows_from_its_split_and_number_alone():
    first, second = arithmetic(), arithmetic()
    backwards = {i: second.sample("heldout", i) for i in reversed(range(20))}
    assert [first.sample("heldout", i) for i in range(20)] == [backwards[i] for i in range(20)]


def test_splits_share_no_problem():
    task = arithmetic()
    questions = {s: {task.sample(s, i).columns["question"] for i in range(2000)} for s in SPLITS}
    for a in SPLITS:
        for b in SPLITS:
            assert a == b or not questions[a] & questions[b]
        if a != "harder":
            assert {split_of(question) for question in questions[a]} == {a}


def test_lengths_of_the_splits():
    task = arithmetic()
    lengths = {s: {task.sample(s, i).difficulty for i in range(300)} for s in SPLITS}
    assert lengths == {"train": {2, 3, 4}, "validation": {2, 3, 4}, "heldout": {2, 3, 4}, "harder": {5, 6}}


def test_guessing_is_worth_nothing():
    task = arithmetic()
    answers = Counter(task.chain("heldout", i).answer for i in range(10_000))
    # 2.1 % for the most frequent; the bound is the 3 % that the base's claim allows.
    assert answers.most_common(1)[0][1] < 300


def test_prompt_and_check():
    prompt = arithmetic().sample("train", 0)
    assert prompt.text == f"User: {prompt.columns['question']} Assistant:"
    assert tiny_tokenizer().decode(prompt.ids) == prompt.text
    assert arithmetic().is_correct(prompt, f" {prompt.answer} ")
    assert not arithmetic().is_correct(prompt, str((int(prompt.answer) + 1) % 100))


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"harder_num_steps": [4, 5]}, "must not share a length"), ({"question": "what?"}, "must contain")],
)
def test_bad_settings(changed, words):
    with pytest.raises(ValueError, match=words):
        arithmetic(**changed)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="unknown split 'test'"):
        arithmetic().sample("test", 0)
