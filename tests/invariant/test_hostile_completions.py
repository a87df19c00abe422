"""No hostile completion hangs a reward, scores in it, or leaves a process or a file behind."""

import math
import os
import tempfile
import time
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForSequenceClassification

from r1lab.model.tiny import tiny_tokenizer
from r1lab.reward.accuracy import Accuracy
from r1lab.reward.checker import Choice, Exact, Numeric
from r1lab.reward.code import Code
from r1lab.reward.countdown import Countdown
from r1lab.reward.format import Format
from r1lab.reward.language_consistency import ScriptConsistency, VocabularyConsistency
from r1lab.reward.length import Cosine, SoftOverlong
from r1lab.reward.math_equal import MathEqual
from r1lab.reward.model import PARTS, LearnedReward, SequenceClassifier
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
# One answer, and the checker's to refuse.
BESIDE_THE_CHECKER = {"invisible", "control characters", "overlapping"}
SLOW_FORMULAS = ("tower of tens", "expansion", "minus signs", "plus signs", "a thousand operations")
CHECKERS = {"exact": Exact(), "numeric": Numeric(relative=1e-6), "countdown": Countdown(), "choice": Choice()}


MAX_LENGTH = 2000  # tokens, of which sampling would have let no more through


class Bytes:
    """A tokenizer whose tokens are bytes, as ByT5's are: it takes any text."""

    pad_token_id, bos_token_id, eos_token_id, all_special_ids = 0, None, 1, (0, 1)
    model_max_length = MAX_LENGTH

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(text[:MAX_LENGTH].encode(errors="surrogatepass"))[:MAX_LENGTH]

    def __call__(self, text: str, truncation: bool, max_length: int) -> dict[str, list[int]]:
        return {"input_ids": self.encode(text)[-max_length:]}


def completion(text: str) -> Completion:
    return Completion(tuple(Bytes().encode(text)), text, False)


def scores(reward, prompt: Prompt, texts: dict[str, str]) -> dict[str, float]:
    """Those that are neither 0 nor None, by the completion's name."""
    rewards = reward([prompt] * len(texts), [completion(text) for text in texts.values()])
    return {name: reward for name, reward in zip(texts, rewards, strict=True) if reward}


ALL = {
    **{f"broken: {name}": text for name, text in BROKEN_TAGS.items()},
    **{f"wrong: {name}": answered(content) for name, content in WRONG_ANSWERS.items()},
    **{f"foreign: {name}": f"<think> {text} </think> <answer> 8 </answer>" for name, text in FOREIGN_REASONING.items()},
    **{f"program: {name}": program_answer(text) for name, text in (PROGRAMS | ENDLESS_PROGRAMS).items()},
}


def test_there_are_enough_of_them():
    assert len(ALL) >= 300


def test_broken_tags_score_in_no_reward():
    assert scores(Format(), PROMPTS["number"], BROKEN_TAGS) == {}
    choices = {name: text.replace(RIGHT, "B") for name, text in BROKEN_TAGS.items()}
    for name, checker in CHECKERS.items():
        texts = choices if name == "choice" else BROKEN_TAGS
        assert scores(Accuracy(checker), PROMPTS["choice" if name == "choice" else "number"], texts) == {}
    assert scores(Accuracy(lambda prompt, answer: 1.0), PROMPTS["number"], BROKEN_TAGS).keys() <= BESIDE_THE_CHECKER


@pytest.mark.parametrize("name", CHECKERS)
def test_wrong_answers_are_wrong(name):
    texts = {key: answered(content) for key, content in WRONG_ANSWERS.items()}
    assert scores(Accuracy(CHECKERS[name]), PROMPTS["choice" if name == "choice" else "number"], texts) == {}


def test_wrong_answers_are_wrong_mathematics():
    pytest.importorskip("math_verify")
    checker = Pooled(MathEqual(), workers=2, seconds=0.3, memory_mib=256)
    texts = {key: answered(content) for key, content in WRONG_ANSWERS.items()}
    try:
        # Bold type is dress of mathematics, as $ is.
        assert scores(Accuracy(checker), PROMPTS["number"], texts) == {"markdown": 1.0}
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
    isolated = Pooled(task.is_correct, workers=1, seconds=2, memory_mib=256)
    try:
        for checker in (task.is_correct, isolated):
            assert scores(Accuracy(checker), PROMPTS["number"], ALL) == {}
    finally:
        isolated.pool.close()
    pytest.importorskip("reasoning_gym")
    for name in ("chain_sum", "countdown"):
        task = ReasoningGym(tiny_tokenizer(), Template("{question}"), name)
        task.tokenizer = type("Lengths", (), {"encode": lambda self, text, **_: [0] * len(text)})()
        # Some of their scorers give part of the score to an answer that holds the right one somewhere.
        accuracy = Accuracy(task.is_correct, partial=False)
        assert scores(accuracy, task.sample("train", 0), texts) == {}


def test_foreign_reasoning_is_not_consistent():
    texts = {key: f"<think> {text} </think> <answer> 7 </answer>" for key, text in FOREIGN_REASONING.items()}
    assert scores(ScriptConsistency(), PROMPTS["number"], texts) == {}


def test_the_graded_format_gives_half_for_the_tags_alone():
    graded = scores(Format(graded=True), PROMPTS["number"], BROKEN_TAGS)
    assert max(graded.values()) == 0.5
    assert [name for name, score in graded.items() if score == 0.5] == ["overlapping"]  # brackets around whole tags


def test_no_word_of_the_vocabulary_is_there():
    vocabularies = {"en": ["plus", "equals"], "zz": ["let", "me", "see", "first", "add"]}
    assert scores(VocabularyConsistency(None, vocabularies), PROMPTS["number"], ALL) == {}


def test_what_is_wrong_earns_nothing_by_its_length():
    cosine = Cosine(Numeric(), MAX_LENGTH, right=[2.0, 1.0], wrong=[-10.0, 0.0], exceeded=-10.0)
    earned = scores(cosine, PROMPTS["number"], ALL)
    assert all(-10 <= reward < 0 for reward in earned.values())
    # The longest are spared, as the cosine has it; those the other terms of length punish.
    long = {name: text for name, text in ALL.items() if len(completion(text).ids) == MAX_LENGTH}
    assert ALL.keys() - earned.keys() == long.keys() and len(long) > 20
    overlong = scores(SoftOverlong(MAX_LENGTH, 0.2), PROMPTS["number"], ALL)
    assert all(overlong.get(name) == -1.0 for name in long) and min(overlong.values()) >= -1
    repeated = scores(Repetition(4), PROMPTS["number"], ALL)
    assert all(-1 < reward < 0 for reward in repeated.values())
    loops = [name for name in long if "million" in name or name.endswith(("a megabyte of spaces", "of one letter"))]
    assert len(loops) >= 5 and all(repeated[name] < -0.9 for name in loops)


def test_a_reward_model_sees_no_answer_where_there_is_none():
    class Seen:
        def score(self, prompts, texts):
            return [len(text) for text in texts]

    assert scores(LearnedReward(Seen(), "answer"), PROMPTS["number"], BROKEN_TAGS).keys() <= BESIDE_THE_CHECKER
    config = LlamaConfig(
        vocab_size=256, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_labels=1, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    scorer = SequenceClassifier(LlamaForSequenceClassification(config), Bytes(), batch_size=64, max_length=32)
    for part in PARTS:
        values = LearnedReward(scorer, part)([PROMPTS["number"]] * len(ALL), list(map(completion, ALL.values())))
        assert len(values) == len(ALL) and all(map(math.isfinite, values))


def test_a_share_of_the_script_is_a_share():
    values = scores(ScriptConsistency(), PROMPTS["number"], ALL).values()
    assert all(0 <= value <= 1 for value in values)


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
