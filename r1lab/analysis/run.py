"""A run folder as one object: config, metrics, summary, samples, checkpoints."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from r1lab.callback.line_file import complete_lines


@dataclass(frozen=True)
class Run:
    """What a run left behind; a part that is not there (yet) is empty.

    metrics: one row a training step, `step` and the metrics as columns; validation metrics are NaN between validations.
    samples: one dict a written completion, see `r1lab.callback.samples.Samples`.
    checkpoints: name without ending (last, best) -> file.
    """

    folder: Path
    config: dict[str, Any]
    metrics: pd.DataFrame
    summary: dict[str, Any]
    samples: list[dict[str, Any]]
    checkpoints: dict[str, Path]


def load_run(folder: str | Path) -> Run:
    """Read a run folder, also one whose run still goes on or was killed.

    Raises:
        FileNotFoundError: if the folder is none of a run: it has neither config.yaml nor metrics.csv.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").exists() and not (folder / "metrics.csv").exists():
        raise FileNotFoundError(f"{folder} is no run folder: it has neither config.yaml nor metrics.csv")
    return Run(
        folder=folder,
        config=yaml.safe_load(_text(folder / "config.yaml")) or {},
        metrics=read_metrics(folder / "metrics.csv"),
        summary=json.loads(_text(folder / "summary.json") or "{}"),
        samples=[json.loads(line) for line in complete_lines(folder / "samples.jsonl")],
        checkpoints={path.stem: path for path in sorted(folder.glob("checkpoints/*.ckpt"))},
    )


def read_metrics(path: str | Path) -> pd.DataFrame:
    """metrics.csv as a table; only a `step` column where there is no file."""
    lines = complete_lines(Path(path))
    return pd.read_csv(io.StringIO("\n".join(lines))) if lines else pd.DataFrame({"step": pd.Series(dtype=int)})


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
