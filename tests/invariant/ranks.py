"""Runs on several ranks, one after another in the same processes: starting a process takes longer than such a run.

python -m tests.invariant.ranks SCENARIOS.json, started once a rank, as torchrun would.
"""

import json
import os
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_ranks(scenarios: list[tuple[Path, list[str]]], folder: Path, ranks: int = 2, timeout: float = 600) -> None:
    """Train each scenario, a run folder and its overrides, on so many ranks of this machine."""
    path = folder / "scenarios.json"
    path.write_text(json.dumps([(str(where), list(overrides)) for where, overrides in scenarios]))
    run_module(["tests.invariant.ranks", str(path)], folder, ranks, timeout)


def run_module(arguments: list[str], folder: Path, ranks: int, timeout: float = 600) -> None:
    """`python -m ARGUMENTS` as each of so many ranks; what they say is in `rank_<number>.txt` of the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    common |= {"TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": 0, "OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT}
    processes = []
    for rank in range(ranks):
        environment = os.environ | {k: str(v) for k, v in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        out = open(folder / f"rank_{rank}.txt", "w")
        command = [sys.executable, "-m", *arguments]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT))
    end = time.monotonic() + timeout
    while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    for process in processes:
        process.kill() if process.poll() is None else None
        process.wait()
    told = "\n".join((folder / f"rank_{rank}.txt").read_text()[-6000:] for rank in range(ranks))
    assert all(p.returncode == 0 for p in processes), told


def main(path: str) -> None:
    from r1lab.train import train_in
    from tests.conftest import compose_run

    for where, overrides in json.loads(Path(path).read_text()):
        Path(where).mkdir(parents=True, exist_ok=True)
        train_in(Path(where), compose_run(Path(where), *overrides))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the other ranks would be waited for
    os._exit(0)
