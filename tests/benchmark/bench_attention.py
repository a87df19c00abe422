"""python -m tests.benchmark.bench_attention: a policy's body over ragged rows, padded and packed, by each attention.

Rows have lengths drawn from a log-normal cut off at the longest, whose mean is about 0.3 of that. Timed is forward and
backward of the body over all of them, in microbatches as training makes them (`r1lab.rollout.collate`), by:

    padded-sdpa          what training does by default
    packed-sdpa          one row without padding, by transformers' dense mask
    packed-varlen        torch's variable-length attention (off a GPU in half precision: sdpa, attention alone padded)
    packed-flex          torch's flex attention, compiled
    padded-, packed-flash_attention_2, packed-flash_attention_4      where these are installed

once with all rows in one microbatch, in the order they were drawn, and once split by a budget of tokens, rows of like
length together. Shapes: SmolLM2-135M, Qwen2.5-0.5B, and DeepSeek-V3's latent attention (heads of 192 and 128, dense
layers, so that no router is in the way). On a GPU in bfloat16; `--device cpu` is small, in float32, and no finding.

The loss is the mean square of a projection of each token's hidden state; its difference is the largest of one token's
projection to padded-sdpa's. Peaks are MiB above weights and gradients. Appends rows to results/bench_attention.csv.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from r1lab.model.attention import use_attention
from r1lab.model.policy import new_policy
from r1lab.module.logprobs import counted_hidden
from r1lab.rollout.collate import Batch, collate, microbatches
from r1lab.run_folder import commit, device_name
from tests.benchmark.bench_head import RESULTS, append, peak_mib, print_table, timed
from tests.benchmark.bench_step import COMMON
from tests.benchmark.bench_step import MODELS as STEP_MODELS

QWEN = {"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864}
QWEN |= {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
MLA = {"model_type": "deepseek_v3", "vocab_size": 32768, "hidden_size": 2048, "intermediate_size": 5632}
MLA |= {"num_hidden_layers": 12, "first_k_dense_replace": 12, "num_attention_heads": 16, "num_key_value_heads": 16}
MLA |= {"q_lora_rank": 768, "kv_lora_rank": 512}
MLA |= {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
MODELS = {"smollm2-135m": STEP_MODELS["smollm2-135m"][0], "qwen2.5-0.5b": COMMON | QWEN, "mla": COMMON | MLA}
SMALL = {"vocab_size": 128, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2}
SMALL_HEADS = {"qwen2.5-0.5b": {"num_attention_heads": 4}, "smollm2-135m": {"num_attention_heads": 6}}
SMALL_HEADS |= {"mla": {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 32}}
PROVIDERS = ("padded-sdpa", "packed-sdpa", "packed-varlen", "packed-flex")
PROVIDERS += ("padded-flash_attention_2", "packed-flash_attention_2", "packed-flash_attention_4")
# rows, the longest of them, tokens of a microbatch where they are split
SIZES = {"cuda": (16, 2048, 8192), "cpu": (16, 192, 1024)}
SPREAD, MEDIAN = 0.8, 0.24  # of the log-normal, the median as a share of the longest


class Rows:
    """A model's body, rows of random tokens, and the passes of training over them."""

    def __init__(self, config: dict[str, Any], device: str, dtype: torch.dtype):
        number, longest, self.budget = SIZES[device]
        generator = torch.Generator().manual_seed(0)
        shares = MEDIAN * (SPREAD * torch.randn(number, generator=generator)).exp()
        self.lengths = (shares.clamp(max=1) * longest).long().clamp(min=8).tolist()
        draw = [torch.randint(2, config["vocab_size"], (n,), generator=generator).tolist() for n in self.lengths]
        self.rows = [(row[:4], row[4:]) for row in draw]
        self.model = new_policy(config, seed=0).to(device, dtype)
        self.projection = torch.randn(config["hidden_size"], generator=generator).to(device, dtype)
        self.projection /= self.projection.norm()
        self.device = device

    def batches(self, *, packed: bool, split: bool) -> tuple[list[list[int]], list[Batch]]:
        parts = [list(range(len(self.rows)))]
        if split:
            parts = microbatches(self.lengths, self.budget, packed=packed)
        columns = [zip(*(self.rows[i] for i in part), strict=True) for part in parts]
        return parts, [collate(*column, 0, packed=packed).to(torch.device(self.device)) for column in columns]

    def passes(self, batches: list[Batch]) -> list[Tensor]:
        """Forward and backward of each microbatch; the projections of its counted tokens."""
        found = []
        for batch in batches:
            values = (counted_hidden(self.model.base_model, batch) @ self.projection).float()
            (values.square().sum() / sum(self.lengths)).backward()
            found.append(values.detach())
        return found

    def projections(self, batches: list[Batch], parts: list[list[int]]) -> Tensor:
        """Of all counted tokens, in the order of the rows."""
        out: list[Tensor] = [torch.empty(0)] * len(self.rows)
        for part, batch, values in zip(parts, batches, self.passes(batches), strict=True):
            for i, own in zip(part, values.split(batch.completion_mask.sum(1).tolist()), strict=True):
                out[i] = own
        return torch.cat(out)


def cpu_times(run: Callable[[], Any], repeats: int = 5) -> list[float]:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - started))
    return times


def measure(rows: Rows, provider: str, split: bool, expected: Tensor | None) -> tuple[dict[str, Any], Tensor]:
    form, attention = provider.split("-", 1)
    use_attention(rows.model, attention)
    parts, batches = rows.batches(packed=form == "packed", split=split)
    for _ in range(2):  # the second compiles flex for lengths that change
        values = rows.projections(batches, parts)
    gpu = rows.device == "cuda"
    times = (timed if gpu else cpu_times)(lambda: rows.passes(batches))
    low, middle, high = (statistics.quantiles(times, n=10)[i] for i in (1, 4, 7))
    computed, tokens = sum(batch.input_ids.numel() for batch in batches), sum(rows.lengths)
    return {
        "provider": provider,
        "split": split,
        "microbatches": len(batches),
        "tokens": tokens,
        "padding": round(1 - tokens / computed, 3),
        "ms_p20": round(low, 3),
        "ms_p50": round(middle, 3),
        "ms_p80": round(high, 3),
        "peak_mib": round(peak_mib(lambda: rows.passes(batches))) if gpu else "",
        "tokens_per_second": round(tokens / middle * 1e3),
        "difference": f"{float((values - (values if expected is None else expected)).abs().max()):.2e}",
    }, values


def bench(name: str, device: str, providers: Sequence[str]) -> Iterator[dict[str, Any]]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = MODELS[name] if device == "cuda" else MODELS[name] | SMALL | SMALL_HEADS[name]
    config |= {"first_k_dense_replace": config["num_hidden_layers"]} if name == "mla" else {}
    rows = Rows(config, device, dtype)
    for split in (False, True):
        expected = None
        for provider in providers:
            try:
                row, values = measure(rows, provider, split, expected)
            except (ImportError, ValueError, torch.OutOfMemoryError) as error:
                print(f"{name} {provider}: left out, {' '.join(str(error).split())[:200]}", flush=True)
                continue
            finally:
                gc.collect()
                if device == "cuda":
                    torch.cuda.empty_cache()
            expected = values if expected is None else expected
            print(
                f"{name} {provider} {'split' if split else 'whole'}: {row['ms_p50']} ms, {row['peak_mib']} MiB",
                flush=True,
            )
            yield {"shape": name, "dtype": str(dtype).removeprefix("torch."), **row}


SHOWN = (
    "shape",
    "split",
    "provider",
    "padding",
    "ms_p20",
    "ms_p50",
    "ms_p80",
    "peak_mib",
    "tokens_per_second",
    "difference",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SIZES, default="cuda")
    parser.add_argument("--shapes", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--providers", nargs="*", choices=PROVIDERS, default=list(PROVIDERS))
    parser.add_argument("--commit", help="where there is no checkout to ask")
    parser.add_argument("--no-csv", action="store_true", help="print the table alone")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("this benchmark needs a GPU, or --device cpu, which is small and no finding")
    on_cpu = "cpu" if args.device == "cpu" and torch.cuda.is_available() else ""
    about = {"date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "commit": args.commit or commit() or ""}
    about |= {"device": on_cpu or device_name(), "torch": torch.__version__}
    about |= {"transformers": transformers.__version__, "flash_attn": flash_version()}
    command = " ".join(["python -m tests.benchmark.bench_attention", *sys.argv[1:]])
    rows = []
    for name in args.shapes:
        for row in bench(name, args.device, args.providers):
            rows.append(row)
            if not args.no_csv:
                append([{**about, **row, "command": command}], args.output / "bench_attention.csv")
    print_table(rows, SHOWN, width=150)


def flash_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("flash-attn", "flash-attn-4"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    main()
