"""python -m tests.benchmark.bench_distill: distilling whole distributions, fused against full logits: memory and time.

Every provider takes hidden states [N, H] of student and teacher and both heads [V, H], and makes the mean reverse KL
and the gradients to the student's hidden states and head:

    logits   the logits of both in whole, then r1lab's `token_divergence`
    torch    r1lab/loss/distill.py, a chunk of tokens at a time, recomputed in the backward
    triton   r1lab/kernel/linear_distill_loss.py, the gradient made with the loss (on a GPU alone)

On a GPU in bfloat16, at the sizes of bench_head; on a CPU in float32, at a small one. Peak memory is above the inputs:
what CUDA allocated, or on a CPU the growth of a fresh process's largest resident size. Prints a table and appends its
rows to results/bench_distill.csv.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r1lab.loss.distill import linear_distill_loss, token_divergence
from r1lab.run_folder import commit, device_name

RESULTS = Path(__file__).parent / "results" / "bench_distill.csv"
# name: N, H, V
GPU_SHAPES = {"qwen": (8192, 1536, 151936), "smollm": (16384, 576, 49152)}
CPU_SHAPES = {"small": (512, 64, 49152)}
CPU_CHUNK = 8 << 20  # bytes of logits: all of the small size would fit in one of the default
OPTIONS = {"divergence": "reverse_kl", "jsd_beta": 0.5}


def inputs(shape: tuple[int, int, int], device: str, dtype: torch.dtype) -> list[Tensor]:
    """hidden and head of the student, with gradient, and of the teacher."""
    n, width, vocabulary = shape
    generator = torch.Generator(device).manual_seed(0)
    made = []
    for size in ((n, width), (vocabulary, width)) * 2:
        x = torch.randn(*size, device=device, generator=generator)
        made.append((x * width**-0.5 if len(made) % 2 else x).to(dtype))
    return [x.requires_grad_(number < 2) for number, x in enumerate(made)]


def logits(hidden: Tensor, head: Tensor, teacher_hidden: Tensor, teacher_head: Tensor) -> Tensor:
    log_s, log_t = (
        (h @ w.T).float().log_softmax(-1) for h, w in ((hidden, head), (teacher_hidden, teacher_head))
    )  # fmt: skip
    return token_divergence(log_t, log_s, **OPTIONS).mean()


def chunked(*tensors: Tensor) -> Tensor:
    budget = {} if tensors[0].is_cuda else {"chunk_bytes": CPU_CHUNK}
    return linear_distill_loss(*tensors, temperature=1.0, tokens=len(tensors[0]), **budget, **OPTIONS)


def fused(*tensors: Tensor) -> Tensor:
    from r1lab.kernel.linear_distill_loss import linear_distill_loss as kernel

    return kernel(*tensors, temperature=1.0, tokens=len(tensors[0]), **OPTIONS)


PROVIDERS: dict[str, Callable[..., Tensor]] = {"logits": logits, "torch": chunked, "triton": fused}


def step(provider: str, tensors: list[Tensor]) -> None:
    for x in tensors[:2]:
        x.grad = None
    PROVIDERS[provider](*tensors).backward()


def on_gpu(provider: str, shape: tuple[int, int, int]) -> dict[str, float]:
    from tests.benchmark.bench_head import peak_mib, timed

    tensors = inputs(shape, "cuda", torch.bfloat16)
    step(provider, tensors)
    for x in tensors[:2]:
        x.grad = None
    peak = peak_mib(lambda: step(provider, tensors))
    return {"ms": statistics.median(timed(lambda: step(provider, tensors))), "peak_mib": peak}


def on_cpu(provider: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """In a process of its own, whose largest size is this provider's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (provider, shape))


def _measured(provider: str, shape: tuple[int, int, int]) -> dict[str, float]:
    tensors = inputs(shape, "cpu", torch.float32)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    step(provider, tensors)
    seconds = time.process_time() - started
    return {"ms": 1e3 * seconds, "peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-csv", action="store_true", help="print the table alone")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    about = {"date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "commit": commit() or ""}
    about |= {"device": device_name(), "torch": torch.__version__}
    rows: list[dict[str, Any]] = []
    print("| shape | N | H | V | provider | ms | peak MiB above inputs |\n|---|---|---|---|---|---|---|")
    for name, shape in (GPU_SHAPES if gpu else CPU_SHAPES).items():
        for provider in PROVIDERS if gpu else ("logits", "torch"):
            found = {key: round(value, 1) for key, value in (on_gpu if gpu else on_cpu)(provider, shape).items()}
            size = dict(zip(("n", "width", "vocabulary"), shape, strict=True))
            rows.append({**about, "shape": name, **size, "provider": provider, **found})
            print(
                f"| {name} | {' | '.join(map(str, shape))} | {provider} | {found['ms']} | {found['peak_mib']} |",
                flush=True,
            )
    if not args.no_csv:
        from tests.benchmark.bench_head import append

        append(
            [{**row, "command": " ".join(["python -m tests.benchmark.bench_distill", *sys.argv[1:]])} for row in rows],
            RESULTS,
        )


if __name__ == "__main__":
    main()
