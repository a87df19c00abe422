"""What each data set of reasoning-gym pays for right and for wrong answers, as one table:

python -m tests.task.gym_scores [entries] [name ...]
"""

import sys
from collections.abc import Iterator

from r1lab.task.reasoning_gym import ReasoningGym
from r1lab.task.template import Template

_WORTHLESS = ("", " ", "None", "null", "nan", "inf", "[]", "{}", "0", "True", "No", "A", "I do not know")


class NoTokens:
    """A tokenizer for those who want prompts alone."""

    def encode(self, text, **_):
        return [1]


def right_forms(right: str) -> dict[str, str]:
    """Forms of the right answer that are right, by what was done to it."""
    return {"right": right, "white space": f" \n{right} \n"}


def wrong_forms(right: str, other: str) -> Iterator[tuple[str, str]]:
    """(kind, answer) of answers that are wrong. other: the right answer of another entry."""
    yield from (("tail", right + tail) for tail in (" x", "x", "\nI am not sure", " 7", ", junk", "; 3"))
    yield from (("head", head + right) for head in ("x ", "x", "The answer is ", "7; ", "I am not sure\n"))
    yield from (("repeated", right + gap + right) for gap in (" ", "\n", ", ", "; ", " and "))
    if other.strip() not in ("", right.strip()):
        yield "other", other
        yield from (("both", first + gap + last) for gap in (" ", "\n", ", ") for first, last in
                    ((right, other), (other, right)))  # fmt: skip
    yield from (("worthless", text) for text in _WORTHLESS if text != right and (text, right) != ("0", "0.0"))


def scores(name: str, entries: int) -> tuple[dict[str, float], list[tuple[str, str, str]]]:
    """The lowest score of each right form and the highest of each wrong kind; and (kind, right, answer) of every wrong
    answer that is paid as a right one."""
    task = ReasoningGym(NoTokens(), Template("{question}"), name)
    prompts = [task.sample("train", index) for index in range(entries)]
    extremes: dict[str, float] = {}
    paid = []
    for prompt, following in zip(prompts, [*prompts[1:], prompts[0]], strict=True):
        if not prompt.answer:  # none is known
            continue
        for kind, answer in right_forms(prompt.answer).items():
            extremes[kind] = min(extremes.get(kind, 2.0), task.is_correct(prompt, answer))
        for kind, answer in wrong_forms(prompt.answer, following.answer):
            score = task.is_correct(prompt, answer)
            extremes[kind] = max(extremes.get(kind, 0.0), score)
            if not score < 1:
                paid.append((kind, prompt.answer, answer))
    return extremes, paid


def main(entries: int, names: list[str]) -> None:
    import reasoning_gym

    kinds = ("right", "white space", "tail", "head", "repeated", "other", "both", "worthless")
    print(f"{'data set':24}" + "".join(f"{kind:>12}" for kind in kinds))
    for name in names or sorted(reasoning_gym.factory.DATASETS):
        try:
            extremes, paid = scores(name, entries)
        except ValueError as error:
            print(f"{name:24}  rejected: {error}", flush=True)
            continue
        cells = (f"{extremes[kind]:.2f}" if kind in extremes else "-" for kind in kinds)
        print(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
        for kind, right, answer in paid[:3]:
            print(f"    pays {kind}: {answer[:60]!r} where {right[:60]!r} is right")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:])
