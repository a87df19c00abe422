"""PPO as a LightningModule: GRPO's rollouts, rewards and update, with a value model in the place of the group."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from r1lab.loss.grpo import LossOutput
from r1lab.loss.kl import token_penalty
from r1lab.loss.ppo import VALUE_OPTIONS, explained_variance, value_share
from r1lab.model.memory import trainable
from r1lab.model.value import CRITICS, value_model
from r1lab.module.grpo import GRPO, Rollout
from r1lab.module.logprobs import counted_hidden, scatter
from r1lab.rollout.collate import Batch
from r1lab.strategy.sharded import as_forward


@dataclass(frozen=True)
class ValuedRollout(Rollout):
    """A rollout with what the value model says of it before the update: float32 tensors [T_b], one a completion.

    `advantages` [B], for those who look at a rollout, is the mean of each completion's `token_advantages`.
    """

    values: list[Tensor]
    token_advantages: list[Tensor]
    returns: list[Tensor]


class PPO(GRPO):
    """Proximal Policy Optimization (1707.06347) as InstructGPT (2203.02155) and DeepSeek-R1 (2501.12948v2, A.3) have it
    for language models: a token is an action, and the reward of a completion comes with its last token.

    Args (beside those of `GRPO`):
        advantage: (rewards [B,T], values [B,T], completion_mask [B,T]) -> (advantages [B,T], returns [B,T]).
        loss: `r1lab.loss.ppo.ppo_loss` with its parameters bound, but for the KL penalty's and the entropy's.
        critic: separate or shared, see `r1lab.model.value.value_model`.
        value_lr: learning rate of the value model (of its head alone where shared); None: the policy's.

    A group serves sampling alone, and may be of one. The KL penalty, where it is placed in the reward, is that of each
    token. Raises ValueError for settings that do not go together.
    """

    steadier = ", a lower module.value_lr, or a larger loss.beta"
    record = ValuedRollout
    partners = "module=ppo needs advantage=gae and loss=ppo"

    def __init__(self, *, critic: str, value_lr: float | None, **grpo_parts: Any):
        super().__init__(**grpo_parts)
        if critic not in CRITICS:
            raise ValueError(f"module.critic {critic!r} is not one of {', '.join(CRITICS)}")
        if value_lr is not None and value_lr <= 0:
            raise ValueError(f"module.value_lr must be above 0, or null for the policy's, got {value_lr}")
        self.critic, self.value_lr = critic, value_lr

    def try_parts(self, nothing: Tensor) -> None:
        mask = nothing == 0
        self.advantage(nothing, nothing, mask)
        policy = (nothing, nothing, nothing, nothing, mask, nothing)
        self.loss_of(*policy, nothing, nothing, nothing, sequences=1, tokens=1)

    def refuse_groups_of_one(self) -> None:
        """Accept them: an advantage does not depend on the group."""

    def make_models(self) -> None:
        super().make_models()
        if self.value_model is None:
            self.value_model = value_model(self.policy, self.critic)

    def parameter_groups(self) -> list[dict[str, Any]]:
        own_lr = {} if self.value_lr is None else {"lr": self.value_lr}
        value = {"params": trainable(self.value_model), "name": "value", **own_lr}
        return [*super().parameter_groups(), value]

    # ---- before the update --------------------------------------------------------------------------------------

    def with_advantages(self, rollout: Rollout) -> ValuedRollout:
        """The rollout with its values, and the advantages and returns that follow from them and its rewards."""
        values = self.tokenwise(self.watched_values, rollout)
        rewards = self.token_rewards(rollout)
        advantages, returns = self.estimates(rewards, values, self.scored(rollout))
        means = torch.stack([row.mean() for row in advantages])
        judged = {"advantages": means, "values": values, "token_advantages": advantages, "returns": returns}
        return ValuedRollout(**vars(rollout) | judged)

    def watched_values(self, batch: Batch) -> Tensor:
        """`values` before the update, by the models in whole or in shards, on the experts that a trunk shared with the
        policy was sampled with."""
        if self.value_model.body is not None:
            return as_forward(lambda: self.values(batch), self.value_model)
        with self.watch(batch):
            return as_forward(lambda: self.values(batch), self.policy, self.value_model)

    def token_rewards(self, rollout: Rollout) -> list[Tensor]:
        """The completion's reward on its last token, less each token's KL penalty where it is placed in the reward."""
        lengths = [len(c.ids) for c in rollout.completions]
        rewards = torch.zeros(len(lengths), max(lengths))
        if self.needs_reference and self.kl_placement == "reward":
            rewards -= self.kl_penalty(rollout, token_penalty)
        rows = [row[:length] for row, length in zip(rewards, lengths, strict=True)]
        for row, reward in zip(rows, rollout.rewards, strict=True):
            row[-1] += reward
        return rows

    def scored(self, rollout: Rollout) -> Tensor:
        """bool [B, 1] over all ranks: whether a reward term applies to a completion."""
        return self.all_gather((~rollout.rewards.isnan()).float()).reshape(-1, 1).cpu() > 0

    def estimates(
        self, rewards: list[Tensor], values: list[Tensor], scored: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Advantages and returns; of all ranks together, since whitening is over the whole batch.

        A completion without a reward trains neither model: its advantages are 0, and its returns are its values.
        """
        mask, everyones_rewards, everyones_values = self.gathered(rewards, values)
        advantages, returns = self.advantage(everyones_rewards, everyones_values, mask & scored)
        estimated = advantages.where(scored, 0.0), returns.where(scored, everyones_values)
        start = self.global_rank * len(values)
        mine = mask[start : start + len(values)]
        advantages, returns = (
            [row[counted] for row, counted in zip(x[start : start + len(values)], mine, strict=True)] for x in estimated
        )
        return advantages, returns

    def gathered(self, *columns: list[Tensor]) -> tuple[Tensor, ...]:
        """Rows [T_b] of all ranks on the CPU: the mask of what they hold, bool [B,T], and each column as [B,T]."""
        lengths = self.all_gather(torch.tensor([len(row) for row in columns[0]])).reshape(-1).cpu()
        width = int(lengths.max())

        def gather(rows: list[Tensor]) -> Tensor:
            padded = torch.stack([nn.functional.pad(row, (0, width - len(row))) for row in rows])
            return self.all_gather(padded).reshape(-1, width).cpu()

        return torch.arange(width) < lengths[:, None], *map(gather, columns)

    # ---- in the update ------------------------------------------------------------------------------------------

    def values(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """The value before each completion token, float32 [b,T]; `hidden`, the policy's, where it is at hand."""
        if self.value_model.body is not None:
            hidden = counted_hidden(self.value_model.body, batch)
        elif hidden is None:
            hidden = counted_hidden(self.policy.base_model, batch)
        return scatter(batch.completion_mask, self.value_model(hidden))

    def loss_tensors(
        self, rollout: ValuedRollout, rows: list[int], batch: Batch, hidden: Tensor
    ) -> tuple[Tensor | None, ...]:
        policy = super().loss_tensors(rollout, rows, batch, hidden)
        old_values, returns = (self.padded(x, rows) for x in (rollout.values, rollout.returns))
        return *policy, self.values(batch, hidden), old_values, returns

    @property
    def policy_options(self) -> dict[str, Any]:
        return {name: value for name, value in self.loss.keywords.items() if name not in VALUE_OPTIONS}

    def fused_loss(
        self, rollout: ValuedRollout, rows: list[int], batch: Batch, hidden: Tensor, **size: int
    ) -> LossOutput:
        policy = super().fused_loss(rollout, rows, batch, hidden, **size)
        old_values, returns = (self.padded(x, rows) for x in (rollout.values, rollout.returns))
        tensors = (self.values(batch, hidden), old_values, returns, batch.completion_mask)
        options = {name: self.loss.keywords[name] for name in VALUE_OPTIONS}
        value = value_share(*tensors, tokens=size["tokens"], **options)
        return LossOutput(policy.loss + value.loss, policy.metrics | value.metrics)

    def advantages_of(self, rollout: ValuedRollout, rows: list[int]) -> Tensor:
        return self.padded(rollout.token_advantages, rows)

    def rollout_metrics(self, rollout: ValuedRollout) -> dict[str, float]:
        metrics = super().rollout_metrics(rollout)
        # A completion is not judged by its group here.
        del metrics["advantage/zero_std_groups"]
        mask, values, returns = self.gathered(rollout.values, rollout.returns)
        mask &= self.scored(rollout)
        values, returns = values[mask], returns[mask]
        if not len(values):
            return metrics
        return metrics | {
            "advantage/value_mean": float(values.mean()),
            "loss/explained_variance": float(explained_variance(values, returns)),
        }
