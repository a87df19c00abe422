"""Rewards and an engine of tests, named in a config."""

import json
import os
import random
from pathlib import Path

from r1lab.strategy.fsdp import FSDP
from r1lab.types import Completion


class FSDPOnCPU(FSDP):
    """What users are refused: slow, and torch cannot assemble a whole checkpoint there."""

    on_cpu = True


def even(prompts, completions, **settings):
    """It differs within a group, by what is written alone; some completions are right and some wrong."""
    return [float(sum(c.ids) % 2) for c in completions]


def noted(prompts, completions, *, folder, **settings):
    """`even`, which writes down what each rank sampled: a line a rollout, [[number of the prompt, ids], ...]."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    rows = [[p.index, c.ids] for p, c in zip(prompts, completions, strict=True)]
    with open(Path(folder, f"rank_{os.environ.get('RANK', 0)}.jsonl"), "a") as file:
        file.write(json.dumps(rows) + "\n")
    return even(prompts, completions)


def seldom(prompts, completions, **settings):
    return [float(sum(c.ids) % 8 == 0) for c in completions]


def record(path: Path) -> list[str]:
    """Write rows for `Recorded`; the overrides that take rollouts from them."""
    draw = random.Random(0)
    rows = [[draw.randrange(2, 100) for _ in range(3 + i % 9)] + [1] for i in range(41)]
    path.write_text(json.dumps(rows))
    return ["rollout.engine._target_=tests.invariant.scripted.Recorded", f"+rollout.engine.path={path}"]


class Recorded:
    """An engine that writes what is on record for a prompt: rollouts that are the same whatever the weights."""

    records_experts = False

    def __init__(self, tokenizer, path: str, **of_another):
        self.tokenizer, self.rows = tokenizer, json.loads(Path(path).read_text())
        self.everyone_done = None

    def generate(self, model, prompts, *, group_size, sampling, seed, step, policy_version=0, recorder=None):
        rows = [self.rows[(prompt.index + step + g) % len(self.rows)] for prompt in prompts for g in range(group_size)]
        return [Completion(tuple(ids), self.tokenizer.decode(ids), False, (), policy_version) for ids in rows]
