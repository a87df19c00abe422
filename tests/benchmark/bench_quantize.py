"""python -m tests.benchmark.bench_quantize: what few bits and adapters save in GRPO, and what they do to KL and reward.

A few steps of `r1lab.train` for each variant, each in a process of its own, with the same prompts and draws:

    float32, bfloat16      nothing quantised, at trainer.precision 32-true and bf16-mixed; the others are at --precision
    adamw_8bit(_paged)     moments in 8 bits; paged on a GPU alone
    reference_8bit, _nf4   the frozen reference in few bits; its KL at step 1 is that of the quantisation alone
    lora, qlora            adapters of rank 16, the reference is the policy without; at ten times the learning rate

MiB are those of the last step by part, and the largest peak of a step (on a GPU alone); seconds are the median of the
steps but the first; loss and KL are given for every step, the reward is the mean over the second half. `reference_kl`
is KL(base || base in few bits) in nats a token, the mean of k3 over one completion of the base for each held-out
prompt. Prints a table and appends a row a variant to results/bench_quantize.csv.

    python -m tests.benchmark.bench_quantize --model smollm2                    on a GPU
    python -m tests.benchmark.bench_quantize --model tiny --device cpu --steps 2 rollout.batch_size=16
"""

import argparse
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from r1lab.analysis.run import load_run
from r1lab.build import build_policy_parts, evaluation_sampling, make
from r1lab.entry import CONF, plain
from r1lab.model.quantize import PRECISIONS
from r1lab.model.reference import frozen_copy
from r1lab.module.drift import kl_to_base
from r1lab.run_folder import commit, device_name
from tests.benchmark.bench_head import RESULTS, append

VARIANTS: dict[str, tuple[str, ...]] = {
    "float32": ("trainer.precision=32-true",),
    "bfloat16": ("trainer.precision=bf16-mixed",),
    "adamw_8bit": ("optimizer=adamw_8bit",),
    "adamw_8bit_paged": ("optimizer=adamw_8bit_paged",),
    "reference_8bit": ("reference.quantize=8bit",),
    "reference_nf4": ("reference.quantize=nf4",),
    "lora": ("adapter=lora",),
    "qlora": ("adapter=qlora",),
}
PARTS = ("policy", "reference", "gradients", "optimizer")
WATCHED = ("callback=default", "~callback.checkpoint", "callback.samples.shown=0", "callback.progress.plain_lines=0",
           "evaluate=false", "show=false", "+trainer.limit_val_batches=0",
           "+trainer.enable_checkpointing=false")  # fmt: skip
LORA_LR = 10  # times the learning rate of full training


def overrides(args: argparse.Namespace, variant: str) -> list[str]:
    """What `r1lab.train` is called with."""
    own = list(VARIANTS[variant])
    if "lora" in variant:
        own.append(f"optimizer.lr={LORA_LR * base_config(args)['optimizer']['lr']}")
    accelerator = "gpu" if args.device == "cuda" else "cpu"
    given = [f"trainer.accelerator={accelerator}", f"trainer.precision={args.precision}", *args.overrides]
    return [f"model={args.model}", f"trainer.max_steps={args.steps}", *WATCHED, *given, *own]


def base_config(args: argparse.Namespace) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"model={args.model}", "~callback", *args.overrides])
    return plain(config)


def measure(args: argparse.Namespace, variant: str) -> dict[str, Any]:
    """The figures of a variant's run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "r1lab.train", f"hydra.run.dir={folder}", *overrides(args, variant)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{variant}: {done.stderr.strip()}")
        steps = load_run(folder).metrics
    return {**memory(steps), **learning(steps)}


def memory(steps: pd.DataFrame) -> dict[str, Any]:
    last = steps.iloc[-1]
    found = {f"{part}_mib": round(last[f"memory/{part}_mib"], 2) for part in PARTS}
    peak = round(steps["memory/peak_mib"].max(), 1) if "memory/peak_mib" in steps else ""
    return {"trained_parameters": int(last["memory/trained_parameters"]), **found, "peak_mib": peak}


def learning(steps: pd.DataFrame) -> dict[str, Any]:
    seconds = steps["time/step_seconds"].iloc[1 if len(steps) > 1 else 0 :].median()
    return {
        "step_seconds_p50": round(seconds, 3),
        "reward_mean": round(steps["reward/mean"].dropna().iloc[len(steps) // 2 :].mean(), 4),
        "loss": " ".join(f"{value:.3g}" for value in steps["loss/total"]),
        "kl": " ".join(f"{value:.3g}" for value in steps["loss/kl"]),
    }


def reference_kl(args: argparse.Namespace) -> dict[str, float]:
    """KL(base || base in few bits), nats a token, by precision."""
    config = base_config(args)
    parts = build_policy_parts(config)
    base = make(config["model"]["policy"]).to(args.device)
    prompts = [parts["task"].sample("heldout", i) for i in range(args.prompts)]
    options = {"sampling": evaluation_sampling(config), "seed": config["evaluation"]["seed"]}
    return {
        precision: kl_to_base(
            base, frozen_copy(base, precision), parts["tokenizer"], parts["engine"], prompts, **options
        )
        for precision in PRECISIONS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--model", default="smollm2", help="a choice of conf/model")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if gpu else "cpu")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=64, help="held-out, for the reference's KL")
    parser.add_argument("--precision", default="bf16-mixed" if gpu else "32-true", help="of all but the first two")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=RESULTS / "bench_quantize.csv")
    parser.add_argument("overrides", nargs="*", help="of every run, such as rollout.batch_size=64")
    args = parser.parse_intermixed_args()
    variants = [name for name in args.variants if args.device == "cuda" or "paged" not in name]
    wanted = any("reference" in name or name == "qlora" for name in variants)
    apart = reference_kl(args) if wanted else {}
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit() or "",
        "device": device_name(),
        **{name: version(name) for name in ("torch", "transformers", "bitsandbytes", "peft")},
    }
    rows = []
    for variant in variants:
        found = measure(args, variant)
        kl = {f"reference_{name}": value for name, value in apart.items()} | {"qlora": apart.get("nf4")}
        found = {"model": args.model, "variant": variant, "steps": args.steps, **found}
        found |= {
            "reference_kl": f"{kl[variant]:.3g}" if kl.get(variant) is not None else "",
            "command": " ".join(overrides(args, variant)),
        }
        rows.append(about | found)
        append(rows[-1:], args.output)
        print(f"{variant}: {found['step_seconds_p50']} s a step, peak {found['peak_mib']} MiB", flush=True)
    shown = [name for name in rows[0] if name not in {*about, "model", "steps", "loss", "command"}]
    table = Table(*shown, title=f"{args.model}, {args.steps} steps, {about['device']}")
    for row in rows:
        table.add_row(*(str(row[name]) for name in shown))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
