"""The synthetic corpus of the tiny base: careless answers, with reasoning latent in a minority.

A document is a prompt and its completion. Most completions are short: a bare number, an answer without thinking, a
thought that says nothing. Some hold a working that stops early, few a whole one; so a base trained on this corpus can
reason, but seldom does. `facts` are single steps on their own, which teach the arithmetic.
"""

import hashlib
import random
from collections.abc import Mapping

from r1lab.model.tiny import FILLER
from r1lab.task.arithmetic import MODULUS, Arithmetic, Chain, make_chain


def think(thought: str, answer: str) -> str:
    """The form that is rewarded: reasoning, then the answer."""
    return f"<think> {thought} </think> <answer> {answer} </answer>"


class CarelessCorpus:
    """Endless documents; document `index` follows from (seed, index) alone.

    Args:
        task: the arithmetic task; only problems of its `train` split are used.
        mixture: weight of each kind of document, see `document`.
        label_noise: share of the answers without any working that are drawn at random.
    """

    def __init__(self, task: Arithmetic, *, mixture: Mapping[str, float], label_noise: float, seed: int):
        self.task, self.label_noise, self.seed = task, label_noise, seed
        self.kinds, self.weights = list(mixture), list(mixture.values())

    def document(self, index: int) -> tuple[str, str]:
        """The prompt's text and the completion's text, without the end-of-sequence token."""
        rng = random.Random(f"corpus/{self.seed}/{index}")
        kind = rng.choices(self.kinds, self.weights)[0]
        if kind == "fact":
            chain = make_chain(rng, 1, self.task.operands)
        else:
            chain = self.task.random_chain(rng)
        return self.task.text(chain), getattr(self, f"_{kind}")(chain, rng)

    def _guess(self, chain: Chain, rng: random.Random) -> str:
        """The answer as it is given without working: often careless."""
        return str(rng.randrange(MODULUS)) if rng.random() < self.label_noise else chain.answer

    def _fact(self, chain, rng):
        return think(chain.working(), chain.answer)

    def _bare(self, chain, rng):
        return self._guess(chain, rng)

    def _answer_only(self, chain, rng):
        return f"<answer> {self._guess(chain, rng)} </answer>"

    def _filler(self, chain, rng):
        return think(" ".join(rng.sample(FILLER, rng.randint(1, 4))), self._guess(chain, rng))

    def _untagged(self, chain, rng):
        return chain.working(rng.randint(1, len(chain.steps)))

    def _partial(self, chain, rng):
        return think(chain.working(rng.randint(1, len(chain.steps) - 1)), chain.answer)

    def _full(self, chain, rng):
        return think(chain.working(), chain.answer)

    def hash(self, num_documents: int = 10_000) -> str:
        """SHA-256 over the first documents: tells two corpora apart."""
        digest = hashlib.sha256()
        for index in range(num_documents):
            digest.update("\t".join(self.document(index)).encode() + b"\n")
        return digest.hexdigest()
