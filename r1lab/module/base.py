"""What every LightningModule around a policy shares: its weights, its optimizer, its validation, its checkpoint."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.model.memory import MIB, memory_mib, trainable, trained
from r1lab.module.checkpoint import load_state, save_state
from r1lab.module.evaluation import evaluate
from r1lab.module.head import LinearHead
from r1lab.rollout.engine import RolloutEngine
from r1lab.rollout.sampling import Sampling
from r1lab.types import Prompt


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
    """

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
    ):
        super().__init__()
        self.automatic_optimization = False
        self._make_policy, self.tokenizer, self.engine, self.is_correct = policy, tokenizer, engine, is_correct
        self.head = head
        self._make_optimizer, self._make_scheduler, self.gradient_clip = optimizer, scheduler, gradient_clip
        self.max_bad_steps = max_bad_steps
        self.validation_sampling, self.evaluation_seed = validation_sampling, evaluation_seed
        self.policy: PreTrainedModel | None = None
        self.reference: nn.Module | None = None  # this and the next: only some algorithms need them
        self.value_model: nn.Module | None = None
        self.step = 0  # training steps done, skipped ones included
        self.bad_steps = 0  # skipped ones
        self.run_config: dict[str, Any] = {}  # the resolved config, kept in checkpoints

    def configure_model(self) -> None:
        if self.policy is None:
            self.policy = self._make_policy()

    def configure_optimizers(self):
        optimizer = self._make_optimizer(self.parameter_groups())
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer=optimizer)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer trains. Each group's gradient is clipped by itself; a `name` leads the group's metrics."""
        return [{"params": trainable(self.policy)}]

    def exchange(self, last: bool) -> AbstractContextManager:
        """Ranks exchange gradients in the last microbatch alone, so they need not have equally many."""
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return nullcontext() if last or block is None else block()

    def backward_share(self, share: Tensor) -> None:
        """Backward of this rank's share of a loss: shares add up over ranks, data parallelism averages gradients."""
        self.manual_backward(share * self.trainer.world_size)

    def take_step(self, loss: float, batch: Callable[[], dict[str, Any]]) -> bool:
        """Step the optimizer along the clipped gradient, and the schedule; False where the step was skipped.

        It is skipped, counted, and its `batch` saved for a look, where the loss (of all ranks) or the gradient is not
        finite. Raises FloatingPointError after too many of them.
        """
        optimizer = self.optimizers()
        groups = optimizer.param_groups
        norms = [float(nn.utils.clip_grad_norm_(group["params"], self.gradient_clip)) for group in groups]
        norm = math.hypot(*norms)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            optimizer.step()
        else:
            self.skip(loss, norm, batch())
        self.lr_schedulers().step()
        self.step += 1
        learning = {"bad_steps": float(self.bad_steps)}
        for group, group_norm in zip(groups, norms, strict=True):
            prefix = f"{group['name']}_" if "name" in group else ""
            learning |= {f"{prefix}lr": group["lr"], f"{prefix}gradient_norm": group_norm}
        self.log_step({f"optimizer/{name}": value for name, value in learning.items()} | self.memory())
        return finite

    def memory(self) -> dict[str, float]:
        """What this rank holds after a step, in MiB by part; the step's peak where the device keeps count."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        held = memory_mib(optimizer, policy=self.policy, reference=self.reference, value=self.value_model)
        if self.device.type == "cuda":
            held["peak"] = torch.cuda.max_memory_allocated(self.device) / MIB
        metrics = {f"memory/{name}_mib": value for name, value in held.items()}
        return metrics | {"memory/trained_parameters": float(sum(p.numel() for p in trained(optimizer)))}

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
            self.policy,
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
        return {"step": self.step, "bad_steps": self.bad_steps}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.step, self.bad_steps = state["step"], state["bad_steps"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        save_state(self, checkpoint, self.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restore(load_state(checkpoint))
