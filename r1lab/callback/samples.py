"""samples.jsonl: what the policy wrote, with its rewards; the best and the worst of the last rollout at the end."""

import json
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from rich.table import Table
from rich.text import Text

from r1lab.callback.line_file import append_lines, complete_lines, replace_lines


class Samples(L.Callback):
    """Appends groups of completions to a file, and prints a few at the end.

    The first rollout is written, then each one that serves a step whose number is a multiple of `every`. One JSON
    object a completion: step (the training step that used it first), prompt, prompt_index, kind, answer, number (of
    the completion in its group), completion, length (tokens), truncated, rewards (each term's, null where it does not
    apply), reward (the weighted sum, null where no term applies), kl_penalty (what the KL takes from it), advantage.
    On resume, lines past the restored step go.

    Args:
        every: training steps between two writings.
        path: of the file.
        groups: how many prompts' groups are written each time.
        shown: how many of the best and of the worst completions are printed; 0 for none.
        console: where they are printed; None: standard output.
    """

    def __init__(self, every: int, path: str | Path, *, groups: int, shown: int, console: Console | None = None):
        if every < 1:
            raise ValueError(f"callback.samples.every={every} must be at least 1")
        self.every, self.path, self.groups, self.shown, self.console = every, Path(path), groups, shown, console

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and self.path.exists():
            kept = [line for line in complete_lines(self.path) if json.loads(line)["step"] <= pl_module.step]
            replace_lines(self.path, kept)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        fresh = getattr(pl_module, "rollout", None) is not None and bool(batch)
        if trainer.is_global_zero and fresh and self.is_due(pl_module.step, pl_module.updates_per_rollout):
            records = rollout_records(pl_module.rollout, step=pl_module.step, group_size=pl_module.group_size)
            append_lines(self.path, [json.dumps(r) for r in records[: self.groups * pl_module.group_size]])

    def is_due(self, step: int, updates: int) -> bool:
        """Whether a rollout that serves steps `step` .. `step + updates - 1` is to be written."""
        return step == 1 or -step % self.every < updates

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rollout = getattr(pl_module, "rollout", None)
        if trainer.is_global_zero and self.shown and rollout is not None:
            records = rollout_records(rollout, step=pl_module.step, group_size=pl_module.group_size)
            (self.console or Console()).print(best_and_worst(records, self.shown))


def rollout_records(rollout: Any, *, step: int, group_size: int) -> list[dict[str, Any]]:
    """One plain dict a completion of a `Rollout`; see `Samples` for the keys."""
    return [
        {
            "step": step,
            "prompt": prompt.text,
            "prompt_index": prompt.index,
            "kind": prompt.kind,
            "answer": prompt.answer,
            "number": row % group_size,
            "completion": completion.text,
            "length": len(completion.ids),
            "truncated": completion.truncated,
            "rewards": {name: values[row] for name, values in rollout.reward_terms.items()},
            "reward": None if rollout.rewards[row].isnan() else float(rollout.rewards[row]),
            "kl_penalty": float(rollout.kl_penalty[row]),
            "advantage": float(rollout.advantages[row]),
        }
        for row, (prompt, completion) in enumerate(zip(rollout.prompts, rollout.completions, strict=True))
    ]


def best_and_worst(records: list[dict[str, Any]], shown: int, *, longest: int = 400) -> Table:
    """A table of the completions with the highest and the lowest rewards, of different prompts where possible.

    Among equal rewards the longer completion is the better one to look at. Texts are cut to `longest` characters.
    """
    scored = [record for record in records if record["reward"] is not None]
    ordered = sorted(scored, key=lambda r: (r["reward"], r["length"]), reverse=True)
    best = _spread(ordered, shown)
    worst = _spread([r for r in reversed(ordered) if all(r is not b for b in best)], shown)
    table = Table(title="The last rollout's best and worst completions", title_justify="left", show_lines=True)
    table.add_column("reward", justify="right")
    table.add_column("prompt", ratio=1)
    table.add_column("completion", ratio=2)
    for name, style, picked in (("best", "green", best), ("worst", "red", worst)):
        for record in picked:
            reward = Text(f"{name}\n{record['reward']:.3g}", style=style)
            prompt = Text(f"{_cut(record['prompt'], longest)}\n(answer {record['answer']})")
            end = " …cut off by the length limit" if record["truncated"] else ""
            table.add_row(reward, prompt, Text(_cut(record["completion"].strip(), longest) + end))
    return table


def _spread(records: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first `count` records, of different prompts as long as there are any."""
    seen, firsts, others = set(), [], []
    for record in records:
        (others if record["prompt_index"] in seen else firsts).append(record)
        seen.add(record["prompt_index"])
    return (firsts + others)[:count]


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]} […] {text[-longest // 2 :]}"
