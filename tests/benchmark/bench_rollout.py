"""python -m tests.benchmark.bench_rollout: seconds of a rollout by each engine, which take turns in changing order.

    loop             r1lab's key-value-cache loop (rollout=loop), with norms as on a GPU
    loop-own-norms   the same with transformers' norms (rollout.engine.fused_norms=false)
    generate         transformers' own `generate` (rollout=generate)

Models sample from prompts of 14 to 21 tokens; no token ends a completion, so that all engines make as many. Shapes: the
mixture of 145 million parameters (conf/model/moe_145m.yaml) and SmolLM2-135M, both untrained, and the tiny base that is
shipped, with its trained weights. Ratios are of medians, to the first engine's; `gpu_busy` is the share of the median
in which the GPU computes, by torch's profiler in one rollout more; `difference` the mean of how far sampling's logprobs
are from those of a training pass, nats a token. Appends rows to results/bench_rollout.csv. `--device cpu` is small, of
the tiny base alone a finding; its rows go to runs/bench_rollout.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.progress import track
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, PreTrainedModel

import r1lab
from r1lab.callback.communication import covered, spans
from r1lab.entry import CONF
from r1lab.model.attention import use_attention
from r1lab.model.policy import new_policy
from r1lab.model.tiny import tiny_tokenizer
from r1lab.module.logprobs import completion_logprobs
from r1lab.rollout.collate import collate
from r1lab.rollout.hf import CachedLoop, TransformersGenerate
from r1lab.rollout.norms import fused_norms
from r1lab.rollout.sampling import Sampling
from r1lab.types import Completion, Prompt
from tests.benchmark.bench_head import RESULTS, about, append, print_table, refuse_output
from tests.benchmark.bench_step import MODELS as STEP_MODELS

MOE = yaml.safe_load((CONF / "model/moe_145m.yaml").read_text())["policy"]["config"]
TINY = Path(r1lab.__file__).parent / "model/tiny_base"
MODELS = {"moe-145m": MOE, "smollm2-135m": STEP_MODELS["smollm2-135m"][0]}
MODELS["tiny-base"] = json.loads((TINY / "config.json").read_text())
SMALL = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 6, "num_key_value_heads": 6}
ON_CPU = Path("runs/bench_rollout")
ENGINES = {
    "loop": CachedLoop,
    "loop-own-norms": lambda tokenizer: CachedLoop(tokenizer, fused_norms=False),
    "generate": TransformersGenerate,
}
SHOWN = ("shape", "engine", "completions", "new_tokens", "seconds_p20", "seconds_p50", "seconds_p80",
         "tokens_per_second", "ratio", "gpu_busy", "difference")  # fmt: skip


def bench(name: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    gpu = args.device == "cuda"
    config = MODELS[name] if gpu or name == "tiny-base" else MODELS[name] | SMALL
    model = AutoModelForCausalLM.from_pretrained(TINY) if name == "tiny-base" else new_policy(config, seed=0)
    model = model.to(args.device, getattr(torch, args.dtype))
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

    def rollout(engine: str, step: int) -> list[Completion]:
        sampling = Sampling(1.0, args.new_tokens)
        options = {"group_size": args.group_size, "sampling": sampling, "seed": 0, "step": step}
        with fused_norms(model) if engine == "loop" else nullcontext():
            return engines[engine].generate(model, prompts, **options)

    order = random.Random(0)
    for step in track(range(args.repeats + 1), description=f"{name}, rollouts"):
        for engine in order.sample(list(engines), len(engines)):  # which one went before tells in the caches
            started = time.perf_counter()  # completions are on the host when it returns
            found = rollout(engine, step)
            seconds[engine].append(time.perf_counter() - started)
            assert {len(completion.ids) for completion in found} == {args.new_tokens}
    medians = {engine: statistics.median(times[1:]) for engine, times in seconds.items()}  # the first warms up
    tokens = len(prompts) * args.group_size * args.new_tokens
    for engine, times in seconds.items():
        low, high = (statistics.quantiles(times[1:], n=10, method="inclusive")[i] for i in (1, 7))
        yield {
            "shape": name,
            "dtype": args.dtype,
            "engine": engine,
            "completions": len(prompts) * args.group_size,
            "new_tokens": args.new_tokens,
            "repeats": args.repeats,
            "seconds_p20": round(low, 4),
            "seconds_p50": round(medians[engine], 4),
            "seconds_p80": round(high, 4),
            "tokens_per_second": round(tokens / medians[engine]),
            "ratio": round(medians[engine] / medians[next(iter(medians))], 3),
            "gpu_busy": round(kernel_seconds(lambda own=engine: rollout(own, 0)) / medians[engine], 3) if gpu else "",
            "difference": f"{difference(model, prompts, rollout(engine, 0), args.group_size):.2e}",
        }


def kernel_seconds(run: Callable[[], Any]) -> float:
    """In which the GPU computes."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    return covered(spans(profiled.profiler.kineto_results.events())[1]) / 1e6


@torch.no_grad()
def difference(model: PreTrainedModel, prompts: list[Prompt], found: list[Completion], group_size: int) -> float:
    """Mean absolute difference of the first 64 completions' sampling logprobs to those of a training pass."""
    rows = [prompt.ids for prompt in prompts for _ in range(group_size)][:64]
    batch = collate(rows, [completion.ids for completion in found[:64]], 0).to(model.device)
    trained, _ = completion_logprobs(model, batch, temperature=1.0)
    sampled = torch.tensor([completion.sampling_logprobs for completion in found[:64]], device=model.device)
    return float((trained - sampled).abs().mean())


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16, on a CPU float32")
    parser.add_argument("--completions", type=int, default=1024, help="of a rollout")
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--commit", help="where there is no checkout to ask")
    parser.add_argument("--no-csv", action="store_true", help="print the table alone")
    parser.add_argument("--output", type=Path, help=f"of rows; default: {RESULTS}, of a CPU {ON_CPU}")
    args = parser.parse_args()
    args.dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    args.output = args.output or (RESULTS if args.device == "cuda" else ON_CPU)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("this benchmark needs a GPU, or --device cpu, which is small and no finding")
    for name, least in (("repeats", 2), ("new_tokens", 1), ("group_size", 1), ("completions", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}")
    if args.completions % args.group_size:
        parser.error(f"--completions {args.completions} is not a multiple of --group-size {args.group_size}")
    if not args.no_csv:
        refuse_output(args.output, parser)
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
