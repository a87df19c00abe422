"""On-policy distillation: the reverse KL to a teacher as a reward for each token, through GRPO's machinery."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r1lab.module.grpo import GRPO, Rollout
from r1lab.module.logprobs import scatter
from r1lab.module.teacher import Taught, Teacher
from r1lab.rollout.collate import Batch


@dataclass(frozen=True)
class TaughtRollout(Rollout):
    """A rollout with what the teacher says of it: float32 [T_b], one a completion.

    `advantages` [B], for those who look at a rollout, is the mean of each completion's `token_advantages`.
    """

    teacher_logprobs: list[Tensor]
    token_advantages: list[Tensor]


class OPD(Taught, GRPO):
    """On-policy distillation (Thinking Machines, 2025; Qwen3, 2505.09388, section 4.5; MiniLLM's single-step
    decomposition, 2306.08543, eq. 4).

    The student samples; the advantage of a token is log teacher - log student of it, whose mean over the student's
    samples is minus the reverse KL. Each token answers for itself alone (discount 0), so that the expected gradient is
    that of the per-token reverse KL at the prefixes that were sampled, which `module=distill` computes over the whole
    vocabulary; here one logprob a token is asked of the teacher.

    Args (beside those of `GRPO`):
        teacher: makes the teacher.
        kl_weight: of these advantages.
        reward_weight: of the group's advantages of the rewards, which are added to each token's; 0: rewards are only
            measured.

    Raises:
        ValueError: for settings that do not go together.
    """

    record = TaughtRollout
    learns_rewards = False  # unless there is a reward_weight

    def __init__(
        self, *, teacher: Callable[[], Teacher] | None, kl_weight: float, reward_weight: float, **grpo_parts: Any
    ):
        super().__init__(teacher=teacher, **grpo_parts)
        if teacher is None:
            raise ValueError("module=opd learns from a teacher's logprobs: set module.teacher.name to a checkpoint")
        for name, weight in (("kl_weight", kl_weight), ("reward_weight", reward_weight)):
            if weight < 0:
                raise ValueError(f"module.{name} must be at least 0, got {weight}")
        self.kl_weight, self.reward_weight = kl_weight, reward_weight
        if not kl_weight and not reward_weight:
            raise ValueError("module.kl_weight=0 and module.reward_weight=0: nothing is learnt; set one above 0")
        self.learns_rewards = reward_weight > 0
        if self.learns_rewards:
            self.refuse_zero_weights()
            self.refuse_groups_of_one()
        if not reward_weight and self.kl_placement == "reward" and self.beta:
            raise ValueError(
                "loss.kl_placement=reward takes the KL from rewards, of which module.reward_weight=0 makes nothing: "
                "set loss.kl_placement=loss, loss.beta=0, or the weight above 0"
            )

    def with_advantages(self, rollout: Rollout) -> TaughtRollout:
        """The rollout with the teacher's logprobs and the advantage of each token that follows."""
        own = rollout.old_logprobs or self.logprobs(self.policy, rollout)
        theirs = self.tokenwise(self.teacher_logprobs, rollout)
        of_reward = self.advantages(rollout) * self.reward_weight
        each = [self.kl_weight * (t - s) + a for t, s, a in zip(theirs, own, of_reward, strict=True)]
        tokens = torch.tensor(sum(map(len, theirs)), device=self.device)
        self.teacher_tokens += int(self.all_gather(tokens).sum())
        judged = {"advantages": torch.stack([row.mean() for row in each]), "token_advantages": each}
        return TaughtRollout(**vars(rollout) | judged | {"old_logprobs": own, "teacher_logprobs": theirs})

    def teacher_logprobs(self, batch: Batch) -> Tensor:
        """Float32 [b,T], at the temperature that was sampled at."""
        ids = batch.completion_ids[batch.completion_mask]
        options = {"temperature": self.temperature}
        logprobs, _ = self.head.logprob(self.teacher.model, self.teacher.hidden(batch), ids, **options)
        return scatter(batch.completion_mask, logprobs)

    def advantages_of(self, rollout: TaughtRollout, rows: list[int]) -> Tensor:
        return self.padded(rollout.token_advantages, rows)

    def rollout_sums(self, rollout: TaughtRollout) -> dict[str, tuple[float, int]]:
        apart = torch.cat([t - s for t, s in zip(rollout.teacher_logprobs, rollout.old_logprobs, strict=True)])
        return super().rollout_sums(rollout) | {
            "loss/reverse_kl": (-float(apart.sum()), len(apart)),
            "rollout/teacher_tokens": (float(self.teacher_tokens), 1),
        }
