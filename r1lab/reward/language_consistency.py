"""The language-consistency reward: words of the prompt's language / words in the reasoning.

DeepSeek-R1 (arXiv 2501.12948v2, equation 7): Num(Words_target) / Num(Words) over the chain of thought.
The paper does not say what a word is: here it is said twice, by script for natural languages and by vocabulary for
tiny tasks. Reasoning without any word to judge is neither, and the term does not apply.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from r1lab.reward.format import parts_of
from r1lab.reward.script import prose, scripts_of_words
from r1lab.types import Completion, Prompt

_LATIN = "ca cs da de en es et fi fr hr hu id it lt lv ms nb nl no pl pt ro sk sl sv sw tl tr vi"
# ISO 639-1 code -> the scripts it is written in, as Unicode's names of letters begin.
SCRIPTS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_LATIN.split(), frozenset({"LATIN"})),
    **dict.fromkeys("be bg kk mk ru sr uk".split(), frozenset({"CYRILLIC"})),
    **dict.fromkeys("ar fa ur".split(), frozenset({"ARABIC"})),
    **dict.fromkeys("hi mr ne".split(), frozenset({"DEVANAGARI"})),
    "zh": frozenset({"CJK"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "ko": frozenset({"HANGUL"}),
    "el": frozenset({"GREEK"}),
    "he": frozenset({"HEBREW"}),
    "th": frozenset({"THAI"}),
    "bn": frozenset({"BENGALI"}),
    "ta": frozenset({"TAMIL"}),
    "te": frozenset({"TELUGU"}),
    "ka": frozenset({"GEORGIAN"}),
    "hy": frozenset({"ARMENIAN"}),
}


def script_share(text: str, scripts: frozenset[str]) -> float | None:
    """The share of a text's words that are written in one of the scripts, 0 to 1; None for a text without words.

    Code and mathematics are left out, but for words in them of a third script, neither Latin nor of these. What a word
    is: `r1lab.reward.script.scripts_of_words`. Languages of the same script are not told apart.
    """
    words = scripts_of_words(prose(text, scripts))
    return sum(word in scripts for word in words) / len(words) if words else None


def vocabulary_share(text: str, vocabulary: frozenset[str], others: frozenset[str]) -> float | None:
    """The share of `vocabulary` among a text's words of `vocabulary` and `others`, 0 to 1; None without such words.

    Words are what white space separates. Those of neither, such as numbers, or of both, are not counted.
    """
    words = text.split()
    own = sum(word in vocabulary and word not in others for word in words)
    foreign = sum(word in others and word not in vocabulary for word in words)
    return own / (own + foreign) if own + foreign else None


class ScriptConsistency:
    """`script_share` of each completion's reasoning, by the language of its prompt (`Prompt.language`).

    scripts: of languages that `SCRIPTS` lacks or has otherwise: `{"sr": ["LATIN", "CYRILLIC"]}`.
    """

    def __init__(self, scripts: Mapping[str, Sequence[str]] | None = None):
        own = {language: frozenset(s.upper() for s in names) for language, names in (scripts or {}).items()}
        self.scripts = {**SCRIPTS, **own}

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raise ValueError for prompts in a language whose script is not known."""
        for language in sorted({prompt.language for prompt in prompts} - self.scripts.keys()):
            raise ValueError(
                f"the script of language {language!r} is not known; set reward.language_consistency.scripts, as "
                f"{{{language}: [LATIN]}}; known are {', '.join(sorted(self.scripts))}"
            )

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float | None]:
        """B prompts and their B completions -> B shares."""
        self.check_prompts(prompts)
        return [self._share(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

    def shares(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float | None]:
        """As a reward, but None for a language whose script is not known: for reports."""
        return _known(self, self.scripts, prompts, completions)

    def _share(self, prompt: Prompt, completion: Completion) -> float | None:
        reasoning = parts_of(prompt, completion).reasoning
        return script_share(reasoning, self.scripts[prompt.language]) if reasoning else None


class VocabularyConsistency:
    """`vocabulary_share` of each completion's reasoning, by the language of its prompt.

    Args:
        task: its attribute `vocabularies` serves where none are given.
        vocabularies: language -> its words.
    """

    def __init__(self, task: Any = None, vocabularies: Mapping[str, Sequence[str]] | None = None):
        vocabularies = vocabularies or getattr(task, "vocabularies", None)
        if not vocabularies or len(vocabularies) < 2:
            raise ValueError(
                "reward.language_consistency needs vocabularies of two languages or more, {language: [word, ...]}; "
                "set reward.language_consistency.vocabularies, or take a task that has them"
            )
        self.vocabularies = {language: frozenset(words) for language, words in vocabularies.items()}

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float | None]:
        """B prompts and their B completions -> B shares."""
        self.check_prompts(prompts)
        return [self._share(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raise ValueError for prompts in a language without a vocabulary."""
        for language in sorted({prompt.language for prompt in prompts} - self.vocabularies.keys()):
            raise ValueError(
                f"reward.language_consistency.vocabularies has no language {language!r}; "
                f"there are {', '.join(self.vocabularies)}"
            )

    def shares(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float | None]:
        """As a reward, but None for a language without a vocabulary: for reports."""
        return _known(self, self.vocabularies, prompts, completions)

    def _share(self, prompt: Prompt, completion: Completion) -> float | None:
        others = [words for language, words in self.vocabularies.items() if language != prompt.language]
        reasoning = parts_of(prompt, completion).reasoning
        own = self.vocabularies[prompt.language]
        return vocabulary_share(reasoning, own, frozenset().union(*others)) if reasoning else None


def _known(
    term: Any, languages: Collection[str], prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> list[float | None]:
    """A term's values for prompts in one of the languages, None for other prompts."""
    rows = [b for b, prompt in enumerate(prompts) if prompt.language in languages]
    values = term([prompts[b] for b in rows], [completions[b] for b in rows])
    known = dict(zip(rows, values, strict=True))
    return [known.get(b) for b in range(len(prompts))]


def consistency_of(task: Any) -> ScriptConsistency | VocabularyConsistency:
    """How the languages of a task's completions are told: by its vocabularies where it has them, else by script."""
    return VocabularyConsistency(task) if getattr(task, "vocabularies", None) else ScriptConsistency()
