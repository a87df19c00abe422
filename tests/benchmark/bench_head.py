"""python -m tests.benchmark.bench_head: the head and the GRPO loss, forward + backward, beside what others offer.

Every provider takes bf16 hidden states [N, H] and a head [V, H], both with gradient, ids, old and reference logprobs,
and makes R1's loss (mean over each completion's tokens, clip at 0.2, k3 with beta 0.001) and both gradients:

    r1lab    linear_grpo_loss of r1lab/kernel, at several byte budgets of the logits' chunk (its name ends in MiB)
    torch    bf16 logits materialised, TRL's selective_log_softmax, then r1lab's loss in PyTorch
    trl      TRL's chunked logprob (its GRPO default), then the same loss
    liger    LigerFusedLinearGRPOLoss, compiled
    cce      cut-cross-entropy's linear_cross_entropy unreduced, then the same loss

and, without gradient, r1lab-forward: linear_logprob, what old and reference passes run.

The floor is 6NHV FLOP (2NHV for forward) over the throughput of an 8192 x 8192 x 8192 bf16 product on random data,
measured in the same run; a provider's `ratio` is its median over that. A GPU in work for seconds clocks lower, by a
sixth in the end: each measurement begins after a rest of half a second, and of three the fastest counts, for the
product of the floor as for each provider. Times are of CUDA events, peak memory is what
was allocated above inputs. `--extra-n` adds the sizes of the plot. Each run appends a row a measurement to
results/bench_head.csv and draws results/bench_head.png from the rows of that run.
"""

import argparse
import csv
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r1lab.loss.grpo import grpo_loss
from r1lab.run_folder import commit, device_name

RESULTS = Path(__file__).parent / "results"
# name: (N, H, V), byte budgets in MiB: lean, fast, and those between
SHAPES = {
    "qwen": ((16384, 1536, 151936), (790, 2400, 300, 1200)),
    "deepseek": ((8192, 7168, 129280), (2100, 1100, 550)),
    "smollm": ((16384, 576, 49152), (340, 770, 100)),
}
LENGTH = 1024
REST = 0.5  # seconds
LOSS = {
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "ratio_cap": None,
    "ratio_level": "token",
    "beta": 0.001,
    "kl": "k3",
    "kl_placement": "loss",
    "aggregate": "sequence_mean",
    "entropy_coef": 0.0,
}


class Inputs:
    """Random hidden states, head and ids of N tokens, b = N / 1024 completions; logprobs of old and reference near."""

    def __init__(self, n: int, width: int, vocabulary: int):
        generator = torch.Generator("cuda").manual_seed(0)
        draw = {"device": "cuda", "generator": generator}
        self.hidden = torch.randn(n, width, **draw).bfloat16().requires_grad_()
        self.head = (torch.randn(vocabulary, width, **draw) * width**-0.5).bfloat16().requires_grad_()
        self.ids = torch.randint(vocabulary, (n,), **draw)
        self.shape = (n // LENGTH, LENGTH)
        self.mask = torch.ones(self.shape, dtype=torch.bool, device="cuda")
        self.advantages = torch.randn(self.shape[0], **draw)
        self.size = {"sequences": self.shape[0], "tokens": n, "max_length": LENGTH}
        from r1lab.kernel.linear_logprob import linear_statistics

        own = linear_statistics(self.hidden, self.head, self.ids, temperature=1.0).logprob.view(self.shape)
        self.old = own + 0.1 * torch.randn(self.shape, **draw)
        self.ref = own + 0.1 * torch.randn(self.shape, **draw)

    def loss_of(self, logprob: Tensor) -> Tensor:
        args = (self.old, self.ref, self.advantages, self.mask, None)
        return grpo_loss(logprob.float().view(self.shape), *args, **self.size, **LOSS).loss

    @property
    def results(self) -> tuple[Tensor, Tensor]:
        return self.hidden.grad, self.head.grad


# ---- providers: inputs -> the loss -----------------------------------------------------------------------------------


def r1lab(mib: int) -> Callable[[Inputs], Tensor]:
    from r1lab.kernel.linear_grpo_loss import linear_grpo_loss

    def run(x: Inputs) -> Tensor:
        tensors = (x.hidden, x.head, x.ids, x.old, x.ref, x.advantages, x.mask)
        return linear_grpo_loss(*tensors, temperature=1.0, chunk_bytes=mib << 20, **x.size, **LOSS).loss

    return run


def r1lab_forward(mib: int) -> Callable[[Inputs], Tensor]:
    from r1lab.kernel.linear_logprob import linear_logprob

    @torch.no_grad()
    def run(x: Inputs) -> Tensor:
        return linear_logprob(x.hidden, x.head, x.ids, temperature=1.0, chunk_bytes=mib << 20)[0]

    return run


def materialised() -> Callable[[Inputs], Tensor]:
    from trl.trainer.utils import selective_log_softmax

    return lambda x: x.loss_of(selective_log_softmax(x.hidden @ x.head.T, x.ids))


def trl_chunked() -> Callable[[Inputs], Tensor]:
    from trl.kernels import ChunkedLogProbFunction

    def run(x: Inputs) -> Tensor:
        outputs = ChunkedLogProbFunction.apply(x.hidden, x.head, None, x.ids, 1.0, 32768, None, 1.0, ())
        return x.loss_of(outputs[0])

    return run


def liger() -> Callable[[Inputs], Tensor]:
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOLoss

    loss = LigerFusedLinearGRPOLoss(beta=LOSS["beta"], loss_type="grpo")

    def run(x: Inputs) -> Tensor:
        return loss(
            x.hidden.view(*x.shape, -1),
            x.head,
            x.ids.view(x.shape),
            x.mask.float(),
            x.advantages,
            ref_per_token_logps=x.ref,
            old_per_token_logps=x.old,
        )[0]

    return run


def cut_cross_entropy() -> Callable[[Inputs], Tensor]:
    from cut_cross_entropy import linear_cross_entropy

    return lambda x: x.loss_of(-linear_cross_entropy(x.hidden, x.head, x.ids, reduction="none"))


PROVIDERS = {"torch": materialised, "trl": trl_chunked, "liger": liger, "cce": cut_cross_entropy}
PACKAGES = {"trl": "trl", "torch": "torch", "liger": "liger-kernel", "cce": "cut-cross-entropy", "r1lab": "triton"}


# ---- measuring -------------------------------------------------------------------------------------------------------


def timed(run: Callable[[], Any], *, warmup: int = 3, seconds: float = 1.0) -> list[float]:
    """Milliseconds on the GPU of each repetition, 7 to 60 of them in about `seconds`.

    They are queued without waiting, as in training, where the host is ahead; the cache is emptied between them.
    """
    cache = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    for _ in range(warmup):
        run()
    torch.cuda.synchronize()
    time.sleep(REST)
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    repetitions = min(max(int(seconds / (time.perf_counter() - started)), 7), 60)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repetitions)]
    for start, end in events:
        cache.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def fastest(run: Callable[[], Any], repeats: int = 3) -> list[float]:
    """`timed`, of a few the one with the least median: a GPU that has had its rest is faster than one in work."""
    return min((timed(run) for _ in range(repeats)), key=statistics.median)


def peak_mib(run: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def flops_a_second() -> float:
    """Of torch's 8192 x 8192 x 8192 bf16 product on random data."""
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    return 2 * 8192**3 / statistics.median(fastest(lambda: a @ b)) * 1e3


def measure(name: str, run: Callable[[Inputs], Tensor], x: Inputs, speed: float, *, forward: bool) -> dict[str, Any]:
    n, width = x.hidden.shape
    vocabulary = len(x.head)

    def once() -> None:
        x.hidden.grad = x.head.grad = None
        out = run(x)
        if not forward:
            out.backward()

    once()
    x.hidden.grad = x.head.grad = None
    peak = peak_mib(once)
    times = fastest(once)
    floor = (2 if forward else 6) * n * width * vocabulary / speed * 1e3
    low, middle, high = (statistics.quantiles(times, n=10)[i] for i in (1, 4, 7))
    return {
        "provider": name,
        "n": n,
        "width": width,
        "vocabulary": vocabulary,
        "ms_p20": round(low, 3),
        "ms_p50": round(middle, 3),
        "ms_p80": round(high, 3),
        "peak_mib": round(peak),
        "floor_ms": round(floor, 3),
        "ratio": round(middle / floor, 3),
        "tflops_8192": round(speed / 1e12, 1),
    }


def bench(name: str, args: argparse.Namespace, speed: float) -> list[dict[str, Any]]:
    (n, width, vocabulary), budgets = SHAPES[name]
    rows = []
    for tokens in [n, *args.extra_n]:
        x = Inputs(tokens, width, vocabulary)
        runs = {f"r1lab-{mib}": r1lab(mib) for mib in (budgets if tokens == n else budgets[:1])}
        runs |= {provider: PROVIDERS[provider]() for provider in args.providers if tokens == n or provider != "liger"}
        runs["r1lab-forward"] = r1lab_forward(budgets[0])
        for provider, run in runs.items():
            try:
                row = measure(provider, run, x, speed, forward=provider.endswith("forward"))
            except Exception as error:
                print(f"{name} N {tokens} {provider}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            finally:
                x.hidden.grad = x.head.grad = None
                gc.collect()
                torch.cuda.empty_cache()
            rows.append({"shape": name, **row})
            print(
                "{shape} N {n} {provider}: {ms_p50} ms, {peak_mib} MiB, {ratio} x floor".format(**rows[-1]), flush=True
            )
    return rows


def described(rows: list[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": args.commit or commit() or "",
        "device": device_name(),
        "torch": torch.__version__,
        "triton": version("triton"),
    }
    command = "python -m tests.benchmark.bench_head " + " ".join(sys.argv[1:])
    return [
        {**about, "version": version(PACKAGES[row["provider"].split("-")[0]]), **row, "command": command.strip()}
        for row in rows
    ]


# ---- showing ---------------------------------------------------------------------------------------------------------


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("shape", "N", "provider", "p20", "p50", "p80 ms", "peak MiB", "x floor")
    for row in rows:
        keys = ("shape", "n", "provider", "ms_p20", "ms_p50", "ms_p80", "peak_mib", "ratio")
        table.add_row(*[str(row[key]) for key in keys])
    Console(width=120).print(table)


def about(*packages: str, given: str | None = None) -> dict[str, str]:
    """What a row says of the run that made it. given: the commit, where the source is no checkout."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": given or commit() or "",
        "device": device_name(),
        **{name: version(name) for name in packages},
    }


def print_table(
    rows: Sequence[dict[str, Any]], names: Sequence[str], title: str | None = None, width: int = 200
) -> None:
    """These columns of the rows."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*(name.replace("_", " ") for name in names), title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(row[name]) for name in names))
    Console(width=width).print(table)


def refuse_output(folder: Path, parser: argparse.ArgumentParser) -> None:
    """End where rows could not be written to a folder, before they are measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        parser.error(f"--output {folder} cannot be written ({error.strerror}): give a folder that can")


def append(rows: list[dict[str, Any]], path: Path) -> None:
    """To a table's end; columns that it does not have yet are empty above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known: list[dict[str, Any]] = []
    if path.exists():
        with open(path, newline="") as file:
            known = list(csv.DictReader(file))
    columns = list(dict.fromkeys([*(known[0] if known else []), *rows[0]]))
    mode, written = ("a", rows) if known and columns == list(known[0]) else ("w", [*known, *rows])
    with open(path, mode, newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        if mode == "w":
            writer.writeheader()
        writer.writerows(written)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Above: time against memory at the shape's N, one line of budgets for r1lab. Below: both against N."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    figure, axes = plt.subplots(3, len(shapes), figsize=(5 * len(shapes), 12), squeeze=False)
    for column, shape in enumerate(shapes):
        n = SHAPES[shape][0][0]
        mine = [row for row in rows if row["shape"] == shape and row["provider"] != "r1lab-forward"]
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in mine:
            groups.setdefault(row["provider"].split("-")[0], []).append(row)
        for provider, group in groups.items():
            style = {"marker": "o", "label": provider, "color": f"C{['r1lab', *PROVIDERS].index(provider)}"}
            at_n = sorted((row for row in group if row["n"] == n), key=lambda row: row["peak_mib"])
            axes[0][column].plot([r["peak_mib"] for r in at_n], [r["ms_p50"] for r in at_n], **style)
            first = f"r1lab-{SHAPES[shape][1][0]}"
            over_n = sorted((r for r in group if provider != "r1lab" or r["provider"] == first), key=lambda r: r["n"])
            axes[1][column].plot([r["n"] for r in over_n], [r["ms_p50"] for r in over_n], **style)
            axes[2][column].plot([r["n"] for r in over_n], [r["peak_mib"] for r in over_n], **style)
        axes[0][column].axhline(next(r["floor_ms"] for r in mine if r["n"] == n), color="grey", linestyle=":")
        axes[0][column].set(title="N {}, H {}, V {}".format(*SHAPES[shape][0]), xlabel="peak MiB", ylabel="ms")
        axes[1][column].set(xlabel="N", ylabel="ms")
        axes[2][column].set(xlabel="N", ylabel="peak MiB")
        for row in range(3):
            axes[row][column].set(xscale="log", yscale="log")
            for axis in (axes[row][column].xaxis, axes[row][column].yaxis):
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
            axes[row][column].minorticks_off()
            if row:
                sizes = sorted({r["n"] for r in mine})
                axes[row][column].set_xticks(sizes, [f"{size // 1024}k" for size in sizes])
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def needs_a_gpu(parser: argparse.ArgumentParser) -> None:
    """Ends with one line where there is none."""
    if not torch.cuda.is_available():
        parser.error(
            "this measures the kernels on a CUDA GPU, and there is none; `pytest tests/kernel` checks them here"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--providers", nargs="*", default=list(PROVIDERS), choices=list(PROVIDERS), help="beside r1lab")
    parser.add_argument("--extra-n", nargs="*", type=int, default=[], help="more N, multiples of 1024")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="of the source, where it is no checkout")
    args = parser.parse_args()
    if wrong := [n for n in args.extra_n if n <= 0 or n % 1024]:
        parser.error(f"--extra-n must be multiples of 1024, got {wrong[0]}")
    needs_a_gpu(parser)
    speed = flops_a_second()
    print(f"{device_name()}: {speed / 1e12:.0f} TFLOP/s", flush=True)
    rows = described([row for name in args.shapes for row in bench(name, args, speed)], args)
    show(rows)
    append(rows, args.output / "bench_head.csv")
    plot(rows, args.output / "bench_head.png")


if __name__ == "__main__":
    main()
