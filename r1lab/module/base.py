"""What every LightningModule around a policy shares: its weights, its optimizer, its validation, its checkpoint."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.model.capacity import check_token_ids
from r1lab.model.flops import forward_cost
from r1lab.model.memory import MIB, memory_mib, trainable, trained, weights_mib
from r1lab.model.moe import biases, cast, routers, set_biases
from r1lab.model.routing import Routing
from r1lab.model.row_check import check_rows
from r1lab.module.checkpoint import load_state, note_prompt_start, save_state
from r1lab.module.evaluation import evaluate
from r1lab.module.head import LinearHead
from r1lab.module.head_check import check_head
from r1lab.module.realised_update import Sample, can_measure, choose, measure, metric_prefix, ratios, rounding_warning
from r1lab.rollout.collate import Batch
from r1lab.rollout.engine import RolloutEngine
from r1lab.rollout.sampling import Sampling
from r1lab.strategy.sharded import as_forward, clip_gradient, copy_whole, is_sharded, turn
from r1lab.types import Prompt

T = TypeVar("T")

log = logging.getLogger(__name__)


class PolicyModule(L.LightningModule):
    """A policy that is trained by optimizer steps of its own and scored on the validation split.

    Args:
        policy: makes the model to be trained.
        tokenizer: its tokenizer.
        engine: samples completions.
        is_correct: the task's checker.
        head: applies the models' output heads.
        optimizer: parameters -> optimizer. scheduler: optimizer -> learning-rate schedule, stepped each step.
        gradient_clip: largest norm of the gradient.
        max_bad_steps: steps with a non-finite loss or gradient that are skipped before training stops.
        validation_sampling: how validation samples; evaluation_seed keys it.
        bias_rate, balance_weight: of a mixture of experts with DeepSeek-V3's routers, how far a step moves the bias of
            an expert whose load is not the mean (gamma), and the weight of the sequence-wise balance loss (alpha); 0
            leaves the bias, and the loss, alone.
    """

    sharded_beside = ("reference", "value_model")  # beside the policy
    padding_free = False  # whether a microbatch is one row of its sequences
    steadier = ""  # what else than a lower learning rate may keep numbers finite, for the error's message

    def __init__(
        self,
        *,
        policy: Callable[[], PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        engine: RolloutEngine,
        is_correct: Callable[[Prompt, str], float],
        head: LinearHead,
        optimizer: Callable,
        scheduler: Callable,
        gradient_clip: float,
        max_bad_steps: int,
        validation_sampling: Sampling,
        evaluation_seed: int,
        bias_rate: float,
        balance_weight: float,
    ):
        super().__init__()
        for name, value in (("bias_rate", bias_rate), ("balance_weight", balance_weight)):
            if value < 0:
                raise ValueError(f"routing.{name} must be at least 0, got {value}")
        self.automatic_optimization = False
        self._make_policy, self.tokenizer, self.engine, self.is_correct = policy, tokenizer, engine, is_correct
        self.head = head
        self._make_optimizer, self._make_scheduler, self.gradient_clip = optimizer, scheduler, gradient_clip
        self.max_bad_steps = max_bad_steps
        self.validation_sampling, self.evaluation_seed = validation_sampling, evaluation_seed
        self.bias_rate, self.balance_weight = bias_rate, balance_weight
        self.policy: PreTrainedModel | None = None
        self.reference: nn.Module | None = None  # this and the next: only some algorithms need them
        self.value_model: nn.Module | None = None
        self.step = 0  # training steps done, skipped ones included
        self.bad_steps = 0  # skipped ones
        self._whole: tuple[PreTrainedModel] | None = None  # of a policy in shards, for rollouts
        self._whole_step: int | None = None  # the step that the copy is of
        self.routing: Routing | None = None  # of the routers, where there are any
        self._biases: dict[str, Tensor] = {}  # of each model with routers, as training starts or goes on
        self.run_config: dict[str, Any] = {}  # the resolved config, kept in checkpoints
        self._samples: list[Sample] = []  # of each parameter group, whose updates are measured; none: not measured
        self._measured_steps = 0  # of this fit, in which an update was proposed

    def configure_model(self) -> None:
        """Make the models, and put them in shards where the strategy of the trainer does that; once each."""
        strategy = self._trainer and self.trainer.strategy
        alone = nullcontext()
        if getattr(strategy, "in_turn", False):
            alone = turn(strategy.local_rank, strategy.num_processes, strategy.barrier)
        with alone:
            self.make_models()
            for name, found in self.routers_of_children().items():
                self._biases.setdefault(name, biases(found))  # exact, before a strategy casts the model
            shard = getattr(strategy, "shard", None)
            if shard is not None and not is_sharded(self.policy):
                self.shard_models(shard)

    def make_models(self) -> None:
        """Make what is missing."""
        if self.policy is None:
            self.policy = self._make_policy()
            name = self.run_config.get("model", {}).get("name")
            check_token_ids(self.policy, self.tokenizer, f"model.name={name}")

    def shard_models(self, shard: Callable[..., nn.Module]) -> None:
        """Put all that is trained, and the reference, in shards.

        Args:
            shard: a model -> that model in shards, see `r1lab.strategy.fsdp2.FSDP2.shard`.
        """
        if self.trainer.strategy.sampler == "whole":
            strategy = self.trainer.strategy
            whole = self._make_policy().requires_grad_(False)
            if strategy.param_dtype is not None:
                whole = cast(whole, strategy.param_dtype)
            # No submodule: it is neither trained nor saved.
            self._whole = (whole.to(strategy.root_device),)
        cost = forward_cost(self.policy)
        self.policy = shard(self.policy, head_apart=self.head.sharded)
        self.policy.forward_cost = cost  # shards do not tell it
        for name in self.sharded_beside:
            if (model := getattr(self, name)) is not None:
                own = forward_cost(model) if name == "mtp" else cost
                setattr(self, name, shard(model, frozen=name == "reference"))
                getattr(self, name).forward_cost = own

    @property
    def is_sharded(self) -> bool:
        return is_sharded(self.policy)

    @property
    def sampler(self) -> PreTrainedModel:
        """The model that is sampled from: the policy, or the whole copy of one in shards, brought up to date, in the
        dtype in which shards are gathered: that of the passes whose logprobs are trained.

        All ranks must ask for it, and of a policy that is sampled from layer by layer all must sample as often.
        """
        if self._whole is None:
            return self.policy
        return self._up_to_date(self.trainer.strategy.param_dtype or self.policy.dtype)

    def whole(self) -> PreTrainedModel:
        """The policy, or a whole copy of one in shards, in its own dtype, which all ranks make together."""
        if self.is_sharded and self._whole is None:
            self._whole = (self._make_policy().requires_grad_(False),)
        return self.policy if self._whole is None else self._up_to_date(self.policy.dtype)

    def _up_to_date(self, dtype: torch.dtype) -> PreTrainedModel:
        (whole,) = self._whole
        if whole.dtype != dtype:
            cast(whole, dtype)
            self._whole_step = None
        if self._whole_step != self.step:
            copy_whole(self.policy, whole)
            self._whole_step = self.step
        return whole

    def even(self, parts: Sequence[T]) -> list[tuple[T, bool]]:
        """Microbatches, each with whether it counts. Of models in shards all ranks do as many passes as the rank with
        most of them: what is added does not count."""
        if not self.is_sharded:
            return [(part, True) for part in parts]
        most = int(self.all_gather(torch.tensor(len(parts), device=self.device)).max())
        return [(part, True) for part in parts] + [(parts[0], False)] * (most - len(parts))

    def refuse_ranks(self, ranks: int) -> None:
        """Raise ValueError for a number of ranks that a step's work does not divide among."""

    def on_fit_start(self) -> None:
        self.refuse_ranks(self.trainer.world_size)
        if self.is_sharded and self._whole is None:
            self.engine.everyone_done = partial(self.trainer.strategy.reduce_boolean_decision, all=True)
        self.check_models()
        self.watch_routers()

    def check_models(self) -> None:
        """Raise ValueError for a model whose logprobs training would compute otherwise than the model itself does."""
        for model in self.scored_models():
            sharded = is_sharded(model)
            options = {"sharded": sharded, "device": self.device if sharded else None}
            check_head(model, **options)
            as_forward(partial(check_rows, model.base_model, self.padding_free, **options), model)

    def scored_models(self) -> list[PreTrainedModel]:
        """The models whose logprobs a step computes."""
        return [model for model in (self.policy, self.reference) if model is not None]

    def on_train_start(self) -> None:
        self._measured_steps = 0
        optimizer = self.optimizers(use_pl_optimizer=False)
        self._samples = [choose(group["params"]) for group in optimizer.param_groups] if can_measure(optimizer) else []
        if not self._samples and self.trainer.is_global_zero:
            log.info(
                f"optimizer/realised is not logged: how {type(optimizer).__name__} updates a single element is not "
                "known; optimizer=adamw logs it"
            )

    def watch_routers(self) -> None:
        models = self.routed_models()
        if not routers(*models):
            self.refuse_routing()
            return
        for name, found in self.routers_of_children().items():
            set_biases(self._biases[name], found)
        self.routing = Routing(*models, balance=self.balance_weight > 0)

    def on_fit_end(self) -> None:
        if self._whole is not None:
            self.whole()  # for the scores after the fit, while the ranks are still together
        self.engine.everyone_done = None
        if self.routing is not None:
            self.routing.close()

    def routers_of_children(self) -> dict[str, dict[str, nn.Module]]:
        """Of each model that has routers, trained or not."""
        return {name: found for name, model in self.named_children() if (found := routers(model))}

    def routed_models(self) -> list[nn.Module]:
        """What is trained and may have routers."""
        return [self.policy]

    def refuse_routing(self) -> None:
        """Raise ValueError where routers are to be steered, and there are none."""
        asked = {"routing.bias_rate": self.bias_rate, "routing.balance_weight": self.balance_weight}
        if wrong := [f"{name}={value}" for name, value in asked.items() if value]:
            raise ValueError(
                f"{' and '.join(wrong)}: the model has no router in DeepSeek-V3's manner to balance; take "
                "routing=frozen, or a mixture of experts"
            )

    def configure_optimizers(self):
        optimizer = self._make_optimizer(self.parameter_groups())
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer=optimizer)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer trains. Each group's gradient is clipped by itself; a `name` leads the group's metrics."""
        return [{"params": trainable(self.policy)}]

    def exchange(self, last: bool) -> AbstractContextManager:
        """Ranks of DDP exchange gradients in the last microbatch alone, so they need not have equally many; of shards
        they do in each, see `even`."""
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return nullcontext() if last or block is None else block()

    def watch(self, batch: Batch, counts: bool = True) -> AbstractContextManager:
        """Inside, passes of the policy with gradient, forward and backward, count in its experts' load (as padding,
        where the batch does not count), and go where the batch says."""
        if self.routing is None:
            return nullcontext()
        sequences = batch.sequences if counts else torch.full_like(batch.sequences, -1)
        return self.routing.watch(sequences, len(batch.completion_ids), batch.experts)

    def balance_share(self, sequences: int) -> Tensor | float:
        """Of the pass that is watched, the share of the balance loss: the mean over a minibatch's `sequences`."""
        if not self.balance_weight:
            return 0.0
        return self.balance_weight * self.routing.loss / sequences

    def summed(self, values: Tensor) -> Tensor:
        """The sum over ranks."""
        return self.all_gather(values).reshape(-1, *values.shape).sum(0)

    def backward_share(self, share: Tensor) -> None:
        """Backward of this rank's share of a loss: shares add up over ranks, data parallelism averages gradients."""
        self.manual_backward(share * self.trainer.world_size)

    def take_step(self, loss: float, batch: Callable[[], dict[str, Any]]) -> bool:
        """Step the optimizer along the clipped gradient, and the schedule; return False if the step was skipped.

        A step is skipped if the loss (over all ranks) or the gradient is not finite. It changes no weight, its `batch`
        is saved for a look, and it counts as any other step: in `trainer.max_steps`, in the learning-rate schedule and
        in the intervals of validation and checkpoints. Raises FloatingPointError after too many of them.
        """
        optimizer = self.optimizers()
        groups = optimizer.param_groups
        norms = [self.clip(group["params"]) for group in groups]
        norm = math.hypot(*norms)
        finite = math.isfinite(loss) and math.isfinite(norm)
        realised = [math.nan] * len(self._samples)
        if finite:
            realised = self.step_measured(optimizer)
        else:
            self.skip(loss, norm, batch())
            optimizer.zero_grad()
            optimizer.step()  # without gradients it is a no-op, and Lightning counts it
        if self.routing is not None:
            routing = self.routing.step(rate=self.bias_rate if finite else 0.0, everyone=self.summed)
            self.log_step({f"routing/{name}": value for name, value in routing.items()})
        self.lr_schedulers().step()
        self.step += 1
        learning = {"bad_steps": float(self.bad_steps)}
        for group, group_norm in zip(groups, norms, strict=True):
            learning |= {f"{metric_prefix(group)}lr": group["lr"], f"{metric_prefix(group)}gradient_norm": group_norm}
        for group, ratio in zip(groups, realised, strict=bool(realised)):
            learning[f"{metric_prefix(group)}realised"] = ratio
        self.log_step({f"optimizer/{name}": value for name, value in learning.items()} | self.memory())
        return finite

    def step_measured(self, optimizer: LightningOptimizer) -> list[float]:
        """Step the optimizer, and warn once if the weights' dtype rounds most of its update away.

        Returns:
            Of each parameter group, the norm of the update that the weights took / the norm of the update that the
            optimizer proposed, NaN if it proposed none; nothing if the optimizer cannot be measured.
        """
        if not self._samples:
            optimizer.step()
            return []
        squares = measure(optimizer.optimizer, self._samples, optimizer.step)
        realised = ratios(self.summed(squares.to(self.device)))
        if all(map(math.isnan, realised)):
            return realised
        self._measured_steps += 1
        # In the first step AdamW moves every element alike.
        if self._measured_steps == 2:
            for group, ratio in zip(optimizer.param_groups, realised, strict=True):
                message = rounding_warning(group, ratio, self.step + 1)
                if message and self.trainer.is_global_zero:
                    log.warning(message)
        return realised

    def clip(self, parameters: Sequence[nn.Parameter]) -> float:
        """Clip their gradient; its norm before."""
        if self.is_sharded:
            return clip_gradient(parameters, self.gradient_clip, lambda x: self.summed(x.to(self.device)))
        return float(nn.utils.clip_grad_norm_(parameters, self.gradient_clip))

    def memory(self) -> dict[str, float]:
        """What this rank holds after a step, in MiB by part; its peak on the rank with most, if devices keep count."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        held = memory_mib(optimizer, policy=self.policy, reference=self.reference, value=self.value_model)
        if self._whole is not None:
            held["sampler"] = weights_mib(self._whole[0])
        if self.device.type == "cuda":
            peak = torch.tensor(torch.cuda.max_memory_allocated(self.device), device=self.device)
            held["peak"] = float(self.all_gather(peak).max()) / MIB
        metrics = {f"memory/{name}_mib": value for name, value in held.items()}
        count = torch.tensor(float(sum(p.numel() for p in trained(optimizer))), device=self.device)
        # Of FSDP's shards a rank knows its own alone, of FSDP2's the whole.
        count = self.summed(count) if isinstance(self.policy, FullyShardedDataParallel) else count
        return metrics | {"memory/trained_parameters": float(count)}

    def skip(self, loss: float, norm: float, batch: dict[str, Any]) -> None:
        self.bad_steps += 1
        path = Path(self.trainer.default_root_dir, f"bad_step_{self.step}.pt")
        if self.trainer.is_global_zero:
            torch.save({**batch, "loss": loss, "gradient_norm": norm}, path)
        if self.bad_steps > self.max_bad_steps:
            raise FloatingPointError(
                f"the loss or its gradient was not finite in {self.bad_steps} steps (loss {loss}, gradient {norm}); "
                f"the batch is saved in {path}. Try a lower optimizer.lr{self.steadier}"
            )

    def everyones(self, value: Any) -> list[Any]:
        """A plain object of each rank, in the order of the ranks; the same on all."""
        if self.trainer.world_size == 1:
            return [value]
        values = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def log_step(self, metrics: dict[str, float], **kwargs: Any) -> None:
        self.log_dict(metrics, on_step=True, on_epoch=False, batch_size=1, **kwargs)

    def on_train_batch_start(self, batch, batch_idx: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def on_train_batch_end(self, outputs, batch, batch_idx: int) -> None:
        # Lightning takes `step` for the number that loggers file the metrics under.
        self.log_step({"step": float(self.step)})

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int) -> None:
        started = time.perf_counter()
        scores = evaluate(
            self.sampler,
            self.tokenizer,
            self.engine,
            prompts,
            self.is_correct,
            sampling=self.validation_sampling,
            num_samples=1,
            seed=self.evaluation_seed,
            gather=lambda rows: [row for part in self.everyones(rows) for row in part],
        )
        scores["seconds"] = time.perf_counter() - started
        metrics = {f"validation/{name}": float(value) for name, value in scores.items()}
        self.log_dict(metrics | {"step": float(self.step)}, batch_size=1)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for the module to go on, as plain data and tensors."""
        bias = {name: biases(found).cpu() for name, found in self.routers_of_children().items()}
        return {"step": self.step, "bad_steps": self.bad_steps, "routing_bias": bias}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.step, self.bad_steps = state["step"], state["bad_steps"]
        self._whole_step = None
        self._biases |= state.get("routing_bias", {})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        save_state(self, checkpoint, self.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = load_state(checkpoint)
        note_prompt_start(state, self.tokenizer)
        self.restore(state)
