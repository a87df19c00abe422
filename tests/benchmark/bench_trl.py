"""python -m tests.benchmark.bench_trl: one GRPO step, 256 completions, beside the same step of TRL's GRPOTrainer.

Both start from the same weights each turn and take the same prompts in the same order: 16 a step, G 16, temperature 1,
at most 40 tokens, float32, AdamW at 2e-4, beta 0.001 with k3 in the loss, one update a rollout, accuracy and format as
rewards, scored by the same two objects. r1lab is what `experiment=r1zero` builds, in Lightning's Trainer; TRL is its
GRPOTrainer, with a clock around three of its methods. Neither logs, validates or saves. They take turns, each first in
every other one, since a machine that others use drifts; the first step of a turn is not counted.

TRL has what makes it fastest on a CPU, going by its source (1.16), and by trying where that leaves it open:
- no gradient checkpointing, which is its default, as bf16 is, and no router loss;
- one generation, one update and no accumulation a step, so that it takes no old logprobs. Accumulating over 2 or 4
  parts is no faster: it pads the batch before it splits it;
- the experts as one grouped product, as ours, in its reference too, which it loads by itself. `eager` is no faster;
- the dynamic cache: the static one, which it does not compile, is slower; fused AdamW;
- no vLLM, which is for GPUs, nor the continuous batching of transformers, several times slower on a CPU;
- no workers, progress bar, reports, or logs of completions.
use_bias_correction_kl=False is k3, loss_type="grpo" sequence_mean: test_trl_parity.py shows loss and gradient equal.

Each run appends a row a provider to results/bench_trl.csv. Seconds are of whole steps, from the end of one to the end
of the next; rollout is sampling and decoding, logprob the pass of the reference, update all from the loss to the
optimizer (with accumulation, of the last part). What remains are rewards, advantages and data.
"""

import argparse
import csv
import gc
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from datasets import Dataset
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig, GRPOTrainer

from r1lab.build import build_policy_parts, build_reward, make
from r1lab.data.prompts import PROMPTS_A_SEED
from r1lab.entry import CONF, plain
from r1lab.model.attention import use_attention
from r1lab.module.checkpoint import load_checkpoint
from r1lab.run_folder import commit, device_name
from r1lab.train import build_data, build_module, build_trainer, quieten
from r1lab.types import Completion, Prompt

RESULTS = Path(__file__).parent / "results" / "bench_trl.csv"
PARTS = ("step", "rollout", "logprob", "update")
SAME = (
    "experiment=r1zero",
    "evaluate=false",
    "rollout.batch_size=256",
    "rollout.group_size=16",
    "rollout.max_new_tokens=40",
    "rollout.temperature=1.0",
    "module.num_minibatches=1",
    "module.num_iterations=1",
    "advantage.scale=std",
    "loss.beta=0.001",
    "loss.kl=k3",
    "loss.kl_placement=loss",
    "loss.aggregate=sequence_mean",
    "loss.entropy_coef=0.0",
    "optimizer.lr=2e-4",
    "trainer.accelerator=cpu",
    "+trainer.limit_val_batches=0",
    "+trainer.enable_checkpointing=false",
    "+trainer.enable_progress_bar=false",
)


@dataclass(frozen=True)
class Step:
    """What one step took, in seconds a part, how long its completions were, and which prompts it had."""

    seconds: dict[str, float]
    completion_length: float
    prompts: list[int]


def compose_config(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*SAME, *overrides])
    # What watches a run writes into its folder, and here is none.
    config.callback, config.logger = {}, {}
    return plain(config)


def save_base(name: str, folder: Path) -> None:
    """The weights that both start from, as a Hugging Face folder."""
    if name.endswith(".ckpt"):
        policy, tokenizer, _ = load_checkpoint(name)
    else:
        choice = ["model=tiny_untrained"] if name == "untrained" else ["model=tiny", f"model.name='{name}'"]
        model = compose_config(*choice)["model"]
        policy, tokenizer = make(model["policy"]), make(model["tokenizer"])
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ---- r1lab ----------------------------------------------------------------------------------------------------------


class OurClock(L.Callback):
    def __init__(self):
        self.steps: list[Step] = []
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer, module, *_) -> None:
        now = time.perf_counter()
        parts = {name: float(trainer.callback_metrics[f"time/{name}_seconds"]) for name in PARTS[1:]}
        completions = module.rollout.completions
        self.steps.append(
            Step(
                {"step": now - self.last, **parts},
                statistics.fmean(len(c.ids) for c in completions),
                [prompt.index for prompt in module.rollout.prompts],
            )
        )
        self.last = time.perf_counter()


def r1lab_steps(config: dict[str, Any], folder: Path) -> list[Step]:
    clock = OurClock()
    parts = build_policy_parts(config)
    module = build_module(config, parts)
    trainer = build_trainer(config, folder, [clock])
    trainer.fit(module, build_data(config, parts, module))
    return clock.steps


# ---- TRL ------------------------------------------------------------------------------------------------------------


class TimedGRPOTrainer(GRPOTrainer):
    """TRL's trainer with a clock around three of its methods; what they do is left as it is."""

    clock: "TheirClock"

    def _generate(self, prompts):
        started = time.perf_counter()
        out = super()._generate(prompts)
        self.clock.seconds["rollout"] += time.perf_counter() - started
        return out

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        started = time.perf_counter()
        out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if not torch.is_grad_enabled():
            self.clock.seconds["logprob"] += time.perf_counter() - started
        return out

    def _prepare_inputs(self, batch):
        out = super()._prepare_inputs(batch)
        self.clock.prepared = time.perf_counter()
        return out


class TheirClock(TrainerCallback):
    def __init__(self):
        self.steps: list[Step] = []
        self.seconds = {"rollout": 0.0, "logprob": 0.0}
        self.last = self.prepared = time.perf_counter()
        self.lengths: list[int] = []
        self.prompts: list[int] = []

    def on_step_end(self, *_, **__) -> None:
        now = time.perf_counter()
        seconds = {"step": now - self.last, **self.seconds, "update": now - self.prepared}
        self.steps.append(Step(seconds, statistics.fmean(self.lengths), self.prompts))
        self.seconds = {"rollout": 0.0, "logprob": 0.0}
        self.last = time.perf_counter()


def trl_config(config: dict[str, Any], folder: Path, *, microbatch: int) -> GRPOConfig:
    rollout, optimizer, adamw = config["rollout"], config["optimizer"], config["optimizer"]["optimizer"]
    batch = rollout["batch_size"]
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=config["trainer"]["max_steps"],
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=batch // microbatch,
        num_generations=rollout["group_size"],
        max_completion_length=rollout["max_new_tokens"],
        temperature=rollout["temperature"],
        top_k=rollout["top_k"],
        top_p=rollout["top_p"],
        num_iterations=1,
        shuffle_dataset=False,
        beta=config["loss"]["beta"],
        use_bias_correction_kl=False,
        epsilon=config["loss"]["epsilon_low"],
        epsilon_high=config["loss"]["epsilon_high"],
        loss_type="grpo",
        scale_rewards="group",
        reward_weights=[term["weight"] for term in config["reward"].values()],
        router_aux_loss_coef=0.0,
        learning_rate=optimizer["lr"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta1=adamw["betas"][0],
        adam_beta2=adamw["betas"][1],
        weight_decay=adamw["weight_decay"],
        max_grad_norm=optimizer["gradient_clip"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        log_level="error",
        disable_tqdm=True,
    )


def trl_reward(name: str, term, prompts: Sequence[Prompt], eos: int, clock: TheirClock):
    """One of our reward terms as TRL calls it."""

    by_index = {prompt.index: prompt for prompt in prompts}

    def reward(completions, completion_ids, index, **_):
        clock.prompts, clock.lengths = list(index), [len(ids) for ids in completion_ids]
        written = [
            Completion(tuple(ids), text, ids[-1] != eos) for ids, text in zip(completion_ids, completions, strict=True)
        ]
        return term([by_index[i] for i in index], written)

    reward.__name__ = name
    return reward


def trl_steps(config: dict[str, Any], folder: Path, *, microbatch: int) -> list[Step]:
    clock = TheirClock()
    base, experts = config["model"]["name"], config["model"]["policy"]["experts"]
    attention = config["model"]["policy"]["attention"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    parts = build_policy_parts(config, tokenizer)
    per_step = config["rollout"]["batch_size"] // config["rollout"]["group_size"]
    first = config["seed"] * PROMPTS_A_SEED
    prompts = [parts["task"].sample("train", first + i) for i in range(per_step * config["trainer"]["max_steps"])]
    terms = build_reward(config["reward"], parts["task"], tokenizer).terms
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    use_attention(model, attention)
    TimedGRPOTrainer.clock = clock
    trainer = TimedGRPOTrainer(
        model=model,
        processing_class=tokenizer,
        args=trl_config(config, folder, microbatch=microbatch),
        train_dataset=Dataset.from_list([{"prompt": p.text, "index": p.index} for p in prompts]),
        reward_funcs=[
            trl_reward(name, term, prompts, tokenizer.eos_token_id, clock) for name, term in terms.items()
        ],
        callbacks=[clock],
    )  # fmt: skip
    for part in (trainer.model, trainer.ref_model):
        part.set_experts_implementation(experts)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.steps


# ---- both -----------------------------------------------------------------------------------------------------------


def take_turns(config: dict[str, Any], folder: Path, *, turns: int, microbatch: int) -> dict[str, list[list[Step]]]:
    """The counted steps of each turn of each provider."""
    providers = {
        "r1lab": lambda: r1lab_steps(config, folder),
        "trl": lambda: trl_steps(config, folder, microbatch=microbatch),
    }
    steps: dict[str, list[list[Step]]] = {name: [] for name in providers}
    for turn in range(turns):
        for name in list(providers)[:: 1 if turn % 2 == 0 else -1]:
            steps[name].append(providers[name]()[1:])
            gc.collect()
        ours, theirs = (steps[name][-1] for name in providers)
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True), start=2):
            if a.prompts != b.prompts:
                raise RuntimeError(f"step {number}: the two had different prompts")
        print(f"turn {turn + 1}: {', '.join(f'{name} {median(rows[-1]):.3f} s' for name, rows in steps.items())}")
    return steps


def median(steps: Sequence[Step], part: str = "step") -> float:
    return statistics.median(step.seconds[part] for step in steps)


def rows(steps: dict[str, list[list[Step]]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a provider, for the table and the file."""
    ratios = [median(b) / median(a) for a, b in zip(steps["r1lab"], steps["trl"], strict=True)]
    out = []
    for name, turns in steps.items():
        flat = [step for turn in turns for step in turn]
        low, high = np.percentile([step.seconds["step"] for step in flat], [20, 80])
        out.append(
            {
                "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "commit": commit() or "",
                "provider": name,
                "version": import_module(name).__version__,
                "step_seconds_median": round(median(flat), 4),
                "step_seconds_p20": round(float(low), 4),
                "step_seconds_p80": round(float(high), 4),
                **{f"{part}_seconds_median": round(median(flat, part), 4) for part in PARTS[1:]},
                "completion_length": round(statistics.fmean(step.completion_length for step in flat), 2),
                "trl_over_r1lab_median": round(statistics.median(ratios), 3),
                "trl_over_r1lab_low": round(min(ratios), 3),
                "trl_over_r1lab_high": round(max(ratios), 3),
                "turns": len(turns),
                "steps_a_turn": len(turns[0]),
                "model": args.model,
                "device": device_name(),
                "torch": torch.__version__,
                "transformers": version("transformers"),
                "lightning": version("lightning"),
                "command": "python -m tests.benchmark.bench_trl " + " ".join(sys.argv[1:]),
            }
        )
    return out


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("seconds a step", *[row["provider"] for row in rows])
    shown = ("step_seconds_median", "step_seconds_p20", "step_seconds_p80")
    for key in (*shown, *(f"{part}_seconds_median" for part in PARTS[1:]), "completion_length"):
        table.add_row(key, *[f"{row[key]:.3f}" for row in rows])
    console = Console()
    console.print(table)
    ratio, low, high = (rows[0][f"trl_over_r1lab_{key}"] for key in ("median", "low", "high"))
    console.print(f"TRL takes {ratio:.2f} times as long (median of turns; {low:.2f} to {high:.2f} over turns)")
    lengths = [row["completion_length"] for row in rows]
    if max(lengths) > 1.1 * min(lengths):
        console.print("The mean lengths differ by more than a tenth: this is no fair comparison.")
    first = rows[0]
    console.print(
        f"{first['device']}; torch {first['torch']}; commit {first['commit'] or 'unknown'}; {first['date']}",
        soft_wrap=True,
    )


def append(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)
    print(f"appended to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="tiny, untrained, a .ckpt file or a Hugging Face folder")
    parser.add_argument("--turns", type=int, default=6, help="how often each provider has its turn")
    parser.add_argument("--steps", type=int, default=6, help="counted steps a turn; one more goes before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl-microbatch", type=int, default=256, help="TRL's per_device_train_batch_size")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("overrides", nargs="*", help="of r1lab's config, such as module.microbatch_tokens=2000")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    quieten()
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # TRL's use of transformers
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "base")
        save_base(args.model, base)
        config = compose_config(f"model.name='{base}'", f"trainer.max_steps={args.steps + 1}", *args.overrides)
        result = take_turns(config, Path(temporary), turns=args.turns, microbatch=args.trl_microbatch)
    measured = rows(result, args)
    show(measured)
    append(measured, args.output)


if __name__ == "__main__":
    main()
