"""A finished run as a small folder to share: what the curves and samples need, and the policy alone."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from r1lab.module.checkpoint import AtomicCheckpointIO, load_state, read_checkpoint, slim
from r1lab.run_folder import FINISHED, read_summary

COPIED = ("summary.json", "metrics.csv", "samples.jsonl", "curves.png")


def ship_run(run: str | Path, out: str | Path) -> Path:
    """Copy a finished run to `out`, without its optimizer and without paths of the machine that it ran on.

    Paths inside the run folder become relative to it, in config.yaml and in the checkpoint's config. The checkpoint is
    the last one's policy (`r1lab.module.checkpoint.slim`): it samples and scores, it does not go on training.

    Raises:
        FileNotFoundError: if the run lacks a file that is to be copied.
        ValueError: if the run has not finished, or its config names an absolute path outside the run folder.
    """
    run, out = Path(run), Path(out)
    if read_summary(run).get("status") != FINISHED:
        raise ValueError(f"{run} is no finished run")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    # Where the run lay when it ran, which need not be where it lies now.
    home = Path(config["callback"]["metrics"]["path"]).parent
    config = relative_paths(config, home)
    out.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(run / name, out / name)
    (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    target = out / "checkpoints" / "last.ckpt"
    slim(run / "checkpoints" / "last.ckpt", target)
    checkpoint = read_checkpoint(target)
    state = load_state(checkpoint)
    state["config"] = relative_paths(state["config"], home)
    # transformers notes there the folder that it loaded from.
    state["model"]["config"]["_name_or_path"] = config["model"]["name"]
    AtomicCheckpointIO().save_checkpoint(checkpoint, target)
    return out


def relative_paths(value: Any, home: Path, key: str = "") -> Any:
    """A config, or a value in it, whose paths inside the folder `home` are relative to it.

    Raises:
        ValueError: for an absolute path elsewhere; it names the dotted key, which begins with `key`.
    """
    if isinstance(value, dict):
        return {name: relative_paths(inner, home, f"{key}.{name}".lstrip(".")) for name, inner in value.items()}
    if isinstance(value, list):
        return [relative_paths(inner, home, f"{key}.{number}") for number, inner in enumerate(value)]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    if not Path(value).is_relative_to(home):
        raise ValueError(f"{key}={value} is a path outside the run folder {home}, which another machine lacks")
    return Path(value).relative_to(home).as_posix()
