"""python -m r1lab.evaluate checkpoint=PATH: sample a policy and score it, as a run scores its own at its end.

Prints the table and writes evaluation.json into the checkpoint's run folder (beside a checkpoint that has none, into
the current folder for a Hugging Face model), or to `output`.
"""

import json
import logging
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from r1lab.analysis.scores import score_table
from r1lab.build import evaluation_sampling
from r1lab.entry import own_settings, run
from r1lab.limits import check_command
from r1lab.load import Loaded, load, policy_hash
from r1lab.module.evaluation import evaluate_splits
from r1lab.run_folder import check_writable, commit, device_name, versions, write_whole

log = logging.getLogger("r1lab.evaluate")


def evaluate(config: DictConfig) -> None:
    """One evaluation."""
    given = own_settings(config)
    check_command(given)
    loaded = load(given["checkpoint"], model=given.get("model"), task=given.get("task"))
    settings = with_enough_samples(override(loaded.config["evaluation"], given))
    path = free_path(Path(given["output"]) if given["output"] else beside(loaded), settings, loaded)
    started = time.perf_counter()
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        completions = len(settings["splits"]) * settings["num_prompts"] * (settings["num_samples"] + 1)
        advance = partial(bar.advance, bar.add_task("sampling", total=completions))
        scores = evaluate_splits(
            loaded.policy,
            loaded.tokenizer,
            loaded.engine,
            loaded.task,
            splits=settings["splits"],
            num_prompts=settings["num_prompts"],
            num_samples=settings["num_samples"],
            sampling=evaluation_sampling({"evaluation": settings}, prefix=""),
            seed=settings["seed"],
            ks=settings["ks"],
            advance=advance,
        )
    record = {
        "checkpoint": str(loaded.file or given["checkpoint"]),
        "policy_sha256": policy_hash(loaded.policy),
        "experiment": loaded.config["name"],
        "task": loaded.task.name,
        "evaluation": settings,
        "commit": commit(),
        "versions": versions(),
        "device": device_name(),
        "seconds": round(time.perf_counter() - started, 2),
        "scores": scores,
    }
    write_whole(path, json.dumps(record, indent=2) + "\n")  # first: the scores are kept even if printing fails
    console = Console()
    console.print(score_table(scores))
    console.print(f"{record['seconds']:.0f} s; written to {path}", soft_wrap=True, highlight=False)


def override(settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The run's own settings, with those that were given in their place."""
    return settings | {key: given[key] for key in settings if given.get(key) is not None}


def with_enough_samples(settings: dict[str, Any]) -> dict[str, Any]:
    """pass@k needs k samples a prompt at least: raises `num_samples` to the largest k, and says so."""
    needed = max(settings["ks"], default=1)
    if needed <= settings["num_samples"]:
        return settings
    log.info(f"num_samples={settings['num_samples']} is raised to {needed}, for pass@{needed}")
    return settings | {"num_samples": needed}


def free_path(path: Path, settings: dict[str, Any], loaded: Loaded) -> Path:
    """Where the scores go: not in the place of those of another policy, or of other settings.

    Raises ValueError, before anything is sampled, for a place that cannot be written.
    """
    check_writable(path, "output")
    number, free = 1, path
    while free.exists() and not _is_of(free, settings, loaded):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _is_of(path: Path, settings: dict[str, Any], loaded: Loaded) -> bool:
    try:
        before = json.loads(path.read_text())
    except ValueError:
        return False
    return before.get("evaluation") == settings and before.get("policy_sha256") == policy_hash(loaded.policy)


def beside(loaded: Loaded) -> Path:
    """Where evaluation.json goes when no place is named."""
    folder = loaded.file.resolve().parent if loaded.file else Path()
    return (folder.parent if folder.name == "checkpoints" else folder) / "evaluation.json"


def main() -> None:
    run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
