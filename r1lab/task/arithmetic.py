"""Chains of operations modulo 100: endless, checkable, and worth working out step by step.

A problem is `7 + 5 * 4 - 3`, read from left to right, every result kept modulo 100. Every number is one token of the
tiny tokenizer and all hundred answers are about equally frequent: guessing is worth nothing. Products between sums
keep a model from adding everything up in one pass. A working lists the single steps, `7 + 5 = 12 , 12 * 4 = 48 , ...`.

Splits: `train`, `validation` and `heldout` share lengths and are kept apart by a hash of the problem itself, `harder`
has longer chains than any of them. A problem follows from (split, index) alone.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1lab.model.tokenizer import encode_prompt
from r1lab.task.protocol import SPLITS
from r1lab.task.template import Template
from r1lab.types import Prompt

MODULUS = 100
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


@dataclass(frozen=True)
class Chain:
    """A problem: the first number, then (sign, operand) pairs."""

    first: int
    steps: tuple[tuple[str, int], ...]

    @property
    def question(self) -> str:
        return " ".join([str(self.first), *(f"{sign} {operand}" for sign, operand in self.steps)])

    @property
    def totals(self) -> list[int]:
        """The running total before each step, and after the last."""
        totals = [self.first]
        for sign, operand in self.steps:
            totals.append(OPERATIONS[sign](totals[-1], operand) % MODULUS)
        return totals

    @property
    def answer(self) -> str:
        return str(self.totals[-1])

    def working(self, num_steps: int | None = None) -> str:
        """The first `num_steps` steps written out (all of them by default)."""
        totals = self.totals
        steps = zip(totals, self.steps[:num_steps], totals[1:], strict=False)
        return " , ".join(f"{before} {sign} {operand} = {after}" for before, (sign, operand), after in steps)


def make_chain(rng: random.Random, num_steps: int, operands: Mapping[str, Sequence[int]]) -> Chain:
    """A random chain. `operands` gives each sign its smallest and largest operand.

    No (sign, operand) pair comes twice, so that each step of a working has one place in the prompt.
    """
    steps: list[tuple[str, int]] = []
    while len(steps) < num_steps:
        sign = rng.choice(list(operands))
        step = (sign, rng.randint(*operands[sign]))
        if step not in steps:
            steps.append(step)
    return Chain(rng.randrange(MODULUS), tuple(steps))


def split_of(question: str) -> str:
    """The split that a problem of ordinary length belongs to: a tenth each is validation
    and heldout, the rest train."""
    bucket = hashlib.sha256(question.encode()).digest()[0] % 10
    return {0: "validation", 1: "heldout"}.get(bucket, "train")


class Arithmetic:
    """The task: `sample` makes the prompt of an index, `is_correct` checks an answer."""

    name = "arithmetic"
    splits = SPLITS

    def __init__(
        self,
        tokenizer,
        template: Template,
        num_steps: Sequence[int],
        harder_num_steps: Sequence[int],
        operands: Mapping[str, Sequence[int]],
        question: str,
    ):
        if set(num_steps) & set(harder_num_steps):
            raise ValueError("task.harder_num_steps must not share a length with task.num_steps")
        if "{chain}" not in question:
            raise ValueError(f"task.question must contain {{chain}}, got {question!r}")
        self.tokenizer, self.template, self.question = tokenizer, template, question
        self.num_steps, self.harder_num_steps = tuple(num_steps), tuple(harder_num_steps)
        self.operands = {sign: tuple(bounds) for sign, bounds in operands.items()}

    def __getstate__(self):
        # A pickled one scores answers in a pool, where the tokenizer would load transformers first.
        return vars(self) | {"tokenizer": None}

    def random_chain(self, rng: random.Random, split: str = "train") -> Chain:
        """A random problem of the split."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
        lengths = self.harder_num_steps if split == "harder" else self.num_steps
        while True:
            chain = make_chain(rng, rng.choice(lengths), self.operands)
            if split == "harder" or split_of(chain.question) == split:
                return chain

    def text(self, chain: Chain) -> str:
        """The prompt's text: the chain in its question in its template."""
        return self.template(self.question.replace("{chain}", chain.question))

    def chain(self, split: str, index: int) -> Chain:
        return self.random_chain(random.Random(f"{self.name}/{split}/{index}"), split)

    def sample(self, split: str, index: int) -> Prompt:
        chain = self.chain(split, index)
        text = self.text(chain)
        return Prompt(
            ids=tuple(encode_prompt(self.tokenizer, text)),
            text=text,
            answer=chain.answer,
            index=index,
            kind=self.name,
            difficulty=len(chain.steps),
            columns={"question": chain.question, "thought": chain.working()},
        )

    def is_correct(self, prompt: Prompt, answer: str) -> bool:
        return answer.strip() == prompt.answer
