"""Sum up a sweep from its Optuna study: a table, a figure, a CSV and a verdict."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from r1lab.analysis.effects import effects
from r1lab.analysis.picture import write_picture
from r1lab.analysis.replay import replayed
from r1lab.analysis.sweep import Sweep, SweepError, load_sweep
from r1lab.analysis.sweep_figure import sweep_figure
from r1lab.analysis.sweep_table import markdown, print_tables, trials_csv
from r1lab.analysis.verdict import verdict
from r1lab.entry import CONF
from r1lab.run_folder import write_whole

log = logging.getLogger("r1lab.sweeper")

EPILOG = """\
examples:
  python -m r1lab.analysis.ablation sweeps/results/beta
  python -m r1lab.analysis.ablation sweeps/results/*   # all; a pruned sweep and its unpruned twin are compared
  python -m r1lab.analysis.ablation sweeps/results/lr_pruned --against sweeps/results/lr   # and the other way round
  python -m r1lab.analysis.ablation sweeps/results/lr --replay MedianPruner n_warmup_steps=30
  python -m r1lab.analysis.ablation --storage sqlite:///sweeps.db --study beta --output sweeps/results/beta

writes, into the folder of the sweep or --output:
  table.md     one row a point: mean over seeds with its 95 % interval, difference to the baseline, adjusted p (grids);
               the same for held-out greedy accuracy
  trials.csv   one row a trial and seed
  figure.png   effects with every seed, learning curves; heat map, importance, Pareto front where they apply
  verdict.md   question, set-up, finding, decision, what would change it; with --against also what pruning saves

The study is only read, so a sweep that still runs may be summed up at any time.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 with one line on stderr where there is no sweep to sum up."""
    options = parser().parse_args(arguments)
    try:
        found = [places(one) for one in each_folder(options)]
        sweeps = [load_sweep(source, options.study) for source, _ in found]
        if options.replay:
            name, chosen = pruner(options.replay[0])
            print(replayed(sweeps[0], name, chosen | settings(options.replay[1:])).told)
            return 0
        given = load_other(options)
        for sweep, (_, output) in zip(sweeps, found, strict=True):
            paths = write_all(sweep, output, given or twin(sweep, sweeps), Console())
            print("wrote " + ", ".join(str(path) for path in paths))
    except (SweepError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def sum_up(storage: str, name: str) -> None:
    """What a sweep does at its end (`hydra.sweeper.finish`): all of the above, into `sweeps/results/<name>`.

    Args:
        storage: of the study: a journal file, beside which the files are written, or a database's URL.
        name: of the study.
    """
    is_database = "://" in storage
    output = Path("sweeps/results", name) if is_database else Path(storage).parent
    try:
        paths = write_all(load_sweep(storage, name), output, None, Console())
    except Exception as error:  # a full disk, say: the sweep itself is done
        again = ": python -m r1lab.analysis.ablation does it" if isinstance(error, OSError) else ""
        log.warning(f"not summed up, {error}{again}")
        return
    print("wrote " + ", ".join(str(path) for path in paths))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m r1lab.analysis.ablation",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("folder", nargs="*", type=Path, help="of each sweep, with its journal.log; or journal files")
    result.add_argument("--storage", metavar="URL", help="a database that holds the study, instead of a folder")
    result.add_argument("--study", metavar="NAME", help="its name; may be left out where there is one")
    result.add_argument("--output", metavar="FOLDER", type=Path, help="where to write; by default the folder")
    result.add_argument(
        "--against", metavar="B", help="a second sweep, a folder or a study of --storage: compare cost and best value"
    )
    result.add_argument(
        "--replay",
        metavar=("PRUNER", "ARGUMENT=VALUE"),
        nargs="+",
        help="say what a pruner (median, asha, hyperband, or a class of Optuna) would have saved in this sweep, which "
        "ran without one, and write nothing",
    )
    return result


def pruner(name: str) -> tuple[str, dict[str, Any]]:
    """(class of Optuna, its arguments): those of `hydra/sweeper/pruner=<name>`; of another name, itself and none."""
    file = CONF / "hydra/sweeper/pruner" / f"{name}.yaml"
    values = yaml.safe_load(file.read_text()) if file.is_file() else {}
    return (values.pop("_target_").rpartition(".")[2], values) if "_target_" in values else (name, {})


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """`name=value` each, the value as YAML has it.

    Raises:
        SweepError: for a text without `=`, or a value that is no YAML.
    """
    if wrong := [text for text in texts if "=" not in text]:
        raise SweepError(f"--replay takes a pruner and then argument=value, got {wrong[0]!r}")
    try:
        return {name: yaml.safe_load(value) for name, value in (text.split("=", 1) for text in texts)}
    except yaml.YAMLError as error:
        raise SweepError(
            f"--replay {' '.join(texts)}: a value cannot be read: {' '.join(str(error).split())}"
        ) from error


def each_folder(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options once for each folder, or once for a storage.

    Raises:
        SweepError: several folders with an option that takes one.
    """
    single = [f"--{name}" for name in ("output", "study", "against", "replay") if getattr(options, name)]
    if len(options.folder) > 1 and single:
        raise SweepError(f"{single[0]} takes one sweep, got {len(options.folder)} folders")
    return [argparse.Namespace(**vars(options) | {"folder": folder}) for folder in options.folder or [None]]


def places(options: argparse.Namespace) -> tuple[str | Path, Path | None]:
    """(what to read, where to write) for one folder; None: a replay, which writes nothing.

    Raises:
        SweepError: neither or both of folder and storage, or a storage without a folder to write to.
    """
    if bool(options.folder) == (options.storage is not None):
        raise SweepError("name the folder of a sweep, or a database with --storage")
    if not options.folder and options.output is None and not options.replay:
        raise SweepError("--storage needs --output, the folder to write to")
    folder = options.folder.parent if options.folder and options.folder.is_file() else options.folder
    return options.storage or options.folder, options.output or folder or None


def twin(sweep: Sweep, others: Sequence[Sweep]) -> Sweep | None:
    """The one sweep among `others` of the same points, steps and seeds of which one is pruned and the other is not."""
    same = ("params", "steps", "seeds", "objectives")
    found = [
        other
        for other in others
        if bool(other.record.get("pruner")) != bool(sweep.record.get("pruner"))
        and all(other.record.get(key) == sweep.record.get(key) for key in same)
    ]
    return found[0] if len(found) == 1 else None


def load_other(options: argparse.Namespace) -> Sweep | None:
    """The sweep to compare with, if any."""
    name = options.against
    if name is None or options.storage is None or "://" in name or Path(name).is_dir():
        return None if name is None else load_sweep(name)
    return load_sweep(options.storage, name)


def write_all(sweep: Sweep, output: Path, other: Sweep | None, console: Console) -> list[Path]:
    """Print the tables and the verdict, and write the files, each whole."""
    found = effects(sweep)
    text = verdict(sweep, found, other)
    print_tables(sweep, found, console)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "table.md", markdown(sweep, found))
    write_whole(output / "trials.csv", trials_csv(sweep).to_csv(index=False))
    write_whole(output / "verdict.md", text)
    write_picture(sweep_figure(sweep, found), output / "figure.png")
    return [output / name for name in ("table.md", "trials.csv", "figure.png", "verdict.md")]


if __name__ == "__main__":
    sys.exit(main())
