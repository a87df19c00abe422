"""No hostile completion hangs a reward, scores in it, or leaves a process or a file behind."""

import math
import os
import tempfile
import time
from pathlib import Path

import pytest

from r1lab.model.tiny import tiny_tokenizer
from r1lab.reward.accuracy import Accuracy
from r1lab.reward.checker import Choice, Exact, Numeric
from r1lab.reward.code import Code
from r1lab.reward.countdown import Countdown
from r1lab.reward.format import Format
from r1lab.reward.language_consistency import ScriptConsistency
from r1lab.reward.length import SoftOverlong
from r1lab.reward.math_equal import MathEqual
from r1lab.reward.pool import Pooled
from r1lab.reward.repetition import Repetition
from r1lab.reward.sandbox import SandboxError
from r1lab.task.arithmetic import Arithmetic
from r1lab.task.reasoning_gym import ReasoningGym
from r1lab.task.template import Template
from r1lab.types import Completion, Prompt
from tests.reward.hostile import (
    BROKEN_TAGS,
    ENDLESS_PROGRAMS,
    FOREIGN_REASONING,
    PROGRAMS,
    RIGHT,
    WRONG_ANSWERS,
    answered,
    program_answer,
)

NUMBERS = {"numbers": [3, 5, 7, 7], "target": 22}
PROMPTS = {
    "number": Prompt((1,), "q", RIGHT, columns=NUMBERS),
    "formula": Prompt((1,), "q", "x^2+7"),
    "choice": Prompt((1,), "q", "B"),
    "program": Prompt(
        (1,),
        "q",
        "",
        columns={"tests": [{"stdin": "3", "stdout": "6"}, "assert double(3) == 6", "assert double(4) == 8"]},
    ),
}
SLOW_FORMULAS = ("tower of tens", "expansion", "powers of powers", "roots")
CHECKERS = {"exact": Exact(), "numeric": Numeric(relative=1e-6), "countdown": Countdown(), "choice": Choice()}


def completion(text: str) -> Completion:
    return Completion((1, 2, 3), text, False)


def scores(reward, prompt: Prompt, texts: dict[str, str]) -> dict[str, float]:
    """Those that are not 0, by the completion's name."""
    rewards = reward([prompt] * len(texts), [completion(text) for text in texts.values()])
    return {name: reward for name, reward in zip(texts, rewards, strict=True) if reward}


def test_there_are_enough_of_them():
    assert sum(map(len, (BROKEN_TAGS, WRONG_ANSWERS, FOREIGN_REASONING, PROGRAMS, ENDLESS_PROGRAMS))) >= 300


def test_broken_tags_score_in_no_reward():
    assert scores(Format(), PROMPTS["number"], BROKEN_TAGS) == {}
    choices = {name: text.replace(RIGHT, "B") for name, text in BROKEN_TAGS.items()}
    for name, checker in CHECKERS.items():
        texts = choices if name == "choice" else BROKEN_TAGS
        assert scores(Accuracy(checker), PROMPTS["choice" if name == "choice" else "number"], texts) == {}
    assert scores(Accuracy(lambda prompt, answer: 1.0), PROMPTS["number"], BROKEN_TAGS).keys() <= {
        # One answer, and the checker's to refuse.
        "invisible",
        "control characters",
        "overlapping",
    }


@pytest.mark.parametrize("name", CHECKERS)
def test_wrong_answers_are_wrong(name):
    texts = {key: answered(content) for key, content in WRONG_ANSWERS.items()}
    assert scores(Accuracy(CHECKERS[name]), PROMPTS["choice" if name == "choice" else "number"], texts) == {}


def test_wrong_answers_are_wrong_mathematics():
    pytest.importorskip("math_verify")
    checker = Pooled(MathEqual(), workers=2, seconds=0.3, memory_mib=256)
    texts = {key: answered(content) for key, content in WRONG_ANSWERS.items()}
    try:
        assert scores(Accuracy(checker), PROMPTS["number"], texts) == {}
        # Beside a number most are refused by their look; beside a formula they are read and simplified.
        slow = {key: texts[key] for key in SLOW_FORMULAS}
        assert scores(Accuracy(checker), PROMPTS["formula"], slow) == {}
        assert checker.pool.killed >= 2
        assert checker(PROMPTS["number"], r"\frac{14}{2}") == 1.0  # and it goes on
    finally:
        checker.pool.close()


def test_wrong_answers_are_wrong_in_the_tasks():
    task = Arithmetic(None, Template("{question}"), [2], [5], {"+": [1, 9]}, "{chain}")
    texts = {key: answered(content) for key, content in WRONG_ANSWERS.items()}
    assert scores(Accuracy(task.is_correct), PROMPTS["number"], texts) == {}
    pytest.importorskip("reasoning_gym")
    for name in ("chain_sum", "countdown", "puzzle24"):
        task = ReasoningGym(tiny_tokenizer(), Template("{question}"), name)
        task.tokenizer = type("Lengths", (), {"encode": lambda self, text, **_: [0] * len(text)})()
        # Some of their scorers give part of the score to an answer that holds the right one somewhere.
        accuracy = Accuracy(task.is_correct, partial=False)
        assert scores(accuracy, task.sample("train", 0), texts) == {}


def test_foreign_reasoning_is_not_consistent():
    texts = {key: f"<think> {text} </think> <answer> 7 </answer>" for key, text in FOREIGN_REASONING.items()}
    assert scores(ScriptConsistency(), PROMPTS["number"], texts) == {}


def test_every_reward_stays_in_its_range():
    texts = [*BROKEN_TAGS.values(), *map(answered, WRONG_ANSWERS.values())]
    completions = [completion(text) for text in texts]
    prompts = [PROMPTS["number"]] * len(texts)
    for reward in (Format(graded=True), ScriptConsistency(), SoftOverlong(10, 0.2), Repetition(2)):
        values = [value for value in reward(prompts, completions) if value is not None]
        assert all(math.isfinite(value) and -1 <= value <= 1 for value in values)


def programs_at_work() -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"Runs inside the sandbox: the policy's program" in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


FEW = ("infinite loop", "sleep when called", "fork bomb", "ignored signals")


@pytest.mark.parametrize(
    "programs",
    [
        pytest.param(PROGRAMS, id="programs"),
        pytest.param({name: ENDLESS_PROGRAMS[name] for name in FEW}, id="a few endless ones"),
        pytest.param(ENDLESS_PROGRAMS, id="endless ones", marks=pytest.mark.slow),
    ],
)
def test_programs_pass_nothing_and_leave_nothing(programs):
    limits = {"cpu_seconds": 1, "wall_seconds": 2, "memory_mib": 128, "output_mib": 1, "processes": 8}
    try:
        code = Code(partial=True, workers=4, **limits, allow_unsandboxed=False)
    except SandboxError as error:
        pytest.skip(str(error))
    folders = [Path(tempfile.gettempdir()), Path.cwd(), Path("/usr"), Path("/")]
    before = [set(os.listdir(folder)) for folder in folders]
    texts = {key: program_answer(program) for key, program in programs.items()}
    assert scores(code, PROMPTS["program"], texts) == {}
    # The kernel takes a moment to end the processes of a sandbox that was killed.
    deadline = time.monotonic() + 10
    while programs_at_work() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not programs_at_work()
    left = {name for folder, names in zip(folders, before, strict=True) for name in set(os.listdir(folder)) - names}
    assert not {name for name in left if "left_behind" in name}
    code.sandbox.wall_seconds = 60
    right = "def double(x): return 2 * x\nif __name__ == '__main__': print(double(int(input())))"
    assert scores(code, PROMPTS["program"], {"right": program_answer(right)}) == {"right": 1.0}
