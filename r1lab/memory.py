"""python -m r1lab.memory experiment=NAME gpus=[1,8]: what a training run holds on each rank, and whether it fits.

Composes the config of the run, and allocates nothing: models are shapes on the meta device, and a training step is run
on fake tensors, see `r1lab.model.passes`. Every prompt is taken to be as long as the longest, every completion as long
as it may be. Prints a table, a column for each number of GPUs, and for what does not fit what would help, and by how
much. `output=plan.json` or `plan.csv` writes it as data.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from r1lab.analysis.memory_table import GIB, memory_table, records, verdict
from r1lab.build import build_task, make, rollout_sampling
from r1lab.entry import run
from r1lab.model.fake import meta_model
from r1lab.model.plan import QUANTISED, Models, Passes, Plan, Sharding, make_plan
from r1lab.model.policy import NAMED, model_folder
from r1lab.model.smollm2 import find_gguf
from r1lab.model.weights import Weight, counted, optimizer_bytes, weights_of
from r1lab.module.checkpoint import checkpoint_file, load_state, read_checkpoint
from r1lab.module.dry_run import DryHead, DryRun, Microbatch, Step
from r1lab.run_folder import write_whole
from r1lab.task.protocol import Task

ASSUMED_PROMPT = 512  # tokens, where no tokenizer is at hand
LOOKED_AT = 256  # prompts, for the longest
MOST_GPUS = 2**14
OWN = ("gpus", "gpu_memory_gib", "prompt_tokens", "output")
SECTIONS = (
    "task",
    "model",
    "adapter",
    "rollout",
    "loss",
    "kernel",
    "reference",
    "strategy",
    "optimizer",
    "data",
    "module",
    "reward",
)
# Where Lightning's optimizer is made by a function of ours, the class that it makes.
MADE = {"adamw_8bit": "AdamW8bit"}


def memory(config: DictConfig) -> None:
    """Plan, print, write."""
    settings = {key: OmegaConf.to_container(config, resolve=False)[key] for key in OWN}
    # Sections that need a running Hydra, such as callbacks, are none of a plan's business.
    given = {key: OmegaConf.to_container(config[key], resolve=True, throw_on_missing=True) for key in SECTIONS}
    given["precision"] = str(config.trainer.precision)
    check(settings)
    planner = Planner(given, settings)
    gpus = settings["gpus"] if isinstance(settings["gpus"], list) else [settings["gpus"]]
    plans = {ranks: planner.plan(ranks) for ranks in gpus}

    console = Console()
    console.print(planner.title(), soft_wrap=True, highlight=False)
    console.print(memory_table(plans, settings["gpu_memory_gib"]))
    for note in planner.notes(gpus):
        console.print(note, soft_wrap=True, highlight=False)
    short = [ranks for ranks, plan in plans.items() if plan.needed > settings["gpu_memory_gib"] * GIB]
    if short:
        console.print(f"\nof {max(short)} GPUs, each would need less by about", highlight=False)
        for change, saved in planner.advice(max(short)):
            console.print(f"  {saved / GIB:9.2f} GiB  {change}", soft_wrap=True, highlight=False)
        for line in planner.enough(max(short)):
            console.print(line, soft_wrap=True, highlight=False)
    if settings["output"]:
        write(Path(settings["output"]), plans, settings, planner)
        console.print(f"written to {settings['output']}", soft_wrap=True, highlight=False)


def check(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for settings of the plan's own that cannot be."""
    gpus = settings["gpus"] if isinstance(settings["gpus"], list) else [settings["gpus"]]
    if not gpus or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in gpus):
        raise ValueError(f"gpus must be a number from 1, or a list of them as [8,64], got {settings['gpus']!r}")
    memory_gib = settings["gpu_memory_gib"]
    if isinstance(memory_gib, bool) or not isinstance(memory_gib, (int, float)) or memory_gib <= 0:
        raise ValueError(f"gpu_memory_gib must be a number above 0, got {memory_gib!r}")
    prompt = settings["prompt_tokens"]
    if prompt is not None and (isinstance(prompt, bool) or not isinstance(prompt, int) or prompt < 1):
        raise ValueError(f"prompt_tokens must be a number from 1, or null for the task's, got {prompt!r}")
    if settings["output"] and Path(settings["output"]).suffix not in (".json", ".csv"):
        raise ValueError(f"output={settings['output']} must end in .json or .csv")


@dataclass(frozen=True)
class Variant:
    """What a plan may do otherwise than the config has it."""

    optimizer: str | None = None
    reference: str | None = None  # 8bit, nf4 or cpu
    halved: bool = False  # microbatches
    sampled: float = 1.0  # share of a rollout's completions that are sampled at a time
    chunk_bytes: int | None = None
    checkpointing: bool = False
    offload: bool = False
    layers: bool = False  # rollouts gather layer by layer


class Planner:
    """Plans of a run's config.

    Args:
        config: its sections, resolved; precision: the trainer's.
        settings: the plan's own.
    """

    def __init__(self, config: dict[str, Any], settings: dict[str, Any]):
        self.config, self.settings, self.strategy = config, settings, config["strategy"]
        precision = config["reference"].get("quantize")
        if precision not in (None, *QUANTISED):
            raise ValueError(f"reference.quantize={precision} is not one of null, {', '.join(QUANTISED)}")
        for name in ("param_dtype", "reduce_dtype"):
            if self.strategy.get(name) is not None:
                dtype_of(self.strategy[name], f"strategy.{name}")
        if config["adapter"]["rank"] is not None:
            raise ValueError("adapters are not planned yet: take adapter=none")
        self.module = config["module"]["_target_"].rpartition(".")[2]
        if self.module not in MODULES:
            raise ValueError(f"module={self.module} is not one of those that are planned: {', '.join(MODULES)}")
        self.dtype = weight_dtype(config["model"]["policy"].get("dtype") or "float32", config["precision"])
        self.policy = meta_model(transformers_config(config["model"]["policy"]), self.dtype)
        self.teacher = self._teacher()
        name = config["optimizer"]["optimizer"]["_target_"].rpartition(".")[2]
        paged = "Paged" if config["optimizer"]["optimizer"].get("paged") else ""
        self.optimizer = f"{paged}{MADE[name]}" if name in MADE else name
        self.momentum = bool(config["optimizer"]["optimizer"].get("momentum"))
        optimizer_bytes(self.optimizer, [])  # refused before anything is computed
        self.prompt_tokens, self.assumed = longest_prompt(config, settings["prompt_tokens"])
        self.new_tokens = config["rollout"]["max_new_tokens"]
        # Each takes seconds, and changes of a plan share most of them.
        self.before, self.update = lru_cache(maxsize=None)(self._before), lru_cache(maxsize=None)(self._update)

    def _teacher(self) -> PreTrainedModel | None:
        teacher = self.config["module"].get("teacher")
        if not teacher or not teacher["name"] or self.config["module"].get("mode") == "sft":
            return None
        return meta_model(*teacher_config(teacher["name"], teacher["dtype"]))

    # ---- how much there is to do ----------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Tokens of a row."""
        return self.prompt_tokens + self.new_tokens

    @property
    def samples(self) -> bool:
        """Whether completions are sampled in training."""
        return self.module in _RL or (self.module == "Distill" and self.config["module"]["student_fraction"] > 0)

    @property
    def group_size(self) -> int:
        return self.config["rollout"]["group_size"] if self.module in _RL else 1

    def prompts(self, ranks: int) -> int:
        """Of a rollout, a rank's, as many as are sampled at a time."""
        if not self.samples:
            return 0
        if self.module in _RL:
            number = math.ceil(self.config["rollout"]["batch_size"] / self.group_size / ranks)
        else:
            number = math.ceil(self.config["data"]["batch_size"] * self.config["module"]["student_fraction"] / ranks)
        at_a_time = self.config["rollout"]["engine"].get("batch_size") or 0
        return min(number, max(1, at_a_time // self.group_size)) if at_a_time else number

    def microbatch(self, ranks: int) -> Microbatch:
        """The largest of a rank."""
        if self.module in _RL:
            batch = self.config["rollout"]["batch_size"] // self.config["module"]["num_minibatches"]
        else:
            batch = self.config["data"]["batch_size"] * (2 if self.module == "RewardModel" else 1)
        rows = max(1, math.ceil(batch / ranks))
        tokens = self.config["module"].get("microbatch_tokens", self.config["data"].get("microbatch_tokens", 0))
        if tokens:
            rows = min(rows, max(1, tokens // self.width))
        return Microbatch(rows, self.width, rows * (1 if self.module == "RewardModel" else self.new_tokens))

    # ---- the plan ---------------------------------------------------------------------------------------------------

    def sharding(self, ranks: int, offload: bool = False) -> Sharding:
        name, own = self.strategy_of(ranks), self.strategy
        param = own.get("param_dtype")
        # FSDP takes what it gathers from the precision; FSDP2 gathers weights as they are, unless told otherwise.
        if name == "fsdp" and param is None and self.config["precision"].endswith("mixed"):
            param = "bfloat16"
        reduce = own.get("reduce_dtype")
        return Sharding(
            ranks,
            sharded=name.startswith("fsdp"),
            flat=name == "fsdp",
            param_dtype=dtype_of(param, "param_dtype") if param else None,
            reduce_dtype=dtype_of(reduce, "reduce_dtype") if reduce else None,
            gather={"layers": "layer"}.get(own.get("sampler"), "whole"),
            reference_on_cpu=own.get("reference_on_cpu", False),
            cpu_offload=own.get("cpu_offload", False) or offload,
        )

    def strategy_of(self, ranks: int) -> str:
        """Its name; the default is of one process, in whose place FSDP2 is planned for several."""
        module, _, function = self.strategy["_target_"].rpartition(".")
        name = module.rpartition(".")[2]
        name = function if name == "plain" else name
        return "fsdp2" if name == "single" and ranks > 1 else name

    def plan(self, ranks: int, variant: Variant | None = None) -> Plan:
        """Of a rank, of so many; by the config but for the variant."""
        variant = variant or Variant(reference=self.config["reference"].get("quantize"))
        checkpointing = variant.checkpointing or self.config["model"].get("activation_checkpointing", False)
        sharding = self.sharding(ranks, variant.offload)
        if variant.layers:
            sharding = replace(sharding, gather="layer")
        if variant.reference == "cpu":
            sharding = replace(sharding, reference_on_cpu=True)
        microbatch = of_rank = self.microbatch(ranks)
        if variant.halved and microbatch.rows > 1:
            rows = microbatch.rows // 2
            microbatch = Microbatch(rows, microbatch.width, microbatch.counted * rows // microbatch.rows)
        compute = sharding.param_dtype if sharding.sharded else None
        update, copies = self.update(microbatch, compute, checkpointing, variant.chunk_bytes)
        logprobs, rollout = self.before(of_rank, compute)
        if rollout:
            rollout = rollout.times(self.prompts(ranks) * variant.sampled)
            rollout = replace(rollout, peak=rollout.peak + self.kept_logits(ranks))
        passes = Passes(update, logprobs, rollout, copies)
        models = self.models(variant.reference if variant.reference in QUANTISED else None)
        optimizer = variant.optimizer or self.optimizer
        return make_plan(models, passes, optimizer, sharding, momentum=self.momentum)

    def kept_logits(self, ranks: int) -> int:
        """Of rollout=generate: float32 logits of all steps at its end, and three times so many at once."""
        if not self.config["rollout"]["engine"]["_target_"].endswith("TransformersGenerate"):
            return 0
        vocabulary = len(self.policy.get_output_embeddings().weight)
        return 3 * 4 * vocabulary * self.new_tokens * self.prompts(ranks) * self.group_size

    def token_bytes(self, ranks: int) -> int:
        """Of the cache of a rollout."""
        sharding = self.sharding(ranks)
        compute = sharding.param_dtype if sharding.sharded else None
        return self.before(self.microbatch(ranks), compute)[1].token

    def _before(self, microbatch: Microbatch, compute: torch.dtype | None):
        """Of a rollout of one prompt's group, to be multiplied."""
        return self._dry_run(self.step(microbatch, compute, False), compute).before()

    def _update(self, microbatch: Microbatch, compute: torch.dtype | None, checkpointing: bool, chunk: int | None):
        step = self.step(microbatch, compute, checkpointing)
        if chunk:
            step = replace(step, head=replace(step.head, chunk_bytes=chunk))
        return self._dry_run(step, compute).update()

    def _dry_run(self, step: Step, compute: torch.dtype | None) -> DryRun:
        policy = meta_model(self.policy.config, compute) if compute else self.policy
        return DryRun.of(step, policy, self.teacher)

    def step(self, microbatch: Microbatch, compute: torch.dtype | None, checkpointing: bool) -> Step:
        """The config's, one prompt's group a rollout."""
        config, module, loss = self.config, self.config["module"], self.config["loss"]
        of_loss = self.module in _RL
        updates = module.get("num_minibatches", 1) * module.get("num_iterations", 1)
        temperature = config["rollout"]["temperature"] if of_loss else module.get("temperature", 1.0)
        name = "torch" if config["kernel"]["name"] == "torch" else "triton"  # what auto takes on a GPU
        return Step(
            MODULES[self.module],
            microbatch,
            DryHead(name, config["kernel"]["chunk_bytes"], temperature),
            autocast=None if compute or not config["precision"].endswith("mixed") else torch.bfloat16,
            attention=config["model"]["policy"].get("attention"),
            checkpointing=checkpointing,
            prompts=1 if self.samples else 0,
            group_size=self.group_size,
            prompt_tokens=self.prompt_tokens,
            sampling=rollout_sampling(config),
            scored=of_loss and (updates > 1 or loss["kl_placement"] == "reward" or self.module == "OPD"),
            reference=self.has_reference,
            two_passes=of_loss and loss["ratio_level"] == "sequence",
            entropy="gradient" if of_loss and loss["entropy_coef"] else "value",
            critic=module.get("critic", "separate"),
            mode=module.get("mode", "sft"),
            k=module.get("num_draws", 1) if module.get("mode") == "sampled" else module.get("k", 1),
        )

    @property
    def has_reference(self) -> bool:
        return self.module in _RL and self.config["loss"]["beta"] > 0 and self.config["loss"]["kl_placement"] != "none"

    def models(self, quantised: str | None) -> Models:
        policy = weights_of(self.policy)
        value, trained = [], [w for w in policy if w.parameter]
        body = {f"{self.policy.base_model_prefix}.{name}" for name, _ in self.policy.base_model.named_parameters()}
        if self.module in ("PPO", "RewardModel"):
            width = self.policy.get_output_embeddings().weight.shape[1]
            dtype = self.dtype if self.config["precision"].endswith("true") else torch.float32
            value = [Weight("head.weight", (1, width), dtype, None, True), Weight("head.bias", (1,), dtype, None, True)]
        if self.module == "RewardModel":
            trained = [w for w in trained if w.name in body]
        if self.module == "PPO" and self.config["module"]["critic"] == "separate":
            value += [w for w in policy if w.name in body or not w.parameter]
        return Models(
            policy,
            trained=[*trained, *(w for w in value if w.parameter)],
            value=value,
            reference=policy if self.has_reference else (),
            reference_quantised=quantised,
            teacher=weights_of(self.teacher) if self.teacher is not None else (),
        )

    # ---- what is said -----------------------------------------------------------------------------------------------

    def title(self) -> str:
        total, active = counted(self.policy)
        sparse = f", {active:,} of them for a token" if active < total else ""
        name = self.config["model"]["name"] or self.policy.config.model_type
        length = f"{self.prompt_tokens}{' (assumed)' if self.assumed else ''} + {self.new_tokens}"
        lines = [
            f"{name}: {total:,} parameters{sparse}, {str(self.dtype).removeprefix('torch.')}",
            f"module {self.module}, {self.optimizer}, precision {self.config['precision']}; rows of {length} tokens",
        ]
        return "\n".join(lines)

    def notes(self, gpus: list[int]) -> list[str]:
        """What is worth knowing of the plans beside their numbers."""
        first = gpus[0]
        rows = self.microbatch(first).rows
        notes = [f"a microbatch is {rows} row{'s' * (rows > 1)} of {self.width} tokens"]
        if self.samples:
            rows = self.prompts(first) * self.group_size
            notes.append(
                f"a token of the cache is {self.token_bytes(first):,} bytes; {rows} rows are sampled at a time"
            )
        if self.module in _RL:
            most = self.config["rollout"]["batch_size"] // self.group_size
            idle = [n for n in gpus if n > most]
            if idle:
                notes.append(
                    f"rollout.batch_size / rollout.group_size = {most} prompts do not go round {min(idle)} GPUs or "
                    f"more: they are planned with one each, as with rollout.batch_size={min(idle) * self.group_size}"
                )
        return notes + self.expert_notes(gpus)

    def expert_notes(self, gpus: list[int]) -> list[str]:
        """Where a layer's experts, which are one tensor, have fewer of them than there are ranks to share it."""
        experts = min((w.shape[0] for w in weights_of(self.policy) if w.parameter and len(w.shape) == 3), default=0)
        by_rows = [n for n in gpus if self.sharding(n).sharded and not self.sharding(n).flat]
        if not experts or max(by_rows, default=0) <= experts:
            return []
        return [f"fsdp2 shards a layer's {experts} experts whole: over {experts} GPUs a rank holds no less of them"]

    def variants(self, ranks: int) -> dict[str, Variant]:
        """Changes by name. Of models in shards bitsandbytes quantises nothing, and of whole ones nothing is moved."""
        torch_head = self.config["kernel"]["name"] == "torch"
        chunk = (self.config["kernel"]["chunk_bytes"] or (1 << 28 if torch_head else 1 << 30)) // 4
        found = {
            "model.activation_checkpointing=true": Variant(checkpointing=True),
            "half the module.microbatch_tokens": Variant(halved=True),
            f"kernel.chunk_bytes={chunk}": Variant(chunk_bytes=chunk),
        }
        if self.samples:
            found["half as many rows at a time, by rollout.engine.batch_size"] = Variant(sampled=0.5)
        if self.sharding(ranks).sharded:
            on_host = {"strategy.reference_on_cpu=true": Variant(reference="cpu")} if self.has_reference else {}
            if self.samples and self.sharding(ranks).gather == "whole":
                found["strategy.sampler=layers"] = Variant(layers=True)
            offload = "strategy.cpu_offload=true: policy, gradients and optimizer on the host"
            return found | on_host | {offload: Variant(offload=True)}
        found["optimizer=adamw_8bit"] = Variant(optimizer="AdamW8bit")
        if self.has_reference:
            found |= {f"reference.quantize={how}": Variant(reference=how) for how in QUANTISED}
        return found

    def advice(self, ranks: int) -> list[tuple[str, int]]:
        """Changes, and the bytes that each saves by itself; the largest first."""
        own = self.plan(ranks)
        found = {text: own.needed - self.plan(ranks, variant).needed for text, variant in self.variants(ranks).items()}
        if self.sharding(ranks).sharded and ranks > 1:
            found[f"gpus={2 * ranks}"] = own.needed - self.plan(2 * ranks).needed
        worth = [(text, saved) for text, saved in found.items() if saved > own.needed // 100]
        return sorted(worth, key=lambda pair: -pair[1])

    def enough(self, ranks: int) -> list[str]:
        """How many GPUs would do, as it is and with all changes at once."""
        chunk = next(v.chunk_bytes for v in self.variants(ranks).values() if v.chunk_bytes)
        every = Variant(halved=True, sampled=0.5, chunk_bytes=chunk, checkpointing=True, layers=True)
        if not self.sharding(ranks).sharded:
            every = replace(every, optimizer="AdamW8bit", reference="nf4" if self.has_reference else None)
        peak = self.plan(ranks, every)
        lines = [f"with all of these but what is moved to the host, of {ranks}: {peak.needed / GIB:,.2f} GiB"]
        if not self.sharding(ranks).sharded:
            lines.append("more GPUs share its weights with strategy=fsdp2, not with single or ddp")
            every = replace(every, optimizer=None, reference=None)
        if self.strategy_of(2) == "ddp":
            return lines
        for how, variant in (("as it is", None), ("with all of these", every)):
            number = self._enough(variant)
            what = f"{number} GPUs are enough" if number else f"no number of GPUs up to {MOST_GPUS} is enough"
            lines.append(f"{how}, {what}")
        gathered = peak.phases["update"].get("gathered weights", 0)
        if not number and gathered > peak.needed // 3:
            lines.append(
                f"{gathered / GIB:,.2f} GiB are weights that are gathered, a layer and the next whole: to share a "
                "layer takes expert or tensor parallelism, which these strategies are not"
            )
        return lines

    def _enough(self, variant: Variant | None) -> int | None:
        sizes = (2**power for power in range(1, MOST_GPUS.bit_length()))
        room = self.settings["gpu_memory_gib"] * GIB
        return next((ranks for ranks in sizes if self.plan(ranks, variant).needed <= room), None)


MODULES = {
    "GRPO": "grpo",
    "PPO": "ppo",
    "OPD": "opd",
    "SFT": "sft",
    "Distill": "distill",
    "RewardModel": "reward_model",
}
_RL = ("GRPO", "PPO", "OPD")


def dtype_of(name: str, setting: str) -> torch.dtype:
    """Raises ValueError for what is no dtype of weights."""
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{setting}={name} is no dtype of weights: give float32, bfloat16 or float16")
    return dtype


def weight_dtype(name: str, precision: str) -> torch.dtype:
    """Of the weights: with a precision such as bf16-true the trainer's, else the model's own."""
    kinds = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
    return kinds.get(precision) or dtype_of(name, "model.policy.dtype")


def transformers_config(policy: Mapping[str, Any]) -> PreTrainedConfig:
    """Of a `model.policy` of the config: its own `config`, or that of the folder that it names.

    Raises ValueError where there is no config.json to read.
    """
    if policy.get("config") and not policy.get("name"):
        own = dict(policy["config"])
        return AutoConfig.for_model(own.pop("model_type"), **own)
    return folder_config(policy["name"])


def folder_config(name: str) -> PreTrainedConfig:
    if name == "smollm2":
        gguf = find_gguf()
        return AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    try:
        config = AutoConfig.from_pretrained(model_folder(name), local_files_only=True)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"model.name={name}: its config.json is needed, and is neither in such a folder nor in the hub's cache: "
            f"`hf download {name} config.json` fetches it alone ({' '.join(str(error).split())[:120]})"
        ) from None
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of the weights on disk; training has them in its own dtype
    return config


def teacher_config(name: str, dtype: str | None) -> tuple[PreTrainedConfig, torch.dtype]:
    """Of a checkpoint, a run folder or a Hugging Face folder: the config and the dtype of its weights."""
    file = None if name in NAMED else checkpoint_file(name)
    if file is None:
        return folder_config(name), dtype_of(dtype or "float32", "module.teacher.dtype")
    checkpoint = read_checkpoint(file)
    own = next(x.dtype for key, x in checkpoint["state_dict"].items() if key.startswith("policy."))
    packed = load_state(checkpoint)["model"]["config"]
    return AutoConfig.for_model(**packed), dtype_of(dtype, "module.teacher.dtype") if dtype else own


def longest_prompt(config: Mapping[str, Any], given: int | None) -> tuple[int, bool]:
    """Tokens of the longest of the task's first prompts, and whether they are only assumed."""
    if given is not None:
        return given, False
    own = config["model"]["tokenizer"]
    name = own.get("name")
    if own["_target_"].endswith("load_tokenizer") and name not in NAMED and not Path(str(name)).expanduser().is_dir():
        return ASSUMED_PROMPT, True
    task: Task = build_task(config, make(own))
    return max(len(task.sample("train", i).ids) for i in range(LOOKED_AT)), False


def write(path: Path, plans: Mapping[int, Plan], settings: Mapping[str, Any], planner: Planner) -> None:
    """The plans as data. Raises OSError where that cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        write_whole(path, pd.DataFrame(records(plans)).to_csv(index=False))
        return
    total, active = counted(planner.policy)
    data = {
        "settings": dict(settings),
        "parameters": total,
        "active_parameters": active,
        "plans": [
            {
                "gpus": ranks,
                "held": plan.held,
                "phases": plan.phases,
                "host": plan.host,
                "peak": plan.peak,
                "largest_phase": plan.largest,
                "needed": plan.needed,
                "fits": verdict(plan, settings["gpu_memory_gib"])[0],
            }
            for ranks, plan in plans.items()
        ],
    }
    write_whole(path, json.dumps(data, indent=2) + "\n")


def main() -> None:
    run(memory, "memory")


if __name__ == "__main__":
    main()
