"""The processes of a sweep on one machine: how they start, how they end, and which are no more."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from r1lab.entry import Stopped

PARENT = "R1LAB_SWEEP_PARENT"  # environment of a worker: the process that started it, without which it ends
_STOP_SECONDS = 30


def share_cores(workers: int) -> None:
    """From now on this process takes its share of the cores among so many."""
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def start_workers(number: int) -> list[subprocess.Popen]:
    """Some more processes for the sweep of this command, each with as many threads as this one."""
    alone = ["hydra.sweeper.workers=1", "hydra.sweeper.preflight=false", "hydra.sweeper.finish=null"]
    alone.append("hydra.sweeper.retry_failed=false")
    command = [sys.executable, *sys.orig_argv[1:], *alone]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), PARENT: str(os.getpid())}
    # In groups of their own, so that Ctrl-C reaches this process alone, which then stops them.
    return [subprocess.Popen(command, env=environment, process_group=0) for _ in range(number)]


def stop(workers: Sequence[subprocess.Popen]) -> None:
    """End them; each gives its points back first."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()


@contextmanager
def stopped_in_a_line(storage: str) -> Iterator[None]:
    """Ctrl-C, and SIGTERM as its like, end a sweep with a line that says how to go on."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        if PARENT in os.environ:
            sys.exit(130)  # the process that started this one says it
        raise Stopped(f"stopped; the same command goes on with the sweep in {storage}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def end_without_parent() -> None:
    """In a worker whose parent was killed: end as it did. The study knows which points are left."""
    parent = os.environ.get(PARENT)
    if parent and os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)


def started(pid: int) -> str | None:
    """When a process of this machine began, which tells it from a later one of the same number; None: it is no more."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            return None if fields[0] == "Z" else fields[19]
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown" if not Path("/proc/self/stat").exists() else None
