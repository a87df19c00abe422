"""Plans of a run's config: its models on the meta device, its step on fake tensors, for any number of GPUs."""

import copy
import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from r1lab.build import quantized_settings, rollout_sampling
from r1lab.dtype import dtype_of
from r1lab.model.adapter import with_adapters
from r1lab.model.fake import meta_model
from r1lab.model.moe import cast
from r1lab.model.mtp import MultiTokenPrediction
from r1lab.model.plan import QUANTISED, Models, Passes, Plan, Sharding, make_plan
from r1lab.model.quantize import quantize, refuse_sharded
from r1lab.model.weights import Weight, optimizer_bytes, weights_of
from r1lab.module.dry_run import DryHead, DryRun, Microbatch, Step
from r1lab.module.grpo import check_adapters
from r1lab.plan_inputs import (
    documents_of,
    largest_of,
    longest_prompt,
    teacher_config,
    transformers_config,
    weight_dtype,
)
from r1lab.strategy.fsdp import refuse_offload
from r1lab.strategy.precision import standard_precision
from r1lab.strategy.settings import Settings

# Where Lightning's optimizer is made by a function of ours, the class that it makes.
MADE = {"adamw_8bit": "AdamW8bit"}
MODULES = {
    "GRPO": "grpo",
    "PPO": "ppo",
    "OPD": "opd",
    "SFT": "sft",
    "Distill": "distill",
    "RewardModel": "reward_model",
}
RL = ("GRPO", "PPO", "OPD")


@dataclass(frozen=True)
class Variant:
    """What a plan may do otherwise than the config has it."""

    optimizer: str | None = None
    reference: str | None = None  # 8bit, nf4 or cpu; None: as configured
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
        config = config | {"precision": standard_precision(config["precision"])}
        self.config, self.settings, self.strategy = config, settings, config["strategy"]
        precision = config["reference"].get("quantize")
        if precision not in (None, *QUANTISED):
            raise ValueError(f"reference.quantize={precision} is not one of null, {', '.join(QUANTISED)}")
        if ".fsdp" in self.strategy["_target_"]:
            Settings(**{each.name: self.strategy[each.name] for each in fields(Settings)})  # refused as in training
        if config["adapter"]["rank"] is not None:
            check_adapters(config["reference"].get("refresh_every"), precision)
        self.module = config["module"]["_target_"].rpartition(".")[2]
        if self.module not in MODULES:
            raise ValueError(f"module={self.module} is not one of those that are planned: {', '.join(MODULES)}")
        self.dtype = weight_dtype(config["model"]["policy"].get("dtype") or "float32", config["precision"])
        self.policy = self._policy(transformers_config(config["model"]["policy"]), self.dtype)
        self.teacher = self._teacher()
        # A module beside the policy, trained with it, and one layer more in its passes.
        self.further: MultiTokenPrediction | None = None
        if self.module == "SFT" and config["module"].get("mtp_weight"):
            with torch.device("meta"):
                self.further = MultiTokenPrediction(self.policy, seed=0)
        name = config["optimizer"]["optimizer"]["_target_"].rpartition(".")[2]
        paged = "Paged" if config["optimizer"]["optimizer"].get("paged") else ""
        self.optimizer = f"{paged}{MADE[name]}" if name in MADE else name
        self.momentum = bool(config["optimizer"]["optimizer"].get("momentum"))
        optimizer_bytes(self.optimizer, [])  # refused before anything is computed
        self.prompt_tokens, self.assumed = longest_prompt(config, settings["prompt_tokens"])
        self.new_tokens = config["rollout"]["max_new_tokens"]
        self.documents = documents_of(config) if self.module == "SFT" else None
        # Each takes seconds, and changes of a plan share most of them.
        self.before, self.update = lru_cache(maxsize=None)(self._before), lru_cache(maxsize=None)(self._update)

    def _policy(self, shape: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
        """On the meta device, with its adapters."""
        whole = cast(meta_model(shape, dtype), dtype)
        with torch.device("meta"):
            return with_adapters(whole, **self.config["adapter"])

    def _teacher(self) -> PreTrainedModel | None:
        teacher = self.config["module"].get("teacher")
        if not teacher or not teacher["name"] or self.config["module"].get("mode") == "sft":
            return None
        whole = meta_model(*teacher_config(teacher["name"], teacher["dtype"]))
        with torch.device("meta"):
            return quantize(whole, teacher.get("quantize"))

    # ---- how much there is to do ----------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Tokens of a row."""
        return self.prompt_tokens + self.new_tokens

    @property
    def samples(self) -> bool:
        """Whether completions are sampled in training."""
        return self.module in RL or (self.module == "Distill" and self.config["module"]["student_fraction"] > 0)

    @property
    def group_size(self) -> int:
        return self.config["rollout"]["group_size"] if self.module in RL else 1

    def prompts(self, ranks: int) -> int:
        """Of a rollout, a rank's, as many as are sampled at a time."""
        if not self.samples:
            return 0
        if self.module in RL:
            number = math.ceil(self.config["rollout"]["batch_size"] / self.group_size / ranks)
        else:
            number = math.ceil(self.config["data"]["batch_size"] * self.config["module"]["student_fraction"] / ranks)
        at_a_time = self.config["rollout"]["engine"].get("batch_size") or 0
        return min(number, max(1, at_a_time // self.group_size)) if at_a_time else number

    def rows(self, ranks: int) -> int:
        """Of a rank, of a step of the optimizer."""
        if self.module in RL:
            batch = self.config["rollout"]["batch_size"] // self.config["module"]["num_minibatches"]
        else:
            batch = self.config["data"]["batch_size"] * (2 if self.module == "RewardModel" else 1)
        return max(1, math.ceil(batch / ranks))

    def microbatch(self, ranks: int) -> Microbatch:
        """The largest of a rank."""
        rows = self.rows(ranks)
        tokens = self.config["module"].get("microbatch_tokens", self.config["data"].get("microbatch_tokens", 0))
        if self.documents is not None:
            return largest_of(self.documents, rows, tokens)
        if tokens:
            rows = min(rows, max(1, tokens // self.width))
        return Microbatch(rows, self.width, rows * (1 if self.module == "RewardModel" else self.new_tokens))

    # ---- the plan ---------------------------------------------------------------------------------------------------

    def sharding(self, ranks: int, offload: bool = False) -> Sharding:
        name, own = self.strategy_of(ranks), self.strategy
        if name == "fsdp":
            refuse_offload(own.get("cpu_offload", False))
        param = own.get("param_dtype")
        # FSDP takes what it gathers from the precision; FSDP2 gathers weights as they are, unless told otherwise.
        if name == "fsdp" and param is None and self.config["precision"].endswith("mixed"):
            param = "bfloat16"
        reduce = own.get("reduce_dtype")
        return Sharding(
            ranks,
            sharded=name.startswith("fsdp"),
            flat=name == "fsdp",
            param_dtype=dtype_of(param, "strategy.param_dtype") if param else None,
            reduce_dtype=dtype_of(reduce, "strategy.reduce_dtype") if reduce else None,
            gather={"layers": "layer"}.get(own.get("sampler"), "whole"),
            reference_on_cpu=own.get("reference_on_cpu", False),
            cpu_offload=own.get("cpu_offload", False) or offload,
        )

    def strategy_of(self, ranks: int) -> str:
        """Its name; the default is of one process, in whose place FSDP2 is planned for several, and DDP of what
        bitsandbytes quantises."""
        module, _, function = self.strategy["_target_"].rpartition(".")
        name = module.rpartition(".")[2]
        name = function if name == "plain" else name
        quantised = quantized_settings(self.config)
        if name.startswith("fsdp"):
            refuse_sharded(quantised, name)
        if name == "single" and ranks > 1:
            return "ddp" if quantised else "fsdp2"
        return name

    def plan(self, ranks: int, variant: Variant | None = None) -> Plan:
        """Of a rank, of so many; by the config but for the variant."""
        variant = variant or Variant()
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
        passes = Passes(update, logprobs, rollout, copies, accumulated=microbatch.rows < self.rows(ranks))
        quantised = variant.reference if variant.reference in QUANTISED else self.config["reference"].get("quantize")
        models = self.models(quantised)
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
        policy, shape = self.policy, self.policy.config
        if compute or self.further is not None:
            shape = copy.deepcopy(shape)
            shape.num_hidden_layers += self.further is not None
            policy = self._policy(shape, compute or self.dtype)
        return DryRun.of(step, policy, self.teacher)

    def step(self, microbatch: Microbatch, compute: torch.dtype | None, checkpointing: bool) -> Step:
        """The config's, one prompt's group a rollout."""
        config, module, loss = self.config, self.config["module"], self.config["loss"]
        of_loss = self.module in RL
        updates = module.get("num_minibatches", 1) * module.get("num_iterations", 1)
        temperature = config["rollout"]["temperature"] if of_loss else module.get("temperature", 1.0)
        name = "torch" if config["kernel"]["name"] == "torch" else "triton"  # what auto takes on a GPU
        return Step(
            MODULES[self.module],
            microbatch,
            DryHead(name, config["kernel"]["chunk_bytes"], temperature),
            autocast=torch.bfloat16 if config["precision"].endswith("mixed") else None,
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
        return self.module in RL and self.config["loss"]["beta"] > 0 and self.config["loss"]["kl_placement"] != "none"

    @property
    def holds_reference(self) -> bool:
        """Whether it is a model of its own: of a policy with adapters it is the policy with these off."""
        return self.has_reference and self.config["adapter"]["rank"] is None

    def models(self, quantised: str | None) -> Models:
        policy = weights_of(self.policy)
        learns = {name for name, p in self.policy.named_parameters() if p.requires_grad}
        trained = [w for w in policy if w.name in learns]
        value, of_value = [], []
        further = []
        if self.further is not None:
            further = [Weight(n, tuple(p.shape), p.dtype, None, True) for n, p in self.further.named_parameters()]
        body = {f"{self.policy.base_model_prefix}.{name}" for name, _ in self.policy.base_model.named_parameters()}
        if self.module in ("PPO", "RewardModel"):
            width = self.policy.get_output_embeddings().weight.shape[1]
            # What is trained beside adapters stays in float32, as they do.
            in_half = self.config["precision"].endswith("true") and self.config["adapter"]["rank"] is None
            dtype = self.dtype if in_half else torch.float32
            value = [Weight("head.weight", (1, width), dtype, None, True), Weight("head.bias", (1,), dtype, None, True)]
            of_value = list(value)
        if self.module == "RewardModel":
            trained = [w for w in trained if w.name in body]
        if self.module == "PPO" and self.config["module"]["critic"] == "separate":
            of_value += [w for w in trained if w.name in body]
            value += [w for w in policy if w.name in body or not w.parameter]
        return Models(
            policy,
            trained=[*trained, *of_value, *further],
            value=value,
            further=further,
            reference=policy if self.holds_reference else (),
            reference_quantised=quantised,
            teacher=weights_of(self.teacher) if self.teacher is not None else (),
        )
