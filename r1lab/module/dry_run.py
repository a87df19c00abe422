"""A training step on fake tensors: the passes that each module makes, with the heads and losses it makes them with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from r1lab.kernel import dry as kernel
from r1lab.loss import distill, logprob, sparse_distill
from r1lab.model.adapter import adapter_settings
from r1lab.model.fake import FakeModel
from r1lab.model.ledger import Ledger
from r1lab.model.logit_transform import logit_transform
from r1lab.model.passes import (
    Microbatch,
    RolloutBytes,
    UpdateBytes,
    copies_bytes,
    dry,
    forward_bytes,
    hidden_states,
    rollout_bytes,
    update_bytes,
)
from r1lab.model.plan import Passes
from r1lab.rollout.sampling import Sampling, next_token


@dataclass(frozen=True)
class DryHead:
    """The output head as `LinearHead` applies it; name: triton or torch."""

    name: str
    chunk_bytes: int | None
    temperature: float = 1.0

    @property
    def budget(self) -> dict[str, int]:
        return {} if self.chunk_bytes is None else {"chunk_bytes": self.chunk_bytes}

    def logprob(
        self, fake: FakeModel, hidden: Tensor, *, entropy: str = "none", k: int | None = None, tail: bool = False
    ) -> Tensor:
        """Of each hidden state a number: its logprob, or the sum of k and of their tail."""
        weight = _head(fake)
        if self.name == "triton" and k is None:
            return kernel.linear_logprob(hidden, weight, **self.budget)
        ids = torch.zeros(len(hidden), *([] if k is None else [k]), dtype=torch.int64)
        options = {"temperature": self.temperature, "softcap": _softcap(fake), **self.budget}
        if tail:
            return logprob.linear_buckets(hidden, weight, ids, **options)
        return logprob.linear_logprob(hidden, weight, ids, entropy=entropy, **options)[0]

    def grpo(self, fake: FakeModel, hidden: Tensor, *, two_passes: bool, entropy: str) -> Tensor:
        """The loss."""
        if self.name == "triton":
            return kernel.linear_grpo_loss(hidden, _head(fake), two_passes=two_passes, **self.budget)
        return self.logprob(fake, hidden, entropy=entropy).sum()

    def distill(self, fake: FakeModel, hidden: Tensor, teacher: FakeModel, of_teacher: Tensor, how: str) -> Tensor:
        """The divergence over the whole vocabulary."""
        heads = _head(fake), _head(teacher)
        rows = min(map(len, heads))
        if self.name == "triton":
            return kernel.linear_distill_loss(hidden, heads[0][:rows], heads[1][:rows], **self.budget)
        own, theirs = (head[:rows] for head in heads)
        options = {"divergence": how, "jsd_beta": 0.5, "temperature": self.temperature, "tokens": 1}
        return distill.linear_distill_loss(hidden, own, of_teacher, theirs, **options, **self.budget)


@dataclass(frozen=True)
class Step:
    """What one rank computes in a training step, every completion as long as it may be.

    module: grpo, ppo, opd, sft, distill or reward_model. microbatch: of the passes over what was sampled. prompts: of
    a rollout at a time, 0 where there is none; group_size completions each. scored: whether the policy's logprobs are
    wanted before the update. two_passes, entropy: of GRPO's loss. critic: of PPO. mode, k: of distillation.
    """

    module: str
    microbatch: Microbatch
    head: DryHead
    autocast: torch.dtype | None = None
    attention: str | None = "sdpa"
    checkpointing: bool = False
    prompts: int = 0
    group_size: int = 1
    prompt_tokens: int = 0
    sampling: Sampling | None = None
    scored: bool = False
    reference: bool = False
    two_passes: bool = False
    entropy: str = "value"
    critic: str = "separate"
    mode: str = "sft"
    k: int = 1


@dataclass(frozen=True)
class DryRun:
    """A step's models on fake tensors, made of policy and teacher on the meta device."""

    step: Step
    own: FakeModel
    value: FakeModel | None
    teacher: FakeModel | None

    @classmethod
    def of(cls, step: Step, policy: PreTrainedModel, teacher: PreTrainedModel | None = None) -> "DryRun":
        mode = FakeTensorMode()
        own = FakeModel.of(policy, mode, attention=step.attention)
        value = None
        if step.module == "ppo" and step.critic == "separate":
            value = FakeModel.of(policy, mode, attention=step.attention)
        theirs = None if teacher is None else FakeModel.of(teacher, mode)
        if theirs is not None:
            theirs.model.requires_grad_(False)
        if step.module == "reward_model" and adapter_settings(policy) is None:
            own.model.requires_grad_(False).base_model.requires_grad_(True)
        return cls(step, own, value, theirs)

    @contextmanager
    def counting(self) -> Iterator[tuple[Ledger, int]]:
        """The ledger that passes inside are counted by, and the bytes of autocast's copies, made before them."""
        models = [model for model in (self.own, self.value, self.teacher) if model is not None]
        with dry(*models, autocast=self.step.autocast) as ledger:
            copied = [model for model in (self.own, self.value) if model is not None and self.step.autocast]
            heads = [model is self.own and self.step.prompts > 0 for model in copied]
            sizes = [
                copies_bytes(ledger, model, self.step.microbatch, head=head)
                for model, head in zip(copied, heads, strict=True)
            ]
            yield ledger, sum(sizes)

    def update(self) -> tuple[UpdateBytes, int]:
        """Of forward and backward pass; and autocast's copies."""
        with self.counting() as (ledger, copies):
            options = {"checkpointing": self.step.checkpointing, "second": self.value}
            loss = _loss(self.step, self.own, self.value, self.teacher)
            return update_bytes(ledger, self.own, self.step.microbatch, loss, **options), copies

    def before(self) -> tuple[int, RolloutBytes | None]:
        """Of the passes before the update: those without gradient, and the rollout."""
        step, logprobs = self.step, []
        with self.counting() as (ledger, _):
            forward = partial(forward_bytes, ledger, batch=step.microbatch)
            if step.scored or step.reference:
                logprobs.append(forward(self.own, head=partial(step.head.logprob, self.own)))
            if self.value is not None:
                logprobs.append(forward(self.value, head=Tensor.float))
            if step.module == "opd":
                logprobs.append(forward(self.teacher, head=partial(step.head.logprob, self.teacher)))
            return max(logprobs, default=0), _rollout(step, self.own, ledger) if step.prompts else None


def dry_run(step: Step, policy: PreTrainedModel, teacher: PreTrainedModel | None = None) -> Passes:
    """What the step's passes take; policy and teacher are models on the meta device."""
    run = DryRun.of(step, policy, teacher)
    (update, copies), (logprobs, rollout) = run.update(), run.before()
    return Passes(update, logprobs, rollout, copies)


def _rollout(step: Step, fake: FakeModel, ledger: Ledger) -> RolloutBytes:
    def sample(logits: Tensor) -> Any:
        return next_token(logits, torch.zeros(len(logits)), step.sampling)

    return rollout_bytes(
        ledger,
        fake,
        prompts=step.prompts,
        group_size=step.group_size,
        prompt_tokens=step.prompt_tokens,
        new_tokens=step.sampling.max_new_tokens,
        sample=sample,
    )


def _loss(step: Step, own: FakeModel, value: FakeModel | None, teacher: FakeModel | None) -> Callable[[Tensor], Tensor]:
    """Hidden states [N, H] -> the module's loss."""
    head = step.head

    def grpo(hidden: Tensor) -> Tensor:
        return head.grpo(own, hidden, two_passes=step.two_passes, entropy=step.entropy)

    def ppo(hidden: Tensor) -> Tensor:
        policy = grpo(hidden)
        return policy + _score(hidden if value is None else hidden_states(value, step.microbatch)).sum()

    def sft(hidden: Tensor) -> Tensor:
        return head.logprob(own, hidden).sum()

    def reward_model(hidden: Tensor) -> Tensor:
        return _score(hidden).sum()

    def distillation(hidden: Tensor) -> Tensor:
        if step.mode == "sft" or teacher is None:
            sft = step.mode == "sft"
            return head.logprob(own, hidden, k=None if sft else step.k, tail=not sft).sum()
        with torch.no_grad():
            of_teacher = hidden_states(teacher, step.microbatch)
        if step.mode in distill.DIVERGENCES:
            return head.distill(own, hidden, teacher, of_teacher, step.mode)
        options = {"temperature": head.temperature, **head.budget}
        if step.mode == "top_k":
            sparse_distill.linear_top_k(of_teacher, _head(teacher), k=step.k, tail=True, **options)
        else:
            draws = torch.zeros(len(hidden), step.k)
            sparse_distill.linear_draws(of_teacher, _head(teacher), draws, proposal_temperature=1.0, **options)
        return head.logprob(own, hidden, k=step.k, tail=step.mode == "top_k").sum()

    named = {"grpo": grpo, "opd": grpo, "ppo": ppo, "sft": sft, "distill": distillation, "reward_model": reward_model}
    return named[step.module]


def _score(hidden: Tensor) -> Tensor:
    """A value model's head."""
    return hidden.float() @ torch.zeros(hidden.shape[1], 1, requires_grad=True)


def _head(fake: FakeModel) -> Tensor:
    return fake.model.get_output_embeddings().weight


def _softcap(fake: FakeModel) -> float | None:
    return logit_transform(fake.model.config).softcap
