"""python -m tests.benchmark.bench_memory: the peaks that `r1lab.memory` plans against those that a GPU measures.

Each configuration is planned and then trained for three steps, in processes of their own; measured is the largest
`memory/peak_mib` of its steps, PyTorch's max_memory_allocated, and planned the plan's peak. The planner is right where
they are within 15 %. Completions are sampled and end where they end, while a plan takes them to be as long as they may:
max_new_tokens are few, so that most are. `--dry-run` plans alone, and needs no GPU. Each run appends a row a
configuration to results/bench_memory.csv. `--replan` plans those rows anew, after a change of the planner: what was
measured stays, with its commit, and the plan has its own. The configurations `smollm2-bf16-*` measure memory only:
bfloat16 weights hardly train.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from r1lab.run_folder import commit
from tests.benchmark.bench_head import RESULTS, about, append

LIMIT = 0.15
SMOLLM2 = ("model=smollm2", "rollout.batch_size=64", "rollout.group_size=8", "rollout.max_new_tokens=128")
MIXED = ("experiment=r1zero", *SMOLLM2, "module.microbatch_tokens=8000", "trainer.precision=bf16-mixed")
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "tiny": ("experiment=r1zero",),
    "tiny-whole": ("experiment=r1zero", "module.microbatch_tokens=0", "model=tiny_untrained"),
    "tiny-mixed": ("experiment=r1zero", "trainer.precision=bf16-mixed", "module.microbatch_tokens=8000"),
    "smollm2-float32-2000": ("experiment=r1zero", *SMOLLM2),
    "smollm2-float32-8000": ("experiment=r1zero", *SMOLLM2, "module.microbatch_tokens=8000"),
    "smollm2-mixed-8000": MIXED,
    "smollm2-bf16-8000": (
        "experiment=r1zero", *SMOLLM2, "module.microbatch_tokens=8000", "trainer.precision=bf16-true",
    ),
    "smollm2-bf16-16000-torch": (
        "experiment=r1zero", *SMOLLM2, "module.microbatch_tokens=16000", "trainer.precision=bf16-true", "kernel=torch",
    ),
    "smollm2-bf16-1000": (
        "experiment=r1zero", *SMOLLM2, "module.microbatch_tokens=1000", "trainer.precision=bf16-true",
        "rollout.batch_size=1024",
    ),
    "smollm2-two-updates": (
        "experiment=r1zero", *SMOLLM2, "module.microbatch_tokens=4000", "trainer.precision=bf16-mixed",
        "module.num_minibatches=2",
    ),
    "smollm2-8bit": ("experiment=r1zero", *SMOLLM2, "optimizer=adamw_8bit"),
    "smollm2-nf4-reference": (*MIXED, "reference.quantize=nf4"),
    "smollm2-lora": (*MIXED, "adapter=lora"),
    "smollm2-qlora": (*MIXED, "adapter=qlora"),
    "smollm2-checkpointing": (*MIXED, "model.activation_checkpointing=true"),
    "smollm2-fsdp2": (*MIXED, "strategy=fsdp2"),
    "smollm2-ppo": ("experiment=ppo", *SMOLLM2, "module.microbatch_tokens=4000", "trainer.precision=bf16-mixed"),
    "smollm2-distill": (
        "experiment=distill", *SMOLLM2, "module.teacher.name=smollm2", "trainer.precision=bf16-true",
        "module.teacher.dtype=bfloat16", "data.batch_size=64",
    ),
    "tiny-reward-model": ("experiment=reward_model",),
    "moe-145m-base": ("experiment=moe_base",),
    "moe-145m-grpo": ("experiment=r1zero", "model=moe_145m", "trainer.precision=bf16-mixed"),
}  # fmt: skip
THREE_STEPS = (
    "trainer.max_steps=3",
    "trainer.accelerator=gpu",
    "+trainer.limit_val_batches=0",
    "evaluate=false",
    "show=false",
    "callback=trial",
)


def run(module: str, overrides: Sequence[str]) -> None:
    """A command in a process of its own. Raises RuntimeError with the end of what it says where it fails."""
    found = subprocess.run([sys.executable, "-m", module, *overrides], capture_output=True, text=True, env=os.environ)
    if found.returncode:
        raise RuntimeError(f"{module} {' '.join(overrides)}: {(found.stderr or found.stdout)[-500:]}")


def plan(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Of one GPU, as `r1lab.memory` writes it."""
    run("r1lab.memory", [*overrides, f"output={folder / 'plan.json'}"])
    return json.loads((folder / "plan.json").read_text())["plans"][0]


def measure(overrides: Sequence[str], folder: Path) -> float:
    """MiB."""
    run("r1lab.train", [*overrides, *THREE_STEPS, f"hydra.run.dir={folder}"])
    return float(pd.read_csv(folder / "metrics.csv")["memory/peak_mib"].max())


def replan(path: Path, now: str) -> None:
    """Of each row the plan by the code of today, `now` its commit."""
    rows = pd.read_csv(path)
    for number, row in rows.iterrows():
        with tempfile.TemporaryDirectory() as folder:
            planned = plan(row["overrides"].split(), Path(folder))
        mib = planned["peak"] / 2**20
        found = {"planned_mib": round(mib, 1), "ratio": round(mib / row["measured_mib"], 4)}
        for name, value in (found | {"phase": planned["largest_phase"], "planned_commit": now}).items():
            rows.loc[number, name] = value
        print(f"{row['configuration']}: measured {row['measured_mib']:.0f}, planned {mib:.0f} MiB", flush=True)
    rows.to_csv(path, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(CONFIGURATIONS), choices=list(CONFIGURATIONS))
    parser.add_argument("--dry-run", action="store_true", help="plan alone")
    parser.add_argument("--replan", action="store_true", help="plan what was measured before anew; needs no GPU")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="of the source, where it is no checkout")
    args = parser.parse_args()
    if args.replan:
        return replan(args.output / "bench_memory.csv", args.commit or commit() or "")
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("this measures peaks on a CUDA GPU, and there is none; --dry-run plans alone")
    run_of = about("torch", "transformers", "lightning", given=args.commit)
    wrong = []
    for name in args.only:
        overrides = CONFIGURATIONS[name]
        with tempfile.TemporaryDirectory() as folder:
            try:
                planned = plan(overrides, Path(folder))
                mib = planned["peak"] / 2**20
                if args.dry_run:
                    print(f"{name}: planned {mib:.0f} MiB, in {planned['largest_phase']}", flush=True)
                    continue
                measured = measure(overrides, Path(folder))
            except RuntimeError as error:
                print(f"{name}: {error}", flush=True)
                wrong.append(name)
                continue
        ratio = mib / measured
        print(f"{name}: measured {measured:.0f}, planned {mib:.0f} MiB, ratio {ratio:.3f}", flush=True)
        if abs(ratio - 1) > LIMIT:
            wrong.append(name)
        row = {"configuration": name, "measured_mib": round(measured, 1), "planned_mib": round(mib, 1)}
        row |= {"ratio": round(ratio, 4), "phase": planned["largest_phase"], "planned_commit": run_of["commit"]}
        append([run_of | row | {"overrides": " ".join(overrides)}], args.output / "bench_memory.csv")
    if wrong:
        print(f"failed, or not within {LIMIT:.0%}: {', '.join(wrong)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
