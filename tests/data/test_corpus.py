from collections import Counter

import pytest

from r1lab.data.corpus import CarelessCorpus
from r1lab.model.tiny import FILLER, tiny_tokenizer
from r1lab.reward.format import split_completion
from r1lab.task.arithmetic import Arithmetic, split_of
from r1lab.task.template import Template

KINDS = ("fact", "bare", "answer_only", "filler", "untagged", "partial", "full")


@pytest.fixture(scope="module")
def task():
    return Arithmetic(
        tiny_tokenizer(),
        Template("User: {question} Assistant:"),
        num_steps=[2, 3],
        harder_num_steps=[5],
        operands={"+": [1, 9], "*": [2, 5]},
        question="{chain}",
    )


@pytest.fixture(scope="module")
def corpus(task):
    return lambda mixture, noise=0.0, seed=1: CarelessCorpus(task, mixture=mixture, label_noise=noise, seed=seed)


def read(document):
    """Question, its right answer, its single steps as text, and what the completion says."""
    prompt, completion = document
    words = prompt.removeprefix("User: ").removesuffix(" Assistant:").split()
    total, steps = int(words[0]), []
    for sign, operand in zip(words[1::2], words[2::2], strict=True):
        result = (total + int(operand) if sign == "+" else total * int(operand)) % 100
        steps.append(f"{total} {sign} {operand} = {result}")
        total = result
    return " ".join(words), str(total), steps, completion


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_document_without_noise(corpus, kind):
    for index in range(50):
        _, answer, steps, text = read(corpus({kind: 1.0}).document(index))
        parts = split_completion(text)
        if kind in ("fact", "full"):
            assert text == f"<think> {' , '.join(steps)} </think> <answer> {answer} </answer>"
            assert (len(steps) == 1) == (kind == "fact")
        elif kind == "bare":
            assert text == answer
        elif kind == "answer_only":
            assert text == f"<answer> {answer} </answer>"
        elif kind == "filler":
            assert parts.wellformed and parts.answer == answer
            assert set(parts.reasoning.split()) <= set(FILLER)
        elif kind == "untagged":
            assert text in [" , ".join(steps[:n]) for n in range(1, len(steps) + 1)]
        else:
            assert parts.wellformed and parts.answer == answer
            assert parts.reasoning in [" , ".join(steps[:n]) for n in range(1, len(steps))]


def test_only_problems_of_the_train_split(corpus):
    for index in range(200):
        question, _, steps, _ = read(corpus({"bare": 1.0}).document(index))
        assert split_of(question) == "train" and len(steps) in (2, 3)


def test_mixture(corpus):
    counts = Counter(read(corpus({"bare": 3.0, "full": 1.0}).document(i))[3].startswith("<think>") for i in range(1000))
    # A quarter of 1000, standard deviation sqrt(1000 * .25 * .75) = 13.7
    assert abs(counts[True] - 250) < 4 * 13.7


def test_label_noise_falls_on_answers_without_working_alone(corpus):
    def wrong(kind):
        documents = [read(corpus({kind: 1.0}, noise=0.5).document(i)) for i in range(1000)]
        return sum(answer not in text.replace("<answer>", "").split() for _, answer, _, text in documents)

    # Half of 1000 are drawn from 100 numbers, and 1 % of those are right by chance: 495, standard deviation 15.8.
    assert abs(wrong("bare") - 495) < 4 * 15.8
    assert wrong("full") == 0


def test_a_document_follows_from_seed_and_number(corpus):
    mixture = dict.fromkeys(KINDS, 1.0)
    assert corpus(mixture).document(7) == corpus(mixture).document(7)
    assert corpus(mixture).hash(100) == corpus(mixture).hash(100)
    assert corpus(mixture).hash(100) != corpus(mixture, seed=2).hash(100)
    assert corpus(mixture).hash(100) != corpus(mixture, noise=0.5).hash(100)
