"""python -m tests.benchmark.bench_reward: how fast the accuracy reward scores completions, for each checker.

Answers are made anew, half of them right: numbers and letters for the plain checkers; for mathematics fractions, roots,
polynomials, tuples and equations, hardly any twice; for code a program with two tests of input and output or two
assert-style ones. In this process, and in a pool where that is for the checker. The first fifth of them, at least one a
worker, is not timed: it starts the workers, loads their libraries and warms both. `hostile` has one answer in a hundred
that never ends, with a second of processor time for each.

Each run appends a row a line to results/bench_reward.csv. cpu_ms is processor time of a completion, of this process and
of all that work for it: on a machine that others use it says more than completions_per_second, which is by the clock.
`load` is how many processes competed for the processor as the run began.
"""

import argparse
import csv
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from r1lab.model.tiny import tiny_tokenizer
from r1lab.reward.accuracy import Accuracy
from r1lab.reward.checker import Choice, Exact, Numeric
from r1lab.reward.code import Code
from r1lab.reward.countdown import Countdown
from r1lab.reward.math_equal import MathEqual
from r1lab.reward.pool import Pooled
from r1lab.run_folder import commit, device_name
from r1lab.task.reasoning_gym import ReasoningGym
from r1lab.task.template import Template
from r1lab.types import Completion, Prompt

RESULTS = Path(__file__).parent / "results" / "bench_reward.csv"
Pair = tuple[Prompt, str]


def numbers(rng: random.Random) -> Pair:
    right = rng.randint(-999, 999)
    columns = {"numbers": [right, 1], "target": right + 1}
    return Prompt((1,), "q", str(right), columns=columns), str(right + rng.randint(0, 1))


def sums(rng: random.Random) -> Pair:
    given = [rng.randint(1, 99) for _ in range(4)]
    a, b, c, d = given
    columns = {"numbers": given, "target": (a + b) * c - d + rng.randint(0, 1)}
    return Prompt((1,), "q", "", columns=columns), f"({a} + {b}) * {c} - {d}"


def letters(rng: random.Random) -> Pair:
    return Prompt((1,), "q", rng.choice("ABCD")), f"({rng.choice('ABCD')})"


def mathematics(rng: random.Random) -> Pair:
    a, b, c = (rng.randint(2, 999) for _ in range(3))
    right, same, other = rng.choice(
        [
            (rf"\frac{{{a}}}{{{b}}}", f"{2 * a}/{2 * b}", f"{a}/{b + 1}"),
            (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"\sqrt{{{a * b}}}"),
            (f"(x+{a})(x-{b})", f"x^2+{a - b}x-{a * b}" if a > b else f"x^2-{b - a}x-{a * b}", f"x^2+{c}"),
            (f"({a}, {b})", f"({a}, {b}.0)", f"({b}, {a + b})"),
            (str(a), rf"\boxed{{{a}}}", rf"\boxed{{{a + 1}}}"),
            (str(a), f"x = {a}", f"x = {a + 1}"),
            (f"{a}.5", rf"\frac{{{2 * a + 1}}}{{2}}", f"{a}.25"),
        ]
    )
    return Prompt((1,), "q", right), rng.choice([same, other])


def endless_now_and_then(rng: random.Random) -> Pair:
    return mathematics(rng) if rng.random() > 0.01 else (Prompt((1,), "q", "7"), "9^{9^{9^{9}}}")


def completions(make: Callable[[random.Random], Pair], number: int) -> tuple[list[Prompt], list[Completion]]:
    rng = random.Random(0)
    pairs = [make(rng) for _ in range(number)]
    texts = [f"<think> let me see </think> <answer> {answer} </answer>" for _, answer in pairs]
    return [prompt for prompt, _ in pairs], [Completion((1,), text, False) for text in texts]


def programs(number: int, tests: list) -> tuple[list[Prompt], list[Completion]]:
    source = "def double(x):\n    return 2 * x\nif __name__ == '__main__':\n    print(double(int(input())))"
    text = f"<think> easy </think> <answer>\n```python\n{source}\n```\n</answer>"
    prompt = Prompt((1,), "q", "", columns={"tests": tests})
    return [prompt] * number, [Completion((1,), text, False)] * number


def per_completion(
    reward: Callable, prompts: list[Prompt], texts: list[Completion], workers: int
) -> tuple[int, float, float]:
    """How many were timed; seconds of each by the clock, and of processor time."""
    untimed = max(len(texts) // 5, workers)
    # A pool starts no more workers than it has calls, and waits for each to be ready before it calls it.
    reward(prompts[:untimed], texts[:untimed])
    prompts, texts = prompts[untimed:], texts[untimed:]
    start, worked = time.perf_counter(), processor_time(reward)
    reward(prompts, texts)
    seconds = time.perf_counter() - start
    return len(texts), seconds / len(texts), (processor_time(reward) - worked) / len(texts)


def processor_time(reward: Callable) -> float:
    """Seconds of this process, of those that it has waited for, and of the workers of a pool."""
    pool = getattr(getattr(reward, "is_correct", None), "pool", None)
    keepers = [keeper.process.pid for keeper in pool._keepers] if pool else []
    children = [child for pid in keepers for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    ticks = 0
    for pid in [*keepers, *children]:
        # Behind the name in brackets; fields 14 to 17 are times of the process and of those it has waited for.
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    times = os.times()
    return sum(times[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def pooled(checker: Any, workers: int, seconds: float = 2.0) -> Accuracy:
    return Accuracy(Pooled(checker, workers=workers, seconds=seconds, memory_mib=512))


def measure(number: int, workers: int) -> list[dict[str, Any]]:
    """A row a checker and place."""
    many = 20 * number
    gym = ReasoningGym(tiny_tokenizer(), Template("{question}"), "chain_sum")
    gym.tokenizer = type("Lengths", (), {"encode": lambda self, text, **_: [0] * len(text)})()
    gym_prompts = [gym.sample("train", i) for i in range(number)]
    gym_texts = [Completion((1,), f"<answer> {prompt.answer} </answer>", False) for prompt in gym_prompts]
    limits = {"cpu_seconds": 4, "wall_seconds": 60, "memory_mib": 512, "output_mib": 4, "processes": 16}
    code = Code(partial=False, workers=workers, **limits, allow_unsandboxed=False)
    pairs = [{"stdin": "3", "stdout": "6"}, {"stdin": "4", "stdout": "8"}]
    asserts = ["assert double(3) == 6", "assert double(4) == 8"]
    few = max(4 + workers, number // 20)
    cases = {
        "exact": (Accuracy(Exact()), completions(numbers, many)),
        "numeric": (Accuracy(Numeric(relative=1e-6)), completions(numbers, many)),
        "choice": (Accuracy(Choice()), completions(letters, many)),
        "countdown": (Accuracy(Countdown()), completions(sums, many)),
        "exact, pool": (pooled(Exact(), workers), completions(numbers, many)),
        "math": (Accuracy(MathEqual()), completions(mathematics, number)),
        "math, pool of 1": (pooled(MathEqual(), 1), completions(mathematics, number)),
        f"math, pool of {workers}": (pooled(MathEqual(), workers), completions(mathematics, number)),
        f"math, pool of {workers}, hostile": (
            pooled(MathEqual(), workers, seconds=1.0),
            completions(endless_now_and_then, number),
        ),
        "reasoning-gym chain_sum": (Accuracy(gym.is_correct), (gym_prompts, gym_texts)),
        f"reasoning-gym chain_sum, pool of {workers}": (pooled(gym.is_correct, workers), (gym_prompts, gym_texts)),
        f"code, 2 runs, {workers} at a time": (code, programs(few, pairs)),
        f"code, 2 asserts, {workers} at a time": (code, programs(few, asserts)),
    }
    rows = []
    for name, (reward, (prompts, texts)) in cases.items():
        timed, seconds, worked = per_completion(reward, prompts, texts, workers)
        rows.append(
            {
                "checker": name,
                "completions": timed,
                "completions_per_second": round(1 / seconds, 1),
                "cpu_ms": round(1000 * worked, 3),
            }
        )
        print(f"{name:42} {1 / seconds:12.1f} completions/s {1000 * worked:10.3f} ms each", flush=True)
        if hasattr(getattr(reward, "is_correct", None), "pool"):
            reward.is_correct.pool.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--number",
        type=int,
        default=500,
        help="mathematical answers, of which four fifths are timed; 20 times as many plain ones",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit() or "",
        "device": device_name(),
        "load": round(os.getloadavg()[0], 1),
        "math_verify": version("math-verify"),
        "command": f"python -m tests.benchmark.bench_reward --number {given.number} --workers {given.workers}",
    }
    rows = [row | about for row in measure(given.number, given.workers)]
    new = not given.output.exists()
    with given.output.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)
    print(f"appended to {given.output}")


if __name__ == "__main__":
    main()
