"""What bench_scaling trains, and how: shapes, the settings of a run, its plan, and its ranks as processes."""

import os
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1lab.analysis.number import counted
from r1lab.analysis.run import Run, load_run
from r1lab.entry import CONF
from r1lab.memory import OWN, SECTIONS
from r1lab.model import weights
from r1lab.model.plan import Plan
from r1lab.planner import Planner
from r1lab.run_folder import remove_unbegun

ROOT = Path(__file__).parents[2]
AUTO, EACH = "auto", "each"  # in the place of a shape
# A precision: float32 shards, gathered in bfloat16 as in bf16-mixed, but without autocast, for which nothing is left to
# cast, and which only costs the host time.
GATHERED = "bf16-gathered"
WARMUP, PROFILED = 2, 2  # first and last steps, which are not timed
# Of a step of GRPO, whose seconds are read.
PARTS = ("rollout", "slowest_rollout", "gather", "logprob", "update")
PATIENCE = 40  # seconds in which torchrun, asked to stop, ends its ranks; it kills them after 30
# Of the memory that the host has, ranks may take this share.
HOST_SHARE = 0.9


@dataclass(frozen=True)
class Shape:
    """A mixture of experts in DeepSeek-V3's architecture, in the words of the tiny base, and a rank's share of work.

    model: a choice of conf/model. config: what it has otherwise. documents, completions: a rank's, of a step of SFT and
    of a rollout.
    """

    model: str = "moe_145m"
    config: dict[str, int] = field(default_factory=dict)
    checkpointing: bool = True
    documents: int = 512
    completions: int = 256
    group_size: int = 16
    new_tokens: int = 48

    @property
    def overrides(self) -> list[str]:
        own = [f"model.policy.config.{name}={value}" for name, value in self.config.items()]
        own += ["model.policy._target_=tests.benchmark.scaling_weights.repeated"] if own else []
        return [f"model={self.model}", *own, f"model.activation_checkpointing={str(self.checkpointing).lower()}"]


def moe(width: int, layers: int, experts: int, of_expert: int, per_token: int) -> Shape:
    """Wider and deeper than moe_145m; the other sizes follow from the width as DeepSeek's do, roughly."""
    heads = width // 64
    config = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "moe_intermediate_size": of_expert,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "q_lora_rank": width // 2,
        "kv_lora_rank": width // 4,
        "n_routed_experts": experts,
        "num_experts_per_tok": per_token,
    }
    # Documents of 40 tokens, one microbatch. So many completions that sampling, in which ranks wait for the slowest's
    # host, is less than half of a step.
    return Shape(config=config, documents=1000, completions=2048)


# From the smallest on; the names are their parameters, tiny's is a million.
SHAPES: dict[str, Shape] = {
    "tiny": Shape("tiny_untrained", {}, False, documents=16, completions=32, group_size=4, new_tokens=16),
    "145m": Shape(checkpointing=False),
    "0.5b": moe(768, 12, 32, 512, 4),
    "1b": moe(1024, 16, 32, 640, 4),
    "2b": moe(1280, 18, 48, 640, 6),
    "3b": moe(1536, 20, 48, 768, 6),
    "5b": moe(1792, 22, 64, 640, 6),
    "7b": moe(2048, 24, 64, 768, 6),
    "15b": moe(2048, 27, 64, 1408, 6),
}


@dataclass(frozen=True)
class Configuration:
    """What is trained how on how many ranks. reference: sharded or cpu, in GRPO; empty in SFT."""

    model: str
    task: str
    strategy: str
    reference: str
    gpus: int

    def __str__(self) -> str:
        reference = f", reference {self.reference}" if self.reference else ""
        return f"{self.model} {self.task} {self.strategy}{reference}, {counted(self.gpus, 'rank')}"


@dataclass(frozen=True)
class Settings:
    """Of all runs. precision: the trainer's, or GATHERED. given: settings of the command line, which come last."""

    device: str
    steps: int
    precision: str
    timeout: float
    given: tuple[str, ...] = ()


# ---- the settings of a run -------------------------------------------------------------------------------------------


def overrides(configuration: Configuration, settings: Settings, *, share: int | None = None) -> list[str]:
    """What `r1lab.train` is told, but for its length and what watches it.

    Args:
        share: the number of ranks that a step's work is meant for; None: as many as there are, so that it grows with
            them (weak scaling).
    """
    shape, ranks = SHAPES[configuration.model], share or configuration.gpus
    rl = configuration.task == "grpo"
    of_task = {
        "sft": [
            f"data.batch_size={shape.documents * ranks}",
            "data.microbatch_tokens=40000",
        ],
        "grpo": [
            f"rollout.batch_size={shape.completions * ranks}",
            f"rollout.group_size={shape.group_size}",
            "module.microbatch_tokens=40000",
            "reward.accuracy._target_=tests.invariant.scripted.even",  # an untrained model earns no other
            # Every step of every run is to be the same work: with 1e-6, short completions were found to pay within ten
            # steps, by two ranks' 2048 sooner than by one's.
            "optimizer.lr=1e-8",
        ],
    }
    return [
        f"experiment={'r1zero' if rl else 'moe_base'}",
        *shape.overrides,
        *of_task[configuration.task],
        f"rollout.max_new_tokens={shape.new_tokens}",
        f"trainer.accelerator={'gpu' if settings.device == 'cuda' else 'cpu'}",
        f"trainer.devices={configuration.gpus}",
        f"trainer.precision={'32-true' if settings.precision == GATHERED else settings.precision}",
        "+trainer.limit_val_batches=0",
        "evaluate=false",
        "show=false",
        *sharding(configuration, settings),
        *settings.given,
    ]


def sharding(configuration: Configuration, settings: Settings) -> list[str]:
    """The settings of the strategy."""
    if configuration.strategy == "single":
        return ["strategy=single"]
    own = [f"strategy={configuration.strategy}"]
    # What is never validated needs no whole copy to sample from.
    own += ["strategy.sampler=layers"] if configuration.task == "sft" else []
    own += ["strategy.reference_on_cpu=true"] if configuration.reference == "cpu" else []
    if settings.precision in (GATHERED, "bf16-mixed"):
        own += ["strategy.param_dtype=bfloat16", "strategy.reduce_dtype=float32"]
    return own


def measured(settings: Settings) -> list[str]:
    """The length of a run that is measured, and what watches it."""
    return [
        f"trainer.max_steps={settings.steps}",
        "callback=communication",
        f"callback.communication.steps={PROFILED}",
    ]


# ---- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """parameters: of the policy. host: bytes that all ranks' models take on the host, before they are in shards."""

    parameters: int
    plan: Plan
    host: int


@cache
def planned(configuration: Configuration, settings: Settings) -> Planned:
    """By r1lab.memory."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose("memory", overrides(configuration, settings))
        finally:
            remove_unbegun()  # Hydra has the folder of a run made before it is told that a plan needs none
    own = {key: OmegaConf.to_container(config, resolve=False)[key] for key in OWN}
    given = {key: OmegaConf.to_container(config[key], resolve=True, throw_on_missing=True) for key in SECTIONS}
    planner = Planner(given | {"precision": str(config.trainer.precision)}, own)
    parameters, plan = weights.counted(planner.policy)[0], planner.plan(configuration.gpus)
    # Policy and reference lie there whole, in float32, and the copy to sample from on its way to the device.
    whole = 4 * parameters * (3 if configuration.task == "grpo" else 1)
    whole += weights.total(planner.models(None).further)
    if "strategy.in_turn=true" in settings.given:  # of the other ranks there is what is left behind
        return Planned(parameters, plan, whole + configuration.gpus * sum(plan.host.values()))
    return Planned(parameters, plan, configuration.gpus * whole)


def fits(found: Planned, memory: float, host: float) -> bool:
    """In so many bytes of a GPU and of the host."""
    return found.plan.needed <= memory and found.host <= HOST_SHARE * host


def largest(configuration: Configuration, settings: Settings, memory: float, host: float) -> str | None:
    """The name of the largest shape that fits so many ranks; None: none does."""
    names = list(SHAPES)

    def too_large(name: str) -> bool:
        return not fits(planned(replace(configuration, model=name), settings), memory, host)

    # Needs grow with the shape, but for 145m, which alone keeps all activations; no GPU of today is so small.
    number = bisect_left(names, True, key=too_large)
    return names[number - 1] if number else None


def host_bytes() -> float:
    """The memory that processes may have on this machine, or in this container."""
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(here, int(limit)) if limit.isdigit() else here


# ---- processes -------------------------------------------------------------------------------------------------------


class Ranks:
    """`python -m torch.distributed.run ... -m r1lab.train ...`, going on; what it says is in `said.txt` beside the run.

    Args:
        folder: of the run. gpus: ranks.
    """

    def __init__(self, told: Sequence[str], folder: Path, gpus: int):
        self.folder, self.gpus = folder, gpus
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "said.txt"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // gpus)))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local_addr=127.0.0.1"]
        command += [f"--nproc_per_node={gpus}", "-m", "r1lab.train", *told, f"hydra.run.dir={folder}"]
        with open(self.path, "w") as out:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)

    def wait(self, timeout: float) -> int:
        """The exit status. Raises RuntimeError where it takes longer."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            said = self.said()  # what it says of its end is ours
            self.stop()
            raise RuntimeError(f"not done after {timeout:g} s, and stopped (--timeout): {said}") from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all of its processes."""
        ranks = list(self.pids().values())
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in ranks:
            if f"{self.folder}" in _read(Path(f"/proc/{pid}/cmdline")):  # and no other process by now
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> dict[int, int]:
        """Rank -> process, of those that run."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            fields = _read(path / "stat").rpartition(") ")[2].split()
            if len(fields) > 1 and int(fields[1]) == self.process.pid and fields[0] != "Z":
                environment = dict(x.partition("=")[::2] for x in _read(path / "environ").split("\0"))
                if "RANK" in environment:
                    found[int(environment["RANK"])] = int(path.name)
        return found

    def said(self) -> str:
        """Why it ended, as far as it says."""
        return reason(self.path.read_text(errors="replace"))


def reason(text: str) -> str:
    """The lines of what a failed run said that tell why: r1lab's own and torchrun's, else the last ones."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("error: ")]
    # Of the first failure, which torchrun tells last.
    start = max((i for i, line in enumerate(lines) if line.startswith("Root Cause")), default=len(lines))
    told = [line for line in lines[start:] if line.startswith(("rank :", "exitcode :", "traceback : Signal"))]
    return "; ".join(dict.fromkeys([*ours, *told] or lines[-5:]))[:800]


def _read(path: Path) -> str:
    """Empty where the process has ended, or is another's."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def train(told: Sequence[str], folder: Path, gpus: int, timeout: float) -> Run:
    """A run to its end. Raises RuntimeError with what it says where it fails."""
    ranks = Ranks(told, folder, gpus)
    if status := ranks.wait(timeout):
        raise RuntimeError(f"exit status {status}: {ranks.said()}")
    return load_run(folder)


def gpu_bytes() -> int | None:
    """Of the first GPU; None without one."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


# ---- what a run says -------------------------------------------------------------------------------------------------


def figures(run: Run, task: str) -> dict[str, Any]:
    """Of a run that was measured: tokens are those that count in the loss, seconds those of the steps themselves."""
    steps = run.metrics
    timed = steps.iloc[WARMUP : len(steps) - PROFILED]
    seconds = timed["time/step_seconds"]
    if task == "sft":
        tokens = timed["loss/tokens"]
    else:
        tokens = timed["rollout/completion_length"] * run.config["rollout"]["batch_size"]
    found = {
        "timed_steps": len(timed),
        "tokens_per_step": round(float(tokens.mean())),
        "tokens_per_second": round(float(tokens.sum() / seconds.sum()), 1),
        **{f"step_seconds_p{share}": round(float(seconds.quantile(share / 100)), 4) for share in (20, 50, 80)},
        **{f"{part}_seconds_p50": _median(timed, f"time/{part}_seconds") for part in PARTS},
        "train_seconds": run.summary.get("train_seconds"),
    }
    for name in ("share", "exposed"):
        values = steps.get(f"communication/{name}")
        found[f"communication_{name}"] = "" if values is None else round(float(values.dropna().iloc[-1]), 4)
    peak = steps.get("memory/peak_mib")
    return found | {
        "measured_mib": "" if peak is None else round(float(peak.max()), 1),
        "losses": " ".join(f"{value:.5g}" for value in steps["loss/total"]),
        "step_seconds": " ".join(f"{value:.4g}" for value in steps["time/step_seconds"]),
    }


def _median(steps: pd.DataFrame, name: str) -> float | str:
    """Empty where there is no such thing in the task."""
    return round(float(steps[name].median()), 4) if name in steps else ""


def seconds_since(started: float) -> float:
    return round(time.monotonic() - started, 1)
