"""What the processes of a sweep leave when they are stopped or killed. Real commands, whose runs only sleep."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from r1lab.sweeper.processes import started
from r1lab.sweeper.study import open_storage
from r1lab.sweeper.work import ABANDONED, ERROR, WORKER, is_live

ROOT = Path(__file__).parents[2]
SWEEP = """
defaults:
  - sweep
  - override hydra/sweeper: r1lab_optuna
  - override hydra/sweeper/sampler: {sampler}
  - _self_
name: slow
hydra:
  sweeper:
    params: {{loss.beta: "{beta}"}}
    seeds: 2
    n_trials: 8
    check: null
    preflight: false
    workers: {workers}
"""
# The command; each run notes that it began and that it ended, in one file that all processes share.
CHILD = """
import json, os, sys, time
from r1lab.entry import run
def note(**what):
    with open("runs.jsonl", "a") as file:
        file.write(json.dumps(what | {"pid": os.getpid()}) + "\\n")
def task(config):
    point = {"beta": config.loss.beta, "seed": config.seed}
    note(began=True, **point)
    time.sleep(float(os.environ["SECONDS_A_RUN"]))
    note(began=False, **point)
    return float(config.loss.beta)
run(task, "train")
"""


class Command:
    """A sweep's command in a folder of its own."""

    def __init__(self, folder, *, workers=1, sampler="grid", beta="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8"):
        self.folder, self.running = folder, []
        (folder / "child.py").write_text(CHILD)
        text = SWEEP.format(workers=workers, sampler=sampler, beta=beta)
        (folder / "slow.yaml").write_text(text)

    def start(self, seconds=0.3):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SECONDS_A_RUN": str(seconds)}
        command = [sys.executable, "child.py", "--config-dir", ".", "--config-name", "slow"]
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.running.append(process)
        return process

    def runs(self):
        path = self.folder / "runs.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def wait_for(self, reached, seconds=90):
        until = time.monotonic() + seconds
        while not reached(self.runs()):
            assert time.monotonic() < until, self.runs()
            time.sleep(0.05)

    def study(self):
        storage = open_storage(str(self.folder / "sweeps/results/slow/journal.log"))
        return optuna.load_study(study_name="slow", storage=storage)

    def assert_complete(self, total=8):
        """Every point once, with both seeds."""
        live = [trial for trial in self.study().trials if is_live(trial)]
        assert [trial.state for trial in live] == [TrialState.COMPLETE] * total
        assert len({trial.params["loss.beta"] for trial in live}) == total
        assert all(trial.value == pytest.approx(trial.params["loss.beta"]) for trial in live)
        assert all({"seed/1", "seed/2"} <= trial.user_attrs.keys() for trial in live)


@pytest.fixture
def command(tmp_path):
    made = []

    def make(**options):
        made.append(Command(tmp_path, **options))
        return made[-1]

    yield make
    for process in [process for one in made for process in one.running]:
        process.kill()
        process.wait()
        process.stdout.close()


def pids(runs):
    return {run["pid"] for run in runs}


def gone(numbers, seconds):
    until = time.monotonic() + seconds
    while any(started(pid) for pid in numbers):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
def test_killed_with_two_workers_and_resumed_by_the_same_command(command):
    sweep = command(workers=2)
    process = sweep.start()
    sweep.wait_for(lambda runs: len(pids(runs)) == 2 and len(runs) >= 9)
    process.kill()
    process.communicate()
    assert gone(pids(sweep.runs()), 8)  # no orphan

    # The second process has noted what it is about, too.
    assert sweep.study().user_attrs["sweep"]["command"] == "python child.py --config-dir . --config-name slow"
    before = sweep.study().trials
    done = {trial.number: trial.value for trial in before if trial.state == TrialState.COMPLETE}
    running = [trial for trial in before if trial.state == TrialState.RUNNING]
    assert done and running
    process = sweep.start(seconds=0)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    sweep.assert_complete()
    after = sweep.study().trials
    assert {number: after[number].value for number in done} == done
    for trial in running:
        dead = after[trial.number]
        assert dead.state == TrialState.FAIL and dead.user_attrs[ABANDONED] and ERROR not in dead.user_attrs
        (again,) = [t for t in after if is_live(t) and t.params == trial.params]
        assert again.number > trial.number
    # A run that had ended was not begun again, but for those of points in the middle. (The worker may have begun the
    # killed one's point again, before it ended itself.)
    ended = Counter((run["beta"], run["seed"]) for run in sweep.runs() if not run["began"])
    twice = {beta for (beta, _), count in ended.items() if count > 1}
    assert twice <= {trial.params["loss.beta"] for trial in after if ABANDONED in trial.user_attrs}


@pytest.mark.slow
def test_two_commands_on_one_journal_at_the_same_moment(command):
    """Without workers of their own, as on two terminals; TPE, where slots are numbers."""
    sweep = command(sampler="tpe", beta="interval(0,1)")
    processes = [sweep.start(0.2) for _ in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    sweep.assert_complete()
    workers = {trial.user_attrs[WORKER]["pid"] for trial in sweep.study().trials if is_live(trial)}
    assert workers == {process.pid for process in processes}
    assert len(sweep.runs()) == 2 * 8 * 2


@pytest.mark.parametrize("workers, signal_number", [(2, signal.SIGINT), (1, signal.SIGTERM)])
@pytest.mark.slow
def test_stopped_it_gives_its_points_back_and_says_how_to_go_on(command, workers, signal_number):
    sweep = command(workers=workers)
    process = sweep.start(seconds=1)
    sweep.wait_for(lambda runs: len(pids(runs)) == workers and len(runs) >= 4)
    process.send_signal(signal_number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    last = "stopped; the same command goes on with the sweep in sweeps/results/slow/journal.log"
    assert output.splitlines()[-1] == last and output.count("stopped") == 1 and "Traceback" not in output
    assert gone(pids(sweep.runs()), 1)
    states = Counter(trial.state for trial in sweep.study().trials if is_live(trial))
    assert states[TrialState.RUNNING] == 0 and states[TrialState.WAITING] + states[TrialState.COMPLETE] == 8
    given_back = [trial for trial in sweep.study().trials if not is_live(trial)]
    assert len(given_back) == workers


def test_a_process_is_told_from_a_later_one_of_its_number():
    assert started(os.getpid()) == started(os.getpid()) is not None
    child = subprocess.Popen(["sleep", "60"])
    assert started(child.pid)
    child.kill()
    time.sleep(0.2)
    assert started(child.pid) is None  # ended, not waited for
    child.wait()
    assert started(child.pid) is None
