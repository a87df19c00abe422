import pytest

from r1lab.reward.language_consistency import (
    SCRIPTS,
    ScriptConsistency,
    VocabularyConsistency,
    consistency_of,
    script_share,
    vocabulary_share,
)
from r1lab.types import Completion, Prompt


def completion(reasoning: str, answer: str = "7") -> Completion:
    return Completion((1,), f"<think> {reasoning} </think> <answer> {answer} </answer>", False)


def prompt(language: str) -> Prompt:
    return Prompt((1,), "q", "7", language=language)


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("First add three and four", "en", 1.0),
        ("First add 三 and 四", "en", 0.6),  # first, add, and; two of Han
        ("先把三和四相加 then", "zh", 7 / 8),
        ("Сначала add", "ru", 0.5),
        ("まず 3 を足す", "ja", 1.0),
        ("先 `print(x)` 加 $a + \\text{words}$", "zh", 1.0),
        ("ok `先把 x`", "en", 1 / 3),
        ("ok $先把$ or \\[ \\text{先把} \\]", "en", 2 / 6),
        ("ok\n```python\nx = 1  # 先把\n```", "en", 1 / 3),
        ("it costs $5 先把它 $3 to get", "en", 4 / 7),
        ("先 `x = 1  # 加 сначала`", "zh", 0.5),
        ("so $α + β$ and `naïve()`", "en", 1.0),
        ("3 + 4 = 7", "en", None),
        ("", "en", None),
        ("\u0430dd thr\u0435e", "en", 0.0),
    ],
)
def test_script_share(text, language, share):
    assert script_share(text, SCRIPTS[language]) == pytest.approx(share)


def test_the_reasoning_alone_is_judged_by_the_prompts_language():
    term = ScriptConsistency()
    prompts = [prompt(language) for language in ("en", "zh", "en", "en")]
    completions = [
        completion("add them", "答案"),
        completion("add them"),
        completion("3 + 4"),
        Completion((1,), "no tags", False),
    ]
    assert term(prompts, completions) == [1.0, 0.0, None, None]


def test_languages_that_are_not_known():
    with pytest.raises(ValueError, match=r"'xx' is not known; set reward.language_consistency.scripts"):
        ScriptConsistency()([prompt("xx")], [completion("a")])
    assert ScriptConsistency({"xx": ["latin"]})([prompt("xx")], [completion("some words")]) == [1.0]


@pytest.mark.parametrize("language", ["xx", "zh-TW", ""])
def test_shares_are_none_for_a_language_that_is_not_known(language):
    class Task:
        vocabularies = {"en": ["add"], "b": ["mais"]}

    prompts, completions = [prompt("en"), prompt(language)], [completion("add add")] * 2
    for term in (consistency_of(object()), consistency_of(Task())):
        assert term.shares(prompts, completions) == [1.0, None]
        with pytest.raises(ValueError, match=f"language '{language}'"):
            term.check_prompts(prompts)


WORDS = {"a": ["plus", "is", "so"], "b": ["mais", "egal", "so"]}


def test_vocabulary_share():
    own, others = frozenset(WORDS["a"]), frozenset(WORDS["b"])
    # plus, is and is; mais. `so` is of both, 3 and hmm are of neither.
    assert vocabulary_share("3 plus 4 is 7 so hmm 7 mais 2 is 9", own, others) == 3 / 4
    assert vocabulary_share("3 so 4", own, others) is None
    assert vocabulary_share("mais", own, others) == 0.0


def test_vocabularies_of_config_or_task():
    class Task:
        vocabularies = WORDS

    prompts, completions = [prompt("a"), prompt("b")], [completion("3 plus 4 egal 7")] * 2
    for term in (VocabularyConsistency(Task()), VocabularyConsistency(None, WORDS)):
        assert term(prompts, completions) == [0.5, 0.5]
    with pytest.raises(ValueError, match="vocabularies of two languages"):
        VocabularyConsistency(object())
    with pytest.raises(ValueError, match="no language 'c'; there are a, b"):
        VocabularyConsistency(None, WORDS)([prompt("c")], completions[:1])


def test_by_vocabulary_where_the_task_has_them():
    class Task:
        vocabularies = WORDS

    assert consistency_of(Task()).vocabularies["a"] == frozenset(WORDS["a"])
    Task.vocabularies = {}
    assert isinstance(consistency_of(Task()), ScriptConsistency)
    assert isinstance(consistency_of(object()), ScriptConsistency)
