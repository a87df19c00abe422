"""python -m tests.benchmark.bench_accumulation: what it costs to sum the head's gradient over chunks in float32.

At each point of bench_head's frontier, the products share^T hidden that make the gradient of the head: written in
bf16 and summed with nothing (what no accumulation would cost), written in float32, added to float32, and the conversion
at the end. The cost is what the last three take beyond the first, over the chunks of a step; its share is of the step's
time, measured in the same run. Each run appends a row a point to results/bench_accumulation.csv.
"""

import argparse
import statistics
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from r1lab.kernel.chunks import Head, chunks, scaled
from r1lab.run_folder import commit, device_name
from tests.benchmark.bench_head import RESULTS, SHAPES, Inputs, append, needs_a_gpu, r1lab, timed


def median(run) -> float:
    return statistics.median(timed(run, seconds=0.3))


def point(x: Inputs, mib: int) -> dict[str, Any]:
    run = r1lab(mib)

    def step() -> None:
        x.hidden.grad = x.head.grad = None
        run(x).backward()

    step_ms = median(step)
    x.hidden.grad = x.head.grad = None
    vocabulary, width = x.head.shape
    slices = chunks(len(x.hidden), Head.of(x.hidden, x.head, None, 1.0, None).row_bytes, mib << 20)
    hidden = x.hidden.detach()[slices[0]]
    share = torch.randn(len(hidden), vocabulary, device="cuda").bfloat16()
    narrow = torch.empty(vocabulary, width, dtype=torch.bfloat16, device="cuda")
    wide, one = narrow.float(), torch.ones((), device="cuda")
    parts = {
        "narrow": median(lambda: torch.mm(share.T, hidden, out=narrow)),
        "wide": median(lambda: torch.mm(share.T, hidden, out_dtype=torch.float32, out=wide)),
        "added": median(lambda: torch.addmm(wide, share.T, hidden, out_dtype=torch.float32, out=wide)),
        "converted": median(lambda: scaled(wide, one, torch.bfloat16)),
    }
    later = len(slices) - 1
    cost = parts["wide"] + later * parts["added"] + parts["converted"] - len(slices) * parts["narrow"] if later else 0.0
    return {
        "mib": mib,
        "chunks": len(slices),
        "tokens": len(hidden),
        "step_ms": round(step_ms, 3),
        **{f"{name}_ms": round(value, 3) for name, value in parts.items()},
        "cost_ms": round(cost, 3),
        "share": round(cost / step_ms, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="of the source, where it is no checkout")
    args = parser.parse_args()
    needs_a_gpu(parser)
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": args.commit or commit() or "",
        "device": device_name(),
        "torch": torch.__version__,
        "triton": version("triton"),
    }
    rows = []
    for name, (size, budgets) in SHAPES.items():
        x = Inputs(*size)
        for mib in budgets[:2]:
            rows.append({**about, "shape": name, **point(x, mib)})
            print(rows[-1], flush=True)
        del x
        torch.cuda.empty_cache()
    append(rows, args.output / "bench_accumulation.csv")


if __name__ == "__main__":
    main()
