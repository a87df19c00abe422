from collections import Counter

import pytest

from r1lab.model.bilingual import LANGUAGES, SYMBOLS, bilingual_tokenizer
from r1lab.task.bilingual import Bilingual
from r1lab.task.protocol import SPLITS
from r1lab.task.template import Template


def bilingual(**changed) -> Bilingual:
    options = {
        "num_steps": [2, 3, 4],
        "harder_num_steps": [5, 6],
        "operands": {"+": (1, 9), "-": (1, 9), "*": (2, 5)},
        "question": "{chain}",
        "languages": {"en": 0.5, "zh": 0.5},
    } | changed
    return Bilingual(tokenizer=bilingual_tokenizer(), template=Template("User: {question} Assistant:"), **options)


def test_a_prompt_is_its_chain_in_its_language():
    task = bilingual()
    for index in range(50):
        prompt = task.sample("train", index)
        write = LANGUAGES[prompt.language].write
        assert prompt.text == f"User: {write(prompt.columns['question'])} Assistant:"
        assert prompt.answer == write(task.chain("train", index).answer)
        assert bilingual_tokenizer().decode(prompt.ids) == prompt.text


def test_splits_share_no_problem_in_either_language():
    task = bilingual()
    questions = {s: {task.sample(s, i).columns["question"] for i in range(1000)} for s in SPLITS}
    for a in SPLITS:
        for b in SPLITS:
            assert a == b or not questions[a] & questions[b]


def test_languages_by_weight_and_the_problems_whatever_the_weights():
    task, english = bilingual(), bilingual(languages={"en": 1.0})
    languages = Counter(task.sample("train", i).language for i in range(1000))
    assert abs(languages["en"] - 500) < 4 * 15.8  # the standard deviation of 1000 halves
    assert all(english.sample("train", i).language == "en" for i in range(50))
    questions = [[t.sample("train", i).columns["question"] for i in range(50)] for t in (task, english)]
    assert questions[0] == questions[1]


def test_an_answer_is_right_in_either_language():
    task = bilingual()
    prompt = task.sample("train", 0)
    value = SYMBOLS[prompt.answer]
    for language in LANGUAGES.values():
        assert task.is_correct(prompt, f" {language.write(value)} ")
        assert not task.is_correct(prompt, language.write(str((int(value) + 1) % 100)))
    for other in ("", value, f"{prompt.answer} {prompt.answer}", "hmm", "unknown"):
        assert not task.is_correct(prompt, other)


def test_vocabularies_are_of_the_languages_and_share_no_word():
    assert set(Bilingual.vocabularies) == set(LANGUAGES)
    assert not Bilingual.vocabularies["en"] & Bilingual.vocabularies["zh"]


def test_an_unknown_language():
    with pytest.raises(ValueError, match="task.languages: there is no fr; there are en, zh"):
        bilingual(languages={"fr": 1.0})
