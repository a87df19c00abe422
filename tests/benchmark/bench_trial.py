"""python -m tests.benchmark.bench_trial: what a trial of a sweep adds to its training and evaluation.

A sweep in this process, of `experiment=ablation` on the shipped base cut down to a few steps, one seed a point. What is
added is the time from a point's claim to its value being told, less `train_seconds` and `evaluate_seconds` of its run:
composing the config, building all parts, the trainer's start and end, files and journal. The process is warm: the dry
run comes first. Prints a line a trial and the median, which is to be under 1.5 s.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import optuna

from r1lab.sweeper.study import open_storage
from r1lab.train import main as train

LIMIT = 1.5
SWEEP = """
defaults:
  - sweep
  - override hydra/sweeper: r1lab_optuna
  - override hydra/sweeper/sampler: random
  - override hydra/sweeper/pruner: median
  - _self_
name: bench
trainer: {{max_steps: {steps}, val_check_interval: {steps}}}
hydra:
  sweeper:
    params: {{loss.beta: "interval(0,0.01)"}}
    seeds: 1
    n_trials: {trials}
"""


def measure(steps: int, trials: int) -> list[dict[str, float]]:
    """Seconds of each trial: in all, of its training, of its evaluation."""
    Path("bench.yaml").write_text(SWEEP.format(steps=steps, trials=trials))
    sys.argv = ["train", "--config-dir", os.getcwd(), "--config-name", "bench"]
    train()
    study = optuna.load_study(study_name="bench", storage=open_storage("sweeps/results/bench/journal.log"))
    return [
        {
            "in all": trial.duration.total_seconds(),
            "training": trial.user_attrs["seed/1"]["train_seconds"],
            "evaluation": sum(trial.user_attrs["seed/1"]["evaluate_seconds"].values()),
        }
        for trial in study.trials
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of training, a trial")
    given = parser.parse_args()
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = measure(given.steps, given.trials)
        os.chdir(home)
    for row in rows:
        row["added"] = row["in all"] - row["training"] - row["evaluation"]
        print("  ".join(f"{name} {seconds:.2f} s" for name, seconds in row.items()))
    print(f"median added: {statistics.median(row['added'] for row in rows):.2f} s (limit {LIMIT} s)")


if __name__ == "__main__":
    main()
