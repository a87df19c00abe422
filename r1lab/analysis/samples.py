"""samples.jsonl as tables: some completions of a step, and the group of one prompt."""

from collections.abc import Sequence
from typing import Any

import pandas as pd


def written_steps(samples: Sequence[dict[str, Any]]) -> list[int]:
    """The training steps whose samples were written, in order."""
    return sorted({sample["step"] for sample in samples})


def some_completions(samples: Sequence[dict[str, Any]], steps: Sequence[int], count: int) -> pd.DataFrame:
    """The first `count` completions of each step, of different prompts in turn; one row a completion.

    Columns: step, prompt, answer, completion, length (tokens), reward. A text that a step
    wrote to the same prompt before is passed over.
    """
    columns = ["step", "prompt", "answer", "completion", "length", "reward"]
    table = pd.DataFrame(samples, columns=[*columns, "number"])
    # By number first: completion 0 of each prompt, then completion 1 of each, ...
    table = table[table["step"].isin(steps)].sort_values(["step", "number"], kind="stable")
    table = table.drop_duplicates(["step", "prompt", "completion"])
    return table.groupby("step").head(count)[columns].reset_index(drop=True)


def most_varied_group(samples: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The group whose rewards differ most: what its advantages are computed from, one row a completion.

    Columns: completion, one a reward term, reward (their weighted sum), advantage. `attrs` holds step, prompt, answer.

    Raises:
        ValueError: if there are no samples.
    """
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault((sample["step"], sample["prompt_index"]), []).append(sample)
    if not groups:
        raise ValueError("there are no samples, so no group either")
    group = max(groups.values(), key=_spread)
    table = pd.DataFrame(
        {"completion": row["completion"], **row["rewards"], "reward": row["reward"], "advantage": row["advantage"]}
        for row in group
    )
    table.attrs = {key: group[0][key] for key in ("step", "prompt", "answer")}
    return table


def _spread(group: Sequence[dict[str, Any]]) -> float:
    """The standard deviation of its rewards; -1 for a group without any."""
    std = pd.Series([row["reward"] for row in group], dtype=float).std(ddof=0)
    return -1.0 if pd.isna(std) else float(std)
