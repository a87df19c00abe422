"""python -m r1lab.memory experiment=NAME gpus=[1,8]: what a training run holds on each rank, and whether it fits.

Composes the config of the run, and allocates nothing: models are shapes on the meta device, and a training step is run
on fake tensors, see `r1lab.model.passes`. Every prompt is taken to be as long as the longest, every completion as long
as it may be. Prints a table, a column for each number of GPUs, and for what does not fit what would help, and by how
much. `output=plan.json` or `plan.csv` writes it as data.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from r1lab.advice import advice, enough, notes, title
from r1lab.analysis.memory_table import GIB, caption, memory_table, records, verdict
from r1lab.entry import run
from r1lab.limits import check_numbers
from r1lab.model.plan import Plan
from r1lab.model.weights import counted
from r1lab.planner import Planner
from r1lab.run_folder import check_writable, write_whole

OWN = ("gpus", "gpu_memory_gib", "prompt_tokens", "output")
SECTIONS = (
    "task",
    "model",
    "adapter",
    "rollout",
    "loss",
    "kernel",
    "reference",
    "strategy",
    "optimizer",
    "data",
    "module",
    "reward",
)


def memory(config: DictConfig) -> None:
    """Plan, print, write."""
    settings = OmegaConf.to_container(OmegaConf.masked_copy(config, list(OWN)), resolve=True)
    # Sections that need a running Hydra, such as callbacks, are none of a plan's business.
    given = {key: OmegaConf.to_container(config[key], resolve=True, throw_on_missing=True) for key in SECTIONS}
    given["precision"] = str(config.trainer.precision)
    check(settings)
    check_numbers(given)
    planner = Planner(given, settings)
    gpus = settings["gpus"] if isinstance(settings["gpus"], list) else [settings["gpus"]]
    plans = {ranks: planner.plan(ranks) for ranks in gpus}

    console = Console()
    console.print(title(planner), soft_wrap=True, highlight=False)
    console.print(memory_table(plans, settings["gpu_memory_gib"]))
    for line in [*caption({ranks: planner.strategy_of(ranks) for ranks in gpus}), *notes(planner, plans)]:
        console.print(line, soft_wrap=True, highlight=False)
    short = [ranks for ranks, plan in plans.items() if plan.needed > settings["gpu_memory_gib"] * GIB]
    if short:
        console.print(f"\nof {max(short)} GPUs, each would need less by about", highlight=False)
        for change, saved in advice(planner, max(short)):
            console.print(f"  {saved / GIB:9.2f} GiB  {change}", soft_wrap=True, highlight=False)
        for line in enough(planner, max(short)):
            console.print(line, soft_wrap=True, highlight=False)
    if settings["output"]:
        write(Path(settings["output"]), plans, settings, planner)
        console.print(f"written to {settings['output']}", soft_wrap=True, highlight=False)


def check(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for settings of the plan's own that cannot be."""
    gpus = settings["gpus"] if isinstance(settings["gpus"], list) else [settings["gpus"]]
    if not gpus or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in gpus):
        raise ValueError(f"gpus must be a number from 1, or a list of them as [8,64], got {settings['gpus']!r}")
    memory_gib = settings["gpu_memory_gib"]
    if isinstance(memory_gib, bool) or not isinstance(memory_gib, (int, float)) or not 0 < memory_gib < math.inf:
        raise ValueError(f"gpu_memory_gib must be a number above 0, got {memory_gib!r}")
    prompt = settings["prompt_tokens"]
    if prompt is not None and (isinstance(prompt, bool) or not isinstance(prompt, int) or prompt < 1):
        raise ValueError(f"prompt_tokens must be a number from 1, or null for the task's, got {prompt!r}")
    if settings["output"] and Path(settings["output"]).suffix not in (".json", ".csv"):
        raise ValueError(f"output={settings['output']} must end in .json or .csv")
    if settings["output"]:
        check_writable(Path(settings["output"]), "output")


def write(path: Path, plans: Mapping[int, Plan], settings: Mapping[str, Any], planner: Planner) -> None:
    """The plans as data."""
    if path.suffix == ".csv":
        write_whole(path, pd.DataFrame(records(plans)).to_csv(index=False))
        return
    total, active = counted(planner.policy)
    data = {
        "settings": dict(settings),
        "parameters": total,
        "active_parameters": active,
        "plans": [
            {
                "gpus": ranks,
                "held": plan.held,
                "phases": plan.phases,
                "host": plan.host,
                "peak": plan.peak,
                "largest_phase": plan.largest,
                "needed": plan.needed,
                "fits": verdict(plan, settings["gpu_memory_gib"])[0],
            }
            for ranks, plan in plans.items()
        ],
    }
    write_whole(path, json.dumps(data, indent=2) + "\n")


def main() -> None:
    # OmegaConf resolves train's run folder, and so makes it, when another is merged over it.
    OmegaConf.register_new_resolver("run_dir", lambda *_: ".", replace=True)
    run(memory, "memory")


if __name__ == "__main__":
    main()
