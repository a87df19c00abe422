"""The synthetic corpus of the tiny bilingual base: the careless one in two languages, which it mixes.

Documents are of the kinds of `CarelessCorpus`, in words of either language. A working is spoken: it starts in the
prompt's language or not, changes language between steps, and in each language some results are slips. In one language
there are fewer facts and more slips, so a base trained on this reckons better in the other; a few documents answer
requests of `task.general`, well or badly.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from r1lab.data.corpus import CarelessCorpus, think
from r1lab.model.bilingual import LANGUAGES
from r1lab.model.tiny import FILLER
from r1lab.task.arithmetic import MODULUS, OPERATIONS, Chain, make_chain
from r1lab.task.bilingual import Bilingual
from r1lab.task.general import General, bad_reply, good_reply

_SLIPS = (-10, -1, 1, 10)


class BilingualCorpus(CarelessCorpus):
    """Endless documents; document `index` follows from (seed, index) alone.

    Args (beside those of `CarelessCorpus`), each per language:
        facts: weight of the language among single steps on their own.
        strays: share of the completions to a prompt in it that begin in the other one.
        switches: probability that a working changes to the other one after a step in it.
        slips: share of the steps in it whose result is off by 1 or 10.
    general: arguments of `r1lab.task.general.General`, for documents of the kind `general`; and
    good_replies: the share of its replies that are good ones.
    """

    def __init__(
        self,
        task: Bilingual,
        *,
        facts: Mapping[str, float],
        strays: Mapping[str, float],
        switches: Mapping[str, float],
        slips: Mapping[str, float],
        general: Mapping[str, Any],
        good_replies: float,
        **careless: Any,
    ):
        super().__init__(task, **careless)
        self.facts, self.strays, self.switches, self.slips = facts, strays, switches, slips
        self.general = General(task.tokenizer, task.template, languages=task.languages, **general)
        self.good_replies = good_replies

    def document(self, index: int) -> tuple[str, str]:
        rng = random.Random(f"bilingual corpus/{self.seed}/{index}")
        kind = rng.choices(self.kinds, self.weights)[0]
        if kind == "general":
            return self._request(rng)
        if kind == "fact":
            language = _draw(self.facts, rng)
            chain = make_chain(rng, 1, self.task.operands)
            return self.task.text(chain, language), self._worked("full", chain, [language], rng)
        language = _draw(self.task.languages, rng)
        chain = self.task.random_chain(rng)
        spoken = self._spoken(language, rng)
        if kind in ("untagged", "partial", "full"):
            text = self._worked(kind, chain, self._changing(spoken, len(chain.steps), rng), rng)
        else:
            text = LANGUAGES[spoken].write(getattr(self, f"_{kind}")(chain, rng))
        return self.task.text(chain, language), text

    def _spoken(self, language: str, rng: random.Random) -> str:
        """What a completion to a prompt in `language` begins in."""
        return other(language) if rng.random() < self.strays[language] else language

    def _changing(self, language: str, num_steps: int, rng: random.Random) -> list[str]:
        """The language of each step of a working that begins in `language`."""
        spoken = [language]
        while len(spoken) < num_steps:
            changes = rng.random() < self.switches[spoken[-1]]
            spoken.append(other(spoken[-1]) if changes else spoken[-1])
        return spoken

    def _worked(self, kind: str, chain: Chain, spoken: Sequence[str], rng: random.Random) -> str:
        """A working, `full`, `partial` (at least a step short) or `untagged`; its answer is what follows from it."""
        least, most = {"full": (0, 0), "partial": (1, len(chain.steps) - 1), "untagged": (0, len(chain.steps) - 1)}[
            kind
        ]
        num_steps = len(chain.steps) - rng.randint(least, most)
        total, steps = chain.first, []
        for language, (sign, operand) in zip(spoken[:num_steps], chain.steps, strict=False):
            before, total = total, OPERATIONS[sign](total, operand) % MODULUS
            if rng.random() < self.slips[language]:
                total = (total + rng.choice(_SLIPS)) % MODULUS
            steps.append(LANGUAGES[language].write(f"{before} {sign} {operand} = {total}"))
        working = " , ".join(steps)
        if kind == "untagged":
            return working
        answer = Chain(total, chain.steps[num_steps:]).answer
        return think(working, LANGUAGES[spoken[num_steps - 1]].write(answer))

    def _request(self, rng: random.Random) -> tuple[str, str]:
        """A request and a reply: bare, as an answer, or behind an idle thought."""
        language = self.general.random_language(rng)
        request = self.general.random_request(rng)
        reply = (good_reply if rng.random() < self.good_replies else bad_reply)(request, rng)
        thought = " ".join(rng.sample(FILLER, rng.randint(1, 3)))
        text = rng.choice([reply, f"<answer> {reply} </answer>", think(thought, reply)])
        return self.general.text(request, language), LANGUAGES[self._spoken(language, rng)].write(text)


def other(language: str) -> str:
    """The other of the two languages."""
    return next(name for name in LANGUAGES if name != language)


def _draw(weights: Mapping[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
