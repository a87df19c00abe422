"""The folder of a run: where it is, what its summary says, and which one `ckpt_path=last` means."""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import torch

RUNS = Path("runs")
FINISHED = "finished"
_LOG = "train.log"  # Hydra's, from before a run begins
_made: list[list[Path]] = []  # by this process: a run's folder, and those around it that were not there


def run_folder(name: str, ckpt_path: str | None) -> str:
    """A new folder `runs/<name>/<time>`; with `ckpt_path=last` that of the newest unfinished run which can go on."""
    if ckpt_path == "last":
        unfinished = newest_unfinished(name)
        if unfinished is None:
            raise FileNotFoundError(
                f"ckpt_path=last: there is no unfinished run with a checkpoint in {RUNS / name}; "
                "leave ckpt_path out to start one, or name its folder with hydra.run.dir"
            )
        return str(unfinished)
    if started_by := launcher_of_ranks():
        raise ValueError(
            f"under {started_by} each rank would make a folder of its own: give one to all, hydra.run.dir=runs/NAME"
        )
    return str(_new_folder(RUNS / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")))


def launcher_of_ranks() -> str | None:
    """What started this process as one rank of several; None where Lightning starts the others, or there are none."""
    ranks = {"torchrun": ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"), "srun": ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")}
    for name, (mark, size) in ranks.items():
        if mark in os.environ and int(os.environ.get(size, 1)) > 1:
            return name
    return None


def _new_folder(path: Path) -> Path:
    """Made here and now, so that a run which starts in the same second gets another."""
    for number in range(1, 1000):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        absent = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        _made.append([place.absolute() for place in absent])
        return folder
    raise FileExistsError(f"there are a thousand runs named {path}; give hydra.run.dir")


def remove_unbegun() -> None:
    """Remove what `run_folder` made in this process where no run began: the folder is empty, or holds the log alone."""
    while _made:
        folder, *around = _made.pop()
        with suppress(OSError):  # what is not empty stays
            if os.listdir(folder) == [_LOG]:
                (folder / _LOG).unlink()
            for place in (folder, *around):
                place.rmdir()


@contextmanager
def claim(folder: Path, *, goes_on: bool) -> Iterator[None]:
    """Inside, a run's folder is this process's own.

    Raises:
        ValueError: another process is at work in it, or it holds a run and this one is not to go on with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _locked(folder)
    if lock is None:
        owner = _lock(folder).read_text()
        raise ValueError(f"a run is going on in {folder} (process {owner}); give another hydra.run.dir")
    try:
        if not goes_on and (read_summary(folder).get("status") == FINISHED or (folder / "checkpoints").exists()):
            raise ValueError(
                f"{folder} holds a run already; give another hydra.run.dir, or go on with it by ckpt_path=last"
            )
        lock.write(str(os.getpid()))
        lock.flush()
        yield
    finally:
        _lock(folder).unlink(missing_ok=True)
        lock.close()


def _lock(folder: Path) -> Path:
    return folder / ".lock"


def _locked(folder: Path) -> IO[str] | None:
    """The folder's lock, held; None where another process holds it."""
    file = open(_lock(folder), "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    return file


def newest_unfinished(name: str) -> Path | None:
    return next((folder for folder in sorted((RUNS / name).glob("*/"), reverse=True) if _can_go_on(folder)), None)


def _can_go_on(folder: Path) -> bool:
    """It has a checkpoint and has not finished, or was killed before its first one and begins again."""
    try:
        status = read_summary(folder).get("status")
    except ValueError:  # damaged, and no reason not to find another
        return False
    if _lock(folder).exists():
        lock = _locked(folder)
        if lock is None:
            return False  # it is going on now
        lock.close()
    return status == "running" or ((folder / "checkpoints" / "last.ckpt").exists() and status != FINISHED)


def read_summary(folder: Path) -> dict[str, Any]:
    """The run's summary, empty where there is none."""
    path = Path(folder, "summary.json")
    return json.loads(path.read_text()) if path.exists() else {}


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Whole or not at all: a reader never sees half a summary."""
    write_whole(Path(folder, "summary.json"), json.dumps(summary, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """`text` under a name of this process's own, then renamed: others may be writing the same file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def check_writable(path: Path, setting: str) -> None:
    """Make the folders around a file. Raises ValueError where the file cannot be written."""
    if path.is_dir():
        raise ValueError(f"{setting}={path} is a folder; name a file in it")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise ValueError(f"{setting}={path} cannot be written ({error.strerror}); name another file") from error


def config_hash(config: dict[str, Any]) -> str:
    """Twelve hex digits for what a run does: not where it is written, how it is watched, and which kernels do it."""
    kept = {key: value for key, value in config.items() if key not in ("ckpt_path", "callback", "logger", "kernel")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:12]


def commit() -> str | None:
    """The commit of the source that runs, with `+` where it was changed since; None outside a checkout."""
    source = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(source), *words], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(source)).strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("r1lab", "torch", "transformers", "lightning", "hydra-core"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "source"
    return found


def device_name() -> str:
    """The GPU's name, or the CPU's with the number of threads in use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
