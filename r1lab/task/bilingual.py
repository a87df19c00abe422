"""The chains of `task.arithmetic`, asked in words of one of two languages.

The problem is the same in both, `thirty-eight times three plus seven` and `三十八 乘 三 加 七`, so that no two splits
share one in either. An answer counts in whichever language it is given: what is right must not depend on the language,
so that only a reward for language consistency (DeepSeek-R1, 2501.12948v2, section 3.2 and B.6) speaks for one.
"""

import random
from collections.abc import Mapping
from typing import Any

from r1lab.model.bilingual import LANGUAGES, SYMBOLS
from r1lab.model.tokenizer import encode_prompt
from r1lab.task.arithmetic import Arithmetic, Chain
from r1lab.types import Prompt


def check_languages(languages: Mapping[str, float]) -> dict[str, float]:
    """Language -> weight, as a plain dict. Raises ValueError for a language that is not there."""
    if unknown := set(languages) - set(LANGUAGES):
        raise ValueError(f"task.languages: there is no {', '.join(sorted(unknown))}; there are {', '.join(LANGUAGES)}")
    return dict(languages)


class Bilingual(Arithmetic):
    """As `Arithmetic`; `languages` gives each language's weight among the prompts."""

    name = "bilingual"
    vocabularies = {name: frozenset(language.words.values()) for name, language in LANGUAGES.items()}

    def __init__(self, *, languages: Mapping[str, float], **arithmetic: Any):
        super().__init__(**arithmetic)
        self.languages = check_languages(languages)

    def language(self, split: str, index: int) -> str:
        """The language of a prompt. Drawn apart from its chain, so that the weights do not change the problems."""
        rng = random.Random(f"{self.name}/language/{split}/{index}")
        return rng.choices(list(self.languages), list(self.languages.values()))[0]

    def text(self, chain: Chain, language: str = "en") -> str:
        return self.template(self.question.replace("{chain}", LANGUAGES[language].write(chain.question)))

    def sample(self, split: str, index: int) -> Prompt:
        chain, language = self.chain(split, index), self.language(split, index)
        text = self.text(chain, language)
        return Prompt(
            ids=tuple(encode_prompt(self.tokenizer, text)),
            text=text,
            answer=LANGUAGES[language].write(chain.answer),
            index=index,
            kind=self.name,
            language=language,
            difficulty=len(chain.steps),
            columns={"question": chain.question},
        )

    def is_correct(self, prompt: Prompt, answer: str) -> bool:
        return SYMBOLS.get(answer.strip()) == SYMBOLS[prompt.answer]
