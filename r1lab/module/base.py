"""What every LightningModule around a policy shares: its weights, its optimizer, its validation, its checkpoint."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.module.checkpoint import load_state, save_state
from r1lab.module.evaluation import evaluate
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
        optimizer: parameters -> optimizer. scheduler: optimizer -> learning-rate schedule, stepped each step.
        gradient_clip: largest norm of the gradient.
        validation_sampling: how validation samples; evaluation_seed keys it.
    """

    def __init__(
        self,
        *,
        policy: Callable[[], PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        engine: RolloutEngine,
        is_correct: Callable[[Prompt, str], float],
        optimizer: Callable,
        scheduler: Callable,
        gradient_clip: float,
        validation_sampling: Sampling,
        evaluation_seed: int,
    ):
        super().__init__()
        self.automatic_optimization = False
        self._make_policy, self.tokenizer, self.engine, self.is_correct = policy, tokenizer, engine, is_correct
        self._make_optimizer, self._make_scheduler, self.gradient_clip = optimizer, scheduler, gradient_clip
        self.validation_sampling, self.evaluation_seed = validation_sampling, evaluation_seed
        self.policy: PreTrainedModel | None = None
        self.step = 0  # training steps done, skipped ones included
        self.run_config: dict[str, Any] = {}  # the resolved config, kept in checkpoints

    def configure_model(self) -> None:
        if self.policy is None:
            self.policy = self._make_policy()

    def configure_optimizers(self):
        optimizer = self._make_optimizer(self.policy.parameters())
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer=optimizer)}

    def exchange(self, last: bool) -> AbstractContextManager:
        """Ranks exchange gradients in the last microbatch alone, so they need not have equally many."""
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return nullcontext() if last or block is None else block()

    def backward_share(self, share: Tensor) -> None:
        """Backward of this rank's share of a loss: shares add up over ranks, data parallelism averages gradients."""
        self.manual_backward(share * self.trainer.world_size)

    def clipped_norm(self) -> float:
        """Clip the gradient; its norm before that."""
        return float(nn.utils.clip_grad_norm_(self.policy.parameters(), self.gradient_clip))

    def log_step(self, metrics: dict[str, float], **kwargs: Any) -> None:
        self.log_dict(metrics, on_step=True, on_epoch=False, batch_size=1, **kwargs)

    def on_train_batch_end(self, outputs, batch, batch_idx: int) -> None:
        # Lightning takes `step` for the number that loggers file the metrics under.
        self.log_step({"step": float(self.step)})

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int) -> None:
        scores = evaluate(
            self.policy,
            self.tokenizer,
            self.engine,
            prompts,
            self.is_correct,
            sampling=self.validation_sampling,
            num_samples=1,
            seed=self.evaluation_seed,
        )
        metrics = {f"validation/{name}": float(value) for name, value in scores.items()}
        self.log_dict(metrics | {"step": float(self.step)}, batch_size=len(prompts), sync_dist=True)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for the module to go on, as plain data and tensors."""
        return {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.step = state["step"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        save_state(self, checkpoint, self.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restore(load_state(checkpoint))
