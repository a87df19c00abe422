"""python -m tests.benchmark.bench_quantize: what few bits and adapters save in GRPO, and what they do to KL and reward.

A few steps of `r1lab.train` for each variant, each in a process of its own, with the same prompts and draws:

    float32, bfloat16      nothing quantised, at trainer.precision 32-true and bf16-mixed; the others are at --precision
    adamw_8bit(_paged)     moments in 8 bits; paged on a GPU alone
    reference_8bit, _nf4   the frozen reference in few bits; its KL at step 1 is that of the quantisation alone
    lora, qlora            adapters of rank 16, the reference is the policy without; at ten times the learning rate
    teacher(_8bit, _nf4)   on-policy distillation from the model itself, whole and in few bits; the KL is the reverse
                           KL to that teacher

MiB are those of the last step by part, and the largest peak of a step (on a GPU alone); seconds are the median of the
steps but the first; loss and KL are given for every step, the reward is the mean over the second half. `reference_kl`
is KL(base || base in few bits) in nats a token, the mean of k3 over one completion of the base for each held-out
prompt. Prints a table and appends a row a variant to results/bench_quantize.csv.

`--scorer RUN` measures a reward model in few bits instead, that of a run of experiment=reward_model: memory, accuracy
on held-out pairs, and by how much a score differs (scores have a standard deviation of 1); results/bench_scorer.csv.

    python -m tests.benchmark.bench_quantize --model smollm2                    on a GPU
    python -m tests.benchmark.bench_quantize --model tiny --device cpu --steps 2 rollout.batch_size=16
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir

from r1lab.analysis.run import load_run
from r1lab.build import build_policy_parts, evaluation_sampling, make
from r1lab.data.preferences import Preference
from r1lab.entry import CONF, plain
from r1lab.model.memory import weights_mib
from r1lab.model.quantize import PRECISIONS
from r1lab.model.reference import frozen_copy
from r1lab.module.drift import kl_to_base
from r1lab.module.reward_model import load_reward_model
from r1lab.reward.model import LearnedReward
from r1lab.types import Completion
from tests.benchmark.bench_head import RESULTS, about, append, print_table

TAUGHT = ("experiment=distill", "module.teacher.name=MODEL", "data.batch_size=${rollout.batch_size}")
VARIANTS: dict[str, tuple[str, ...]] = {
    "float32": ("trainer.precision=32-true",),
    "bfloat16": ("trainer.precision=bf16-mixed",),
    "adamw_8bit": ("optimizer=adamw_8bit",),
    "adamw_8bit_paged": ("optimizer=adamw_8bit_paged",),
    "reference_8bit": ("reference.quantize=8bit",),
    "reference_nf4": ("reference.quantize=nf4",),
    "lora": ("adapter=lora",),
    "qlora": ("adapter=qlora",),
    "teacher": TAUGHT,
    "teacher_8bit": (*TAUGHT, "module.teacher.quantize=8bit"),
    "teacher_nf4": (*TAUGHT, "module.teacher.quantize=nf4"),
}
PARTS = ("policy", "reference", "teacher", "gradients", "optimizer")
WATCHED = ("callback=default", "~callback.checkpoint", "callback.samples.shown=0", "callback.progress.plain_lines=0",
           "evaluate=false", "show=false", "+trainer.limit_val_batches=0",
           "+trainer.enable_checkpointing=false")  # fmt: skip
LORA_LR = 10  # times the learning rate of full training


def overrides(args: argparse.Namespace, variant: str) -> list[str]:
    """What `r1lab.train` is called with."""
    own = [word.replace("MODEL", args.model) for word in VARIANTS[variant]]
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
    """The figures of a variant's run. Raises RuntimeError with what it says where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "r1lab.train", f"hydra.run.dir={folder}", *overrides(args, variant)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{variant}: {done.stderr.strip()}")
        steps = load_run(folder).metrics
    return {**memory(steps), **learning(steps)}


def memory(steps: pd.DataFrame) -> dict[str, Any]:
    last = steps.iloc[-1]
    found = {f"{part}_mib": round(last.get(f"memory/{part}_mib", 0.0), 2) for part in PARTS}
    peak = round(steps["memory/peak_mib"].max(), 1) if "memory/peak_mib" in steps else ""
    return {"trained_parameters": int(last["memory/trained_parameters"]), **found, "peak_mib": peak}


def learning(steps: pd.DataFrame) -> dict[str, Any]:
    seconds = steps["time/step_seconds"].iloc[1 if len(steps) > 1 else 0 :].median()
    taught = "reward/mean" not in steps
    reward = "" if taught else round(steps["reward/mean"].dropna().iloc[len(steps) // 2 :].mean(), 4)
    return {
        "step_seconds_p50": round(seconds, 3),
        "reward_mean": reward,
        "loss": " ".join(f"{value:.3g}" for value in steps["loss/total"]),
        "kl": " ".join(f"{value:.3g}" for value in steps["loss/student" if taught else "loss/kl"]),
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


def measure_scorer(name: str, precision: str | None, pairs: Sequence[Preference], whole: list[float]) -> dict[str, Any]:
    """Of a reward model in few bits, beside its scores in whole, which are filled in by the first call."""
    scorer = load_reward_model(name, "float32", 64, 8192, precision)
    prompts = [pair.prompt for pair in pairs for _ in range(2)]
    replies = [Completion((), text, truncated=False) for pair in pairs for text in (pair.chosen, pair.rejected)]
    started = time.perf_counter()
    scores = LearnedReward(scorer, "answer")(prompts, replies)
    seconds = time.perf_counter() - started
    if precision is None:
        whole += scores
    apart = [abs(a - b) for a, b in zip(scores, whole, strict=True)]
    right = [scores[i] > scores[i + 1] for i in range(0, len(scores), 2)]
    return {
        "scorer": name,
        "precision": precision or "float32",
        "mib": round(weights_mib(scorer.policy), 2),
        "pairs": len(pairs),
        "accuracy": round(statistics.mean(right), 4),
        "score_difference_mean": f"{statistics.mean(apart):.3g}",
        "score_difference_max": f"{max(apart):.3g}",
        "seconds": round(seconds, 3),
    }


def measure_scorers(args: argparse.Namespace, run_of: dict[str, Any]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("train", ["experiment=reward_model", "~callback", *args.overrides]))
    task = build_policy_parts(config)["task"]
    preferences = make(config["data"]["preferences"], task=task)
    pairs = [preferences.pair("heldout", i) for i in range(args.prompts)]
    whole: list[float] = []
    rows = [measure_scorer(args.scorer, precision, pairs, whole) for precision in (None, *PRECISIONS)]
    append([run_of | row for row in rows], args.output.with_name("bench_scorer.csv"))
    print_table(rows, list(rows[0]), f"{args.scorer}, {run_of['device']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--model", default="smollm2", help="a choice of conf/model")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if gpu else "cpu")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=64, help="held-out, for the reference's KL")
    parser.add_argument("--precision", default="bf16-mixed" if gpu else "32-true", help="of all but the first two")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--scorer", metavar="RUN", help="measure the reward model of this run in few bits")
    parser.add_argument("--output", type=Path, default=RESULTS / "bench_quantize.csv")
    parser.add_argument("--commit", help="of the source, where it is no checkout")
    parser.add_argument("overrides", nargs="*", help="of every run, such as rollout.batch_size=64")
    args = parser.parse_intermixed_args()
    variants = [name for name in args.variants if args.device == "cuda" or "paged" not in name]
    run_of = about("torch", "transformers", "bitsandbytes", "peft", given=args.commit)
    if args.scorer:
        return measure_scorers(args, run_of)
    wanted = any(name.endswith(tuple(PRECISIONS)) or name == "qlora" for name in variants)
    apart = reference_kl(args) if wanted else {}
    rows, failed = [], []
    for variant in variants:
        try:
            found = measure(args, variant)
        except RuntimeError as error:
            print(error, flush=True)
            failed.append(variant)
            continue
        kl = {f"{model}_{name}": value for model in ("reference", "teacher") for name, value in apart.items()}
        kl |= {"qlora": apart.get("nf4")}
        found = {"model": args.model, "variant": variant, "steps": args.steps, **found}
        found |= {
            "reference_kl": f"{kl[variant]:.3g}" if kl.get(variant) is not None else "",
            "command": " ".join(overrides(args, variant)),
        }
        rows.append(run_of | found)
        append(rows[-1:], args.output)
        print(f"{variant}: {found['step_seconds_p50']} s a step, peak {found['peak_mib']} MiB", flush=True)
    if rows:
        shown = [name for name in rows[0] if name not in {*run_of, "model", "steps", "loss", "command"}]
        print_table(rows, shown, f"{args.model}, {args.steps} steps, {run_of['device']}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
