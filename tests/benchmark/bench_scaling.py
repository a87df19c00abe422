"""python -m tests.benchmark.bench_scaling: training of a mixture of experts in shards, on 1, 2, 4, 8 GPUs of a machine.

Each configuration (task, strategy, where the reference lies, number of ranks) is planned by r1lab.memory and then
trained for a few steps by `torchrun ... -m r1lab.train`, with a time limit and a run folder of its own, from which all
figures are read. The work of a rank is the same whatever their number (weak scaling):

    tokens a second     those that count in the loss, of documents in SFT, of completions in GRPO, in the steps but for
                        the first two and the last two, and in the steps' own seconds: SFT's documents are made between
    efficiency          that, over what one rank does times their number
    rollout, logprob, update
                        seconds of GRPO's steps, of the first rank; ranks sample apart, and exchange nothing before
                        the passes of the reference, in whose seconds they wait for the rank that sampled longest
    slowest_rollout     that rank's seconds
    gather              of a rollout, those in which weights are gathered into the copy that is sampled from
    communication       share of the last two steps' time in NCCL's kernels, and of it what is exposed: with nothing
                        else on the first GPU meanwhile (on a CPU: in gloo's collectives)
    peak                PyTorch's max_memory_allocated, of the rank with most, beside the plan

`--model auto` takes, for each configuration, the largest shape whose plan fits the GPU, and whose models, which every
rank makes whole before they are in shards, fit the host, on the fewest ranks that are asked for; `each`, on each number
of them, of which none can then be compared. `-- strategy.in_turn=true` has one rank make its models at a time.
`--dry-run` plans alone, and needs no GPU.

`--losses`, `--resume`, `--kill` check instead: losses of recorded batches equal one rank's; a checkpoint goes on on
half as many ranks; a job of which one rank is killed ends within a minute, and goes on from its last checkpoint with
nothing lost. The first is of every number of ranks, one in shards included, the others of the largest; `--kill 0` kills
the rank that writes metrics and checkpoints.

Each run appends its rows to results/bench_scaling.csv (the checks' to bench_scaling_checks.csv; on a CPU, in
runs/bench_scaling) and draws bench_scaling.png of each task's rows with its last one's commit, device and versions, be
they of several calls.

    python -m tests.benchmark.bench_scaling --gpus 1 2                              on GPUs
    python -m tests.benchmark.bench_scaling --gpus 2 --kill --tasks grpo --strategies fsdp2
    python -m tests.benchmark.bench_scaling --gpus 4 --losses --resume --kill --device cpu
    python -m tests.benchmark.bench_scaling --gpus 1 2 --device cpu --strategies fsdp2 -- rollout.max_new_tokens=8
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.errors import HydraException

from r1lab.analysis.memory_table import GIB, MIB
from r1lab.entry import describe
from r1lab.run_folder import device_name
from r1lab.strategy.precision import PRECISIONS
from tests.benchmark.bench_head import RESULTS, about, append, print_table, refuse_output
from tests.benchmark.scaling_checks import Checks
from tests.benchmark.scaling_figure import SAME, WHAT, known_rows, last_rows, plot
from tests.benchmark.scaling_runs import (
    AUTO,
    EACH,
    GATHERED,
    PARTS,
    PROFILED,
    SHAPES,
    WARMUP,
    Configuration,
    Settings,
    figures,
    fits,
    gpu_bytes,
    host_bytes,
    largest,
    measured,
    overrides,
    planned,
    train,
)

LIMIT = 0.15  # of the plan
EFFICIENCY = 0.9
ON_CPU = Path("runs/bench_scaling")  # the figures that the README shows are GPUs'
CHECKS = ("losses", "resume", "kill")
SPEEDS = ("timed_steps", "tokens_per_step", "tokens_per_second", "step_seconds_p20", "step_seconds_p50",
          "step_seconds_p80", *(f"{part}_seconds_p50" for part in PARTS))  # fmt: skip
SHOWN = (*WHAT, "gpus", "tokens_per_second", "step_seconds_p50", "update_seconds_p50", "efficiency",
         "communication_share", "communication_exposed", "planned_mib", "measured_mib", "ratio")  # fmt: skip


def configurations(args: argparse.Namespace, gpus: Sequence[int]) -> Iterator[Configuration]:
    """One rank first: what others are compared with."""
    for task in args.tasks:
        for strategy in args.strategies:
            for reference in args.reference if task == "grpo" else [""]:
                for number in sorted(gpus):
                    yield Configuration(args.model, task, strategy, reference, number)


def chosen(
    configuration: Configuration, settings: Settings, memory: float, host: float, fewest: int
) -> Configuration | None:
    """With a shape in the place of `auto` and `each`; None where nothing fits."""
    if configuration.model not in (AUTO, EACH):
        return configuration
    asked = replace(configuration, gpus=fewest) if configuration.model == AUTO else configuration
    name = largest(asked, settings, memory, host)
    return replace(configuration, model=name) if name else None


# ---- plans -----------------------------------------------------------------------------------------------------------


def plan_row(configuration: Configuration, settings: Settings, memory: float, host: float) -> dict[str, Any]:
    found = planned(configuration, settings)
    return {
        **{name: getattr(configuration, name) for name in (*WHAT, "gpus")},
        "parameters": f"{found.parameters / 1e6:,.0f} M",
        "peak_gib": f"{found.plan.peak / GIB:.2f}",
        "needed_gib": f"{found.plan.needed / GIB:.2f}",
        "host_gib": f"{found.host / GIB:.1f}",
        "phase": found.plan.largest,
        "fits": "yes" if fits(found, memory, host) else "no",
    }


def dry_run(args: argparse.Namespace, settings: Settings, memory: float, host: float) -> None:
    rows = []
    for configuration in configurations(args, args.gpus):
        if own := chosen(configuration, settings, memory, host, min(args.gpus)):
            rows.append(plan_row(own, settings, memory, host))
        else:
            print(f"{configuration}: no shape fits", flush=True)
    of_host = f", host of {host / GIB:.0f} GiB" if host < float("inf") else ""
    print_table(rows, list(rows[0]) if rows else [], f"planned, GPUs of {memory / GIB:.0f} GiB{of_host}")


# ---- runs ------------------------------------------------------------------------------------------------------------


def measure(configuration: Configuration, settings: Settings, folder: Path) -> dict[str, Any]:
    """The row of a configuration, but for its efficiency."""
    found = planned(configuration, settings)
    options = [*overrides(configuration, settings), *measured(settings)]
    run = figures(train(options, folder, configuration.gpus, settings.timeout), configuration.task)
    mib = found.plan.peak / MIB
    return {
        **{name: getattr(configuration, name) for name in (*WHAT, "gpus")},
        "parameters": found.parameters,
        "precision": settings.precision,
        "given": " ".join(settings.given),
        "steps": settings.steps,
        **{name: run[name] for name in SPEEDS},
        "efficiency": "",
        **{name: run[name] for name in ("communication_share", "communication_exposed")},
        "planned_mib": round(mib, 1),
        "measured_mib": run["measured_mib"],
        "ratio": round(mib / run["measured_mib"], 4) if run["measured_mib"] else "",
        "phase": found.plan.largest,
        "train_seconds": run["train_seconds"],
        "losses": run["losses"],
        "step_seconds": run["step_seconds"],
        "overrides": " ".join(options),
    }


def efficiency(row: dict[str, Any], others: pd.DataFrame) -> float | str:
    """Of a row, by that of one rank among the others of the same kind of run; empty without one."""
    if row["gpus"] == 1:
        return 1.0
    if others.empty:
        return ""
    same = [*WHAT, *SAME]
    found = others[others["gpus"].astype(int) == 1]
    found = found[(found[same].astype(object).fillna("").astype(str) == [str(row[name]) for name in same]).all(axis=1)]
    if found.empty:
        return ""
    return round(row["tokens_per_second"] / (row["gpus"] * float(found["tokens_per_second"].iloc[-1])), 4)


def told(row: dict[str, Any]) -> str:
    """A row as a line of progress."""
    parts = [f"{row['tokens_per_second']:,.0f} tokens/s, {row['step_seconds_p50']} s a step"]
    parts += [f"efficiency {row['efficiency']:.3f}"] if row["efficiency"] != "" else []
    if row["communication_share"] != "":
        exposed = row["communication_exposed"]
        parts.append(f"{row['communication_share']:.1%} of the time in communication")
        parts[-1] += f", {exposed:.1%} exposed" if exposed != "" else ""
    if row["measured_mib"] != "":
        parts.append(f"peak {row['measured_mib']:,.0f} MiB, planned {row['planned_mib']:,.0f}, ratio {row['ratio']}")
    return "; ".join(parts)


def missed(row: dict[str, Any], *, compared: bool) -> list[str]:
    """What a row does not reach of what is asked for; compared: whether there should be one of one rank."""
    found = ["there is no run of one rank to compare with"] if compared and row["efficiency"] == "" else []
    if row["efficiency"] != "" and row["efficiency"] < EFFICIENCY:
        found.append(f"efficiency {row['efficiency']} is below {EFFICIENCY}")
    if row["ratio"] != "" and abs(row["ratio"] - 1) > LIMIT:
        found.append(f"the plan is {row['ratio']} of the peak, not within {LIMIT:.0%}")
    return found


def measure_all(args: argparse.Namespace, settings: Settings, gpus: Sequence[int], folder: Path) -> list[str]:
    """Every configuration, each with its row and line; what failed or was missed."""
    path = args.output / "bench_scaling.csv"
    known = known_rows(path) if path.exists() else pd.DataFrame()
    rows, wrong = [], []
    memory, host = gpu_bytes() or args.gpu_memory_gib * GIB, host_bytes()
    for number, configuration in enumerate(configurations(args, gpus)):
        own = chosen(configuration, settings, memory, host, min(gpus))
        if own is None:
            print(f"{configuration}: no shape fits", flush=True)
            continue
        try:
            row = of_run(args) | measure(own, settings, folder / f"{number}")
        except RuntimeError as error:
            print(f"{own}: {error}", flush=True)
            wrong.append(f"{own}: failed")
            continue
        row["efficiency"] = efficiency(row, pd.concat([known, pd.DataFrame(rows)]))
        rows.append(row)
        append([row], path)
        print(f"{own}: {told(row)}", flush=True)
        # Cores of a CPU share their memory, and one may be as fast as all.
        if args.device == "cuda":
            wrong += [f"{own}: {what}" for what in missed(row, compared=min(gpus) == 1 and args.model != EACH)]
    if rows:
        print_table(rows, SHOWN, f"{rows[-1]['device']}, {settings.precision}, {settings.steps} steps")
        plot(last_rows(known_rows(path)), args.output / "bench_scaling.png")
    return wrong or ([] if rows else ["nothing was run"])


def check_all(args: argparse.Namespace, settings: Settings, gpus: Sequence[int], folder: Path) -> list[str]:
    """Every check that is asked for, each with its row and line; those that failed."""
    rows, wrong = [], []
    for number, configuration in enumerate(configurations(args, gpus)):
        checks = Checks(configuration, settings, folder / "checks" / str(number))
        for name in asked(args):
            of_all = name == "losses"  # of one rank in shards, too, which has nobody to share them with
            if not (of_all or configuration.gpus == max(gpus) > 1):
                continue
            row = of_run(args) | {"check": name} | {key: getattr(configuration, key) for key in (*WHAT, "gpus")}
            row["given"] = " ".join(settings.given)
            row |= dict.fromkeys(("against", "seconds", "message"), "")
            row |= dict.fromkeys(("loss_difference", "kl_difference", "gradient_difference", "bounds"), "")
            row["passed"] = False
            try:
                row |= checks.kill(args.kill % configuration.gpus) if name == "kill" else getattr(checks, name)()
            except RuntimeError as error:
                row["message"] = str(error)
            append([row], args.output / "bench_scaling_checks.csv")
            rows.append(row)
            print(f"{name}, {configuration}: {verdict(row)}", flush=True)
            wrong += [] if row["passed"] else [f"{name}, {configuration}"]
        if args.runs is None:
            shutil.rmtree(folder / "checks", ignore_errors=True)
    shown = ("check", *WHAT, "gpus", "seconds", "loss_difference", "kl_difference", "gradient_difference", "passed")
    print_table(rows, shown, f"{device_name()}, float32")
    return wrong or ([] if rows else ["nothing was checked: of one rank there are losses alone, of shards"])


def asked(args: argparse.Namespace) -> list[str]:
    """The checks."""
    return [name for name in CHECKS if getattr(args, name) is not None]


def verdict(row: dict[str, Any]) -> str:
    found = f"{'passed' if row['passed'] else 'FAILED'}; {row['against']}"
    names = {"loss_difference": "losses", "gradient_difference": "gradients", "kl_difference": "KL"}
    apart = [f"{what} by {row[name]}" for name, what in names.items() if row[name]]
    found += f"; apart: {', '.join(apart)} (bounds: {row['bounds']})" if apart else ""
    return found + (f"; it said: {row['message']}" if row["message"] else "")


def of_run(args: argparse.Namespace) -> dict[str, str]:
    return about("torch", "transformers", "lightning", given=args.commit)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = gpu_bytes() is not None
    parser.add_argument("--gpus", nargs="+", type=int, help="numbers of ranks; default: 1 2 4 8, on a CPU 1 2")
    parser.add_argument("--tasks", nargs="+", choices=("sft", "grpo"), default=["sft", "grpo"])
    parser.add_argument("--strategies", nargs="+", choices=("fsdp", "fsdp2"), default=["fsdp", "fsdp2"])
    parser.add_argument("--reference", nargs="+", choices=("sharded", "cpu"), default=["sharded", "cpu"], help="GRPO's")
    parser.add_argument("--model", choices=(*SHAPES, AUTO, EACH), help="default: auto, in checks 145m, on a CPU tiny")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument(
        "--precision",
        choices=(*PRECISIONS, GATHERED),
        help=f"the trainer's, or {GATHERED}: float32 shards, gathered in bfloat16, without autocast; default: that, "
        "on a CPU and in checks 32-true",
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: ranks of gloo, of speed no finding"
    )
    parser.add_argument("--dry-run", action="store_true", help="plan alone")
    parser.add_argument("--gpu-memory-gib", type=float, default=80, help="of plans, where there is no GPU")
    for name in ("losses", "resume"):
        parser.add_argument(f"--{name}", action="store_true", default=None, help="check this instead of measuring")
    parser.add_argument(
        "--kill", nargs="?", type=int, const=-1, metavar="RANK", help="check this; which rank, by default the last"
    )
    parser.add_argument("--plot", action="store_true", help="only draw the rows that are there")
    parser.add_argument("--timeout", type=float, default=240, help="seconds of a run")
    parser.add_argument("--output", type=Path, help=f"of rows and picture; default: {RESULTS}, of a CPU {ON_CPU}")
    parser.add_argument("--runs", type=Path, help="where run folders are kept; default: nowhere")
    parser.add_argument("--commit", help="of the source, where it is no checkout")
    parser.add_argument("overrides", nargs="*", help="of every run, behind a --")
    args = parser.parse_intermixed_args(arguments)
    if args.steps <= WARMUP + PROFILED:
        parser.error(f"--steps must be above {WARMUP + PROFILED}, the steps that are not timed")
    args.gpus = args.gpus or ([1, 2, 4, 8] if args.device == "cuda" else [1, 2])
    if min(args.gpus) < 1:
        parser.error("--gpus must be from 1 on")
    if args.kill is not None and not -1 <= args.kill < max(args.gpus):
        parser.error(f"--kill RANK must be below the largest of --gpus, got {args.kill}")
    if not 0 < args.timeout < float("inf"):
        parser.error(f"--timeout must be a number above 0, got {args.timeout}")
    if not 0 < args.gpu_memory_gib < float("inf"):
        parser.error(f"--gpu-memory-gib must be a number above 0, got {args.gpu_memory_gib}")
    if args.dry_run and args.device == "cpu":
        parser.error("--dry-run plans what GPUs would hold, and needs none: leave out --device cpu")
    if args.device == "cuda" and not gpu and not (args.dry_run or args.plot):
        parser.error("there is no GPU; --device cpu tries it on a CPU, --dry-run plans alone")
    on_gpu = args.device == "cuda"
    if not on_gpu and not args.plot:
        if not asked(args):
            print("on a CPU ranks share its cores: this tries the benchmark, and is no finding", flush=True)
        if "fsdp" in args.strategies:
            if args.strategies == ["fsdp"]:
                parser.error("--strategies fsdp needs GPUs; on a CPU take fsdp2")
            print("fsdp needs GPUs, and is left out", flush=True)
            args.strategies = [name for name in args.strategies if name != "fsdp"]
    args.output = args.output or (RESULTS if on_gpu else ON_CPU)
    if not (args.dry_run or args.plot):
        refuse_output(args.output, parser)
    if args.runs and args.runs.exists() and (not args.runs.is_dir() or any(args.runs.iterdir())):
        parser.error(f"--runs {args.runs} is no empty folder: give another, for runs are kept there by number")
    args.model = args.model or ("tiny" if not on_gpu else "145m" if asked(args) else AUTO)
    args.precision = args.precision or (GATHERED if on_gpu else "32-true")
    return args


def main() -> None:
    args = parsed()
    settings = Settings(args.device, args.steps, args.precision, args.timeout, tuple(args.overrides))
    if args.dry_run:
        # Of a machine without GPUs the host says nothing about one with them.
        bounds = (gpu_bytes(), host_bytes()) if gpu_bytes() else (args.gpu_memory_gib * GIB, float("inf"))
        return dry_run(args, settings, *bounds)
    if args.plot:
        path = args.output / "bench_scaling.csv"
        if not path.exists():
            sys.exit(f"there is no {path}: measure something first")
        plot(last_rows(known_rows(path)), path.with_suffix(".png"))
        return print(f"drawn: {path.with_suffix('.png')}")
    # Of a CPU's cores ranks may have any share.
    here = torch.cuda.device_count() if args.device == "cuda" else max(args.gpus)
    gpus = [n for n in args.gpus if n <= here]
    if beyond := [n for n in args.gpus if n > here]:
        print(f"this machine has {here}: {', '.join(map(str, beyond))} left out", flush=True)
    # Ends its ranks, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.runs or Path(temporary)
        wrong = (check_all if asked(args) else measure_all)(args, settings, gpus, folder)
    if wrong:
        print("not as asked for: " + "; ".join(wrong))
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
    except (ValueError, HydraException) as error:  # of settings, unless it is a bug
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"error: {describe(error, 'memory')}; HYDRA_FULL_ERROR=1 shows the traceback")
