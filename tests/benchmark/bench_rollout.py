"""python -m tests.benchmark.bench_rollout: seconds of a rollout by each engine, which take turns.

    loop             r1lab's key-value-cache loop (rollout=loop)
    loop-own-norms   the same with transformers' norms (rollout.engine.fused_norms=false)
    generate         transformers' own `generate` (rollout=generate)

Untrained models sample in bfloat16, from prompts of 14 to 21 tokens; no token ends a completion, so that all engines
make as many. Shapes: the mixture of 145 million parameters (conf/model/moe_145m.yaml) and SmolLM2-135M. Ratios are of
medians, to the first engine's. `host` is the share of the time in which the thread that samples computes: near 1 the
GPU waits for it. Appends rows to results/bench_rollout.csv. `--device cpu` is small, in float32, and no finding; its
rows go to runs/bench_rollout.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.progress import track

from r1lab.entry import CONF
from r1lab.model.attention import use_attention
from r1lab.model.policy import new_policy
from r1lab.model.tiny import tiny_tokenizer
from r1lab.rollout.hf import CachedLoop, TransformersGenerate
from r1lab.rollout.sampling import Sampling
from r1lab.types import Prompt
from tests.benchmark.bench_head import RESULTS, about, append, print_table
from tests.benchmark.bench_step import MODELS as STEP_MODELS

MOE = yaml.safe_load((CONF / "model/moe_145m.yaml").read_text())["policy"]["config"]
MODELS = {"moe-145m": MOE, "smollm2-135m": STEP_MODELS["smollm2-135m"][0]}
SMALL = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 6, "num_key_value_heads": 6}
ON_CPU = Path("runs/bench_rollout")
ENGINES = {
    "loop": CachedLoop,
    "loop-own-norms": lambda tokenizer: CachedLoop(tokenizer, fused_norms=False),
    "generate": TransformersGenerate,
}
SHOWN = ("shape", "engine", "completions", "new_tokens", "seconds_p20", "seconds_p50", "seconds_p80", "host",
         "tokens_per_second", "ratio")  # fmt: skip


def bench(name: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    gpu = args.device == "cuda"
    config = MODELS[name] if gpu else MODELS[name] | SMALL
    model = new_policy(config, seed=0).to(args.device, torch.bfloat16 if gpu else torch.float32)
    use_attention(model, "auto")
    tokenizer = tiny_tokenizer()
    # An id that no model has ends a completion.
    model.generation_config.eos_token_id = tokenizer.eos_token_id = config["vocab_size"]
    draw = torch.Generator().manual_seed(0)
    prompts = []
    for index in range(args.completions // args.group_size):
        length = int(torch.randint(14, 22, (1,), generator=draw))
        prompts.append(Prompt(tuple(torch.randint(2, 100, (length,), generator=draw).tolist()), "", "", index))
    engines = {engine: ENGINES[engine](tokenizer) for engine in args.engines}
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    busy: dict[str, list[float]] = {engine: [] for engine in engines}
    for step in track(range(args.repeats + 1), description=f"{name}, rollouts"):
        for engine, own in engines.items():
            started, computed = time.perf_counter(), time.thread_time()  # completions are on the host when it returns
            found = own.generate(
                model,
                prompts,
                group_size=args.group_size,
                sampling=Sampling(1.0, args.new_tokens),
                seed=0,
                step=step,
            )
            seconds[engine].append(time.perf_counter() - started)
            busy[engine].append(time.thread_time() - computed)
            assert {len(completion.ids) for completion in found} == {args.new_tokens}
    medians = {engine: statistics.median(times[1:]) for engine, times in seconds.items()}  # the first warms up
    tokens = len(prompts) * args.group_size * args.new_tokens
    for engine, times in seconds.items():
        low, high = (statistics.quantiles(times[1:], n=10)[i] for i in (1, 7))
        yield {
            "shape": name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "engine": engine,
            "completions": len(prompts) * args.group_size,
            "new_tokens": args.new_tokens,
            "repeats": args.repeats,
            "seconds_p20": round(low, 4),
            "seconds_p50": round(medians[engine], 4),
            "seconds_p80": round(high, 4),
            "host": round(sum(busy[engine][1:]) / sum(times[1:]), 3),
            "tokens_per_second": round(tokens / medians[engine]),
            "ratio": round(medians[engine] / medians[next(iter(medians))], 3),
        }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--completions", type=int, default=1024, help="of a rollout")
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--commit", help="where there is no checkout to ask")
    parser.add_argument("--no-csv", action="store_true", help="print the table alone")
    parser.add_argument("--output", type=Path, help=f"of rows; default: {RESULTS}, of a CPU {ON_CPU}")
    args = parser.parse_args()
    args.output = args.output or (RESULTS if args.device == "cuda" else ON_CPU)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("this benchmark needs a GPU, or --device cpu, which is small and no finding")
    if args.repeats < 2 or args.new_tokens < 1 or not 1 <= args.group_size <= args.completions:
        parser.error("--repeats must be at least 2, --new-tokens 1, and --completions a group's --group-size")
    return args


def main() -> None:
    args = parsed()
    command = " ".join(["python -m tests.benchmark.bench_rollout", *sys.argv[1:]])
    rows = []
    for name in args.shapes:
        for row in bench(name, args):
            rows.append(about("torch", "transformers", given=args.commit) | row | {"command": command})
            if not args.no_csv:
                append([rows[-1]], args.output / "bench_rollout.csv")
    print_table(rows, SHOWN, rows[0]["device"], width=150)


if __name__ == "__main__":
    main()
