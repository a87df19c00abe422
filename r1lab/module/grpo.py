"""GRPO as a LightningModule: where rollout, rewards, advantages and the loss meet.

One training step is one optimizer step on one minibatch. A rollout of P prompts x G completions serves
`num_minibatches * num_iterations` of them (R1: 512 x 16 completions, 16 minibatches, 1 iteration); the batch that
starts a rollout brings the stream of prompts, the others are empty. A half-used rollout is part of the checkpoint.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from r1lab.advantage.group import group_std, zero_std_groups
from r1lab.loss.grpo import LossOutput
from r1lab.loss.kl import next_beta, reward_penalty
from r1lab.model.adapter import adapter_settings, adapters_off
from r1lab.model.quantize import check_precision
from r1lab.model.reference import frozen_copy, refresh
from r1lab.model.routing import Recorder
from r1lab.module.base import PolicyModule
from r1lab.module.dynamic_sampling import Group, Stream, fill
from r1lab.module.evaluation import expand, reasoning_length
from r1lab.module.logprobs import completion_logprobs, counted_hidden
from r1lab.plain_pickle import refuse_unsafe
from r1lab.reward.format import Format
from r1lab.reward.weighted import WeightedSum
from r1lab.rollout.collate import Batch, collate, microbatches
from r1lab.rollout.sampling import Sampling
from r1lab.strategy.sharded import as_forward, is_sharded, reshard
from r1lab.types import Completion, Prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollout:
    """A sampled batch with what the update needs of it; lists have one entry a completion (B = P * G).

    old_logprobs and ref_logprobs: one float32 tensor [T_b] a completion, or empty where the loss does not need them.
    """

    prompts: list[Prompt]
    completions: list[Completion]
    rewards: Tensor  # [B], the weighted sum of the terms, NaN where none applies
    reward_terms: dict[str, list[float | None]]
    kl_penalty: Tensor  # [B], what the KL takes from each reward where it is placed there, else 0
    advantages: Tensor  # [B]
    old_logprobs: list[Tensor]
    ref_logprobs: list[Tensor]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "Rollout":
        """What was sampled and scored, with nothing yet of what the update needs beside it."""
        rewards = torch.tensor([reward for group in groups for reward in group.rewards], dtype=torch.float32)
        none = torch.zeros_like(rewards)
        return cls(
            prompts=[group.prompt for group in groups for _ in group.completions],
            completions=[completion for group in groups for completion in group.completions],
            rewards=rewards,
            reward_terms={
                name: [value for group in groups for value in group.reward_terms[name]]
                for name in groups[0].reward_terms
            },
            kl_penalty=none,
            advantages=none,
            old_logprobs=[],
            ref_logprobs=[],
        )

    def pack(self) -> dict[str, Any]:
        """Plain data and tensors, for a checkpoint that loads with `weights_only=True`."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data["prompts"] = [asdict(p) for p in self.prompts]
        data["completions"] = [asdict(c) for c in self.completions]
        return data

    @classmethod
    def unpack(cls, data: dict[str, Any]) -> "Rollout":
        data = dict(data)
        data["prompts"] = [Prompt(**p) for p in data["prompts"]]
        data["completions"] = [Completion(**c) for c in data["completions"]]
        return cls(**data)


class GRPO(PolicyModule):
    """Group Relative Policy Optimization (DeepSeekMath, 2402.03300, section 4; DeepSeek-R1, 2501.12948, section 2.1).

    Args (beside those of `PolicyModule`):
        reward: the weighted sum of reward terms.
        advantage: rewards [P,G], NaN for a completion to which no reward term applies -> advantages [P,G].
        loss: `r1lab.loss.grpo.grpo_loss` with its parameters bound, but for the KL penalty's and the entropy's.
        entropy_coef: weight of the entropy bonus.
        beta, kl, kl_placement: weight, estimator and place of the KL penalty; at beta 0 there is no reference.
        kl_target, kl_horizon: adapt beta to hold the KL at the target; None keeps beta.
        refresh_every, decay: of the reference, see `r1lab.model.reference.refresh`; None: there is none. quantize: its
            precision, 8bit or nf4; None: the policy's. A policy with adapters is its own reference, with them off.
        sampling: of rollouts; seed keys it.
        batch_size, group_size: completions a rollout over all ranks, B = P * G, and completions a prompt.
        num_minibatches, num_iterations: optimizer steps a pass over the rollout, and passes.
        microbatch_tokens: tokens a forward pass may hold, padding included (0: no limit).
        padding_free: a microbatch is one row of its sequences, without padding (see `r1lab.rollout.collate.Batch`).
        max_resamples: rounds in which groups that are all right or all wrong are replaced (see `dynamic_sampling`); 0:
            they are kept.
        replay: in the passes of the policy over a rollout, tokens go to the experts that they went to in sampling
            (Keep Routing: DeepSeek-V3.2, 2512.02556, section 3.1; Ma et al., 2510.11370).
        mask_truncated: completions that the length limit ended count in no loss; the baseline of their group has them
            all the same, and so has the number of sequences (overlong filtering: DAPO, 2503.14476, section 3.4).

    Raises:
        ValueError: for settings that do not go together.
    """

    steadier = " or a larger loss.beta"
    record = Rollout
    partners = "module=grpo needs advantage=group and loss=grpo"
    learns_rewards = True

    def __init__(
        self,
        *,
        reward: WeightedSum,
        advantage: Callable[[Tensor], Tensor],
        loss: Callable,
        entropy_coef: float,
        beta: float,
        kl: str,
        kl_placement: str,
        kl_target: float | None,
        kl_horizon: int,
        refresh_every: int | None,
        decay: float,
        quantize: str | None,
        sampling: Sampling,
        seed: int,
        batch_size: int,
        group_size: int,
        num_minibatches: int,
        num_iterations: int,
        microbatch_tokens: int,
        padding_free: bool,
        max_resamples: int,
        mask_truncated: bool,
        replay: bool,
        **policy_parts: Any,
    ):
        super().__init__(**policy_parts)
        check_sizes(batch_size, group_size, num_minibatches, num_iterations)
        _check_penalty(beta, kl_placement, refresh_every)
        _check_quantize(quantize, decay)
        _check_target(beta, kl_placement, kl_target, kl_horizon)
        _check_resamples(max_resamples, group_size)
        if sampling.temperature == 0:
            raise ValueError("rollout.temperature is 0: greedy completions of a prompt are all alike, set it above 0")
        self.reward, self.advantage, self.loss, self.entropy_coef = reward, advantage, loss, entropy_coef
        self.beta, self.kl, self.kl_placement = beta, kl, kl_placement
        self.kl_target, self.kl_horizon = kl_target, kl_horizon
        self.refresh_every, self.decay, self.quantize = refresh_every, decay, quantize
        self.sampling, self.seed = sampling, seed
        self.batch_size, self.group_size = batch_size, group_size
        self.num_minibatches, self.num_iterations = num_minibatches, num_iterations
        self.microbatch_tokens, self.padding_free = microbatch_tokens, padding_free
        self.max_resamples, self.mask_truncated, self.replay = max_resamples, mask_truncated, replay
        self.refuse_wrong_names()
        if self.learns_rewards:
            self.refuse_zero_weights()
            self.refuse_groups_of_one()
        if replay and not self.engine.records_experts:
            raise ValueError("routing.replay=true needs an engine that records experts: take rollout=loop")

        self.rollout: Rollout | None = None
        self.used = 0  # minibatches of the rollout that have been trained on

    # ---- set-up -------------------------------------------------------------------------------------------------

    def refuse_wrong_names(self) -> None:
        """Advantages and loss of nothing: what they refuse is told before anything is loaded or sampled."""
        try:
            self.try_parts(torch.zeros(1, 1))
        except TypeError as error:
            raise ValueError(f"{self.partners}, or functions that take the same: {error}") from None

    def try_parts(self, nothing: Tensor) -> None:
        """Call advantage and loss with `nothing`, zeros [1,1]."""
        self.advantage(torch.zeros(1, self.group_size))
        self.loss_of(nothing, nothing, nothing, nothing[0], nothing == 0, nothing, sequences=1, tokens=1)

    def refuse_zero_weights(self) -> None:
        """Raise ValueError for rewards that are only measured."""
        if not any(self.reward.weights.values()):
            names = ", ".join(f"reward.{name}.weight=0" for name in self.reward.weights) or "there is no reward term"
            raise ValueError(f"{names}: every reward is 0, and nothing is learnt from; give one a weight other than 0")

    def refuse_groups_of_one(self) -> None:
        """Raise ValueError for groups of one completion, if the advantage is 0 whatever the rewards."""
        different = torch.arange(float(self.batch_size)).view(-1, self.group_size)
        if self.group_size == 1 and not self.advantage(different).any():
            raise ValueError(
                "rollout.group_size=1: the advantage is the reward relative to other completions of the same prompt, "
                "so it is always 0, and nothing is learnt; raise rollout.group_size to at least 2"
            )

    @property
    def needs_reference(self) -> bool:
        return self.beta > 0 and self.kl_placement != "none"

    @property
    def prompts_per_rollout(self) -> int:
        return self.batch_size // self.group_size

    @property
    def updates_per_rollout(self) -> int:
        return self.num_minibatches * self.num_iterations

    def make_models(self) -> None:
        super().make_models()
        if adapter_settings(self.policy) is not None:
            check_adapters(self.refresh_every, self.quantize)
        elif self.reference is None and self.needs_reference:
            self.reference = frozen_copy(self.policy, self.quantize)

    def on_train_start(self) -> None:
        super().on_train_start()
        narrow = self.decay and self.reference and any(p.dtype.itemsize < 4 for p in self.reference.parameters())
        if narrow and self.trainer.is_global_zero:
            log.warning(
                f"reference.decay={self.decay}: 16-bit weights round away most of each step of a moving average, so "
                "the reference hardly follows; train float32 weights with trainer.precision=bf16-mixed "
                "model.policy.dtype=float32"
            )

    def refuse_routing(self) -> None:
        super().refuse_routing()
        if self.replay:
            raise ValueError(
                "routing.replay=true: the model has no router whose choice could be replayed; set it false"
            )

    def refuse_ranks(self, ranks: int) -> None:
        if self.prompts_per_rollout % ranks:
            group = self.batch_size // self.prompts_per_rollout
            enough = -(-self.prompts_per_rollout // ranks) * ranks * group
            raise ValueError(
                f"rollout.batch_size / rollout.group_size = {self.prompts_per_rollout} prompts a rollout "
                f"does not divide among {ranks} ranks: rollout.batch_size={enough} does"
            )
        if self.batch_size % (self.num_minibatches * ranks):
            raise ValueError(
                f"rollout.batch_size={self.batch_size} is not divisible by module.num_minibatches="
                f"{self.num_minibatches} on {ranks} ranks: some completions would never be trained on"
            )

    # ---- one step -----------------------------------------------------------------------------------------------

    def training_step(self, stream: Stream | Sequence, batch_idx: int) -> None:
        started = time.perf_counter()
        seconds = {"rollout": 0.0, "slowest_rollout": 0.0, "gather": 0.0, "logprob": 0.0}
        if stream:
            self.rollout, seconds = self.make_rollout(stream)
            # Of the rank for which the others wait.
            sampled = torch.tensor(seconds["rollout"], device=self.device)
            seconds["slowest_rollout"] = float(self.all_gather(sampled).max())
            self.used = 0
            weights = {f"reward/{name}_weight": weight for name, weight in self.reward.scheduled(self.step).items()}
            metrics = self.rollout_metrics(self.rollout)
            if self.learns_rewards and metrics.get("reward/unscored") == 1:
                log.warning(
                    f"step {self.step + 1}: no reward term applies to any of the {self.batch_size} completions, so "
                    "nothing is learnt from them: see the kinds of reward terms, and the columns that they need"
                )
            self.log_step(metrics | weights)
        update_started = time.perf_counter()
        self.update(self.minibatch())
        self.used += 1
        now = time.perf_counter()
        seconds |= {"update": now - update_started, "step": now - started}
        self.log_step({f"time/{name}_seconds": value for name, value in seconds.items()})

    def make_rollout(self, stream: Stream) -> tuple[Rollout, dict[str, float]]:
        """Sample, score and prepare a batch; also the seconds that sampling, in it the gathering of weights to sample
        from, and the passes of models over the batch took."""
        self.sampling_seconds = self.gathering_seconds = 0.0
        groups = self.next_groups(stream)
        if self.updates_per_rollout > 1:  # a half-used rollout is part of the checkpoint
            prompts = [vars(group.prompt) for group in groups]
            refuse_unsafe(prompts, "prompts", "make it a number or text where the task makes its prompts")
        rollout = Rollout.of(groups)

        scored = time.perf_counter()
        if self.updates_per_rollout > 1 or self.kl_placement == "reward":
            rollout = replace(rollout, old_logprobs=self.logprobs(self.policy, rollout))
        if self.needs_reference:
            rollout = replace(rollout, ref_logprobs=self.reference_logprobs(rollout))
        if self.needs_reference and self.kl_placement == "reward":
            rollout = replace(rollout, kl_penalty=self.kl_penalty(rollout, reward_penalty))
        rollout = self.with_advantages(rollout)
        seconds = {"rollout": self.sampling_seconds, "gather": self.gathering_seconds}
        return rollout, seconds | {"logprob": time.perf_counter() - scored}

    def next_groups(self, stream: Stream) -> list[Group]:
        """This rank's groups of a new rollout."""
        if not self.max_resamples and stream.curriculum is None:
            return self.sample_groups(stream.take(self.prompts_per_rollout))

        def draw(count: int) -> list[Group]:
            # Of all ranks, in the order of the stream, so that each rank comes to the same batch, as one alone would.
            shares = self.everyones(self.sample_groups(stream.take(count)))
            return sorted((group for share in shares for group in share), key=lambda group: group.prompt.index)

        filled = fill(draw, self.prompts_per_rollout, max_resamples=self.max_resamples)
        metrics = filled.metrics()
        if stream.curriculum is not None:
            stream.curriculum.note(filled.pass_rates())
            metrics |= {f"pass_rate/{level}": rate for level, rate in sorted(stream.curriculum.rates.items())}
        self.log_step({f"rollout/{name}": value for name, value in metrics.items()})
        return filled.groups[self.global_rank :: self.trainer.world_size]

    def sample_groups(self, prompts: Sequence[Prompt]) -> list[Group]:
        """One group for each prompt, sampled and scored; a rank may have none."""
        started = time.perf_counter()
        sampler = self.sampler
        if sampler is not self.policy:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # what is gathered is there
            self.gathering_seconds += time.perf_counter() - started
        completions = self.engine.generate(
            sampler,
            prompts,
            group_size=self.group_size,
            sampling=self.sampling,
            seed=self.seed,
            step=self.step,
            policy_version=self.step,
            **({"recorder": Recorder(sampler)} if self.replay else {}),
        )
        self.sampling_seconds += time.perf_counter() - started
        if not prompts:
            return []
        rewards = self.reward(expand(prompts, self.group_size), completions, self.step)
        total = rewards.total.tolist()
        rows = [slice(i * self.group_size, (i + 1) * self.group_size) for i in range(len(prompts))]
        return [
            Group(prompt, completions[own], total[own], {name: values[own] for name, values in rewards.terms.items()})
            for prompt, own in zip(prompts, rows, strict=True)
        ]

    def with_advantages(self, rollout: Rollout) -> Rollout:
        """The rollout with its advantages."""
        return replace(rollout, advantages=self.advantages(rollout))

    def advantages(self, rollout: Rollout) -> Tensor:
        """Advantages [B] of the rewards; all ranks' groups together, since a std of the batch is over the whole batch.

        NaN where the KL penalty is not finite, which skips the step.
        """
        advantages = self.relative(rollout.rewards - rollout.kl_penalty)
        return advantages.where(rollout.kl_penalty.isfinite(), math.nan)

    def relative(self, rewards: Tensor) -> Tensor:
        rewards = rewards.view(-1, self.group_size)
        everyone = self.all_gather(rewards).reshape(-1, self.group_size)
        start = self.global_rank * len(rewards)
        return self.advantage(everyone.cpu())[start : start + len(rewards)].reshape(-1)

    def kl_penalty(self, rollout: Rollout, penalty: Callable) -> Tensor:
        """What `penalty`, of a completion or of each of its tokens, takes from the reward of the rollout."""
        old, ref = (nn.utils.rnn.pad_sequence(x, True) for x in (rollout.old_logprobs, rollout.ref_logprobs))
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(x), dtype=torch.bool) for x in rollout.old_logprobs], True)
        return penalty(old, ref, mask, estimator=self.kl, beta=self.beta)

    def logprobs(self, model: nn.Module, rollout: Rollout, *, as_reference: bool = False) -> list[Tensor]:
        """Logprobs of every completion under a model, one tensor [T_b] each; of a reference with its own routing."""

        def of(batch: Batch) -> Tensor:
            options = {"temperature": self.temperature, "head": self.head}
            with nullcontext() if as_reference else self.watch(batch):
                return as_forward(lambda: completion_logprobs(model, batch, **options)[0], model)

        return self.tokenwise(of, rollout)

    def reference_logprobs(self, rollout: Rollout) -> list[Tensor]:
        """`logprobs` under the reference: a model of its own, or the policy with its adapters off."""
        if self.reference is not None:
            return self.logprobs(self.reference, rollout, as_reference=True)
        with adapters_off(self.policy):
            return self.logprobs(self.policy, rollout, as_reference=True)

    @torch.no_grad()
    def tokenwise(self, function: Callable[[Batch], Tensor], rollout: Rollout) -> list[Tensor]:
        """A function Batch -> float32 [b,T] on a whole rollout, without gradient: [T_b] a completion, on the CPU."""
        out: list[Tensor] = [torch.empty(0)] * len(rollout.completions)
        for (rows, batch), _ in self.even(list(self.batches(rollout, range(len(rollout.completions))))):
            for row, values, mask in zip(
                rows, function(batch.to(self.device)).cpu(), batch.completion_mask, strict=True
            ):
                out[row] = values[mask]
        return out

    @property
    def temperature(self) -> float:
        """Logprobs are those of the distribution that was sampled from."""
        return self.sampling.temperature

    def batches(self, rollout: Rollout, rows: Sequence[int]):
        """(row numbers, Batch) of each microbatch of the given rows."""
        rows = list(rows)
        lengths = [len(rollout.prompts[i].ids) + len(rollout.completions[i].ids) for i in rows]
        for part in microbatches(lengths, self.microbatch_tokens, packed=self.padding_free):
            part = [rows[i] for i in part]
            yield (
                part,
                collate(
                    [rollout.prompts[i].ids for i in part],
                    [rollout.completions[i].ids for i in part],
                    self.tokenizer.pad_token_id,
                    [rollout.completions[i].experts for i in part] if self.replay else None,
                    packed=self.padding_free,
                ),
            )

    def minibatch(self) -> list[int]:
        """Row numbers of the next minibatch: each iteration is a random split of the rollout (R1: Methods)."""
        iteration, number = divmod(self.used, self.num_minibatches)
        rows = len(self.rollout.completions)
        if self.num_minibatches == 1:
            return list(range(rows))
        order = list(range(rows))
        random.Random(f"{self.seed}/{self.step - self.used}/{iteration}").shuffle(order)
        size = rows // self.num_minibatches
        return order[number * size : (number + 1) * size]

    def update(self, rows: list[int]) -> None:
        """One optimizer step on the given rows of the rollout, microbatch by microbatch."""
        self.optimizers().zero_grad()
        metrics = self.accumulate(rows)
        finite = self.take_step(metrics["total"], lambda: {"rollout": self.rollout.pack(), "rows": rows})
        if is_sharded(self.reference):
            reshard(self.reference)  # the next pass is to gather it anew
        refreshed = self.reference is not None and refresh(
            self.reference, self.policy, step=self.step, every=self.refresh_every, decay=self.decay
        )
        if self.kl_target is not None and finite:
            self.beta = next_beta(self.beta, metrics["kl"], target=self.kl_target, horizon=self.kl_horizon)
        metrics |= {"beta": self.beta, "reference_refreshed": float(refreshed)}
        self.log_step({f"loss/{name}": value for name, value in metrics.items()})

    def accumulate(self, rows: list[int]) -> dict[str, float]:
        """The gradient of the loss over the rows of all ranks; the loss (`total`) and its metrics."""
        rollout = self.rollout
        counted = [i for i in rows if not (self.mask_truncated and rollout.completions[i].truncated)]
        mine = torch.tensor([len(rows), sum(len(rollout.completions[i].ids) for i in counted)], device=self.device)
        sequences, tokens = self.summed(mine).tolist()
        # A rank with nothing that counts takes part in the exchange with a completion of no weight.
        parts = self.even(list(self.batches(rollout, counted or rows[:1])))
        shares: list[dict[str, Tensor]] = []
        for number, ((part, batch), counts) in enumerate(parts, 1):
            batch, counts = batch.to(self.device), counts and bool(counted)

            def losses(part=part, batch=batch) -> tuple[LossOutput, Tensor | float]:
                output = self.microbatch_loss(rollout, part, batch, sequences, tokens)
                return output, self.balance_share(sequences)

            with self.exchange(number == len(parts)), self.watch(batch, counts):
                output, balance = as_forward(losses, self.policy, self.value_model)
                self.backward_share((output.loss + balance) * counts)
            share = {**output.metrics, "total": output.loss.detach()}
            share |= {"balance": balance.detach()} if self.balance_weight else {}
            shares.append({name: value * counts for name, value in share.items()})
        sums = torch.stack([sum(share[name] for share in shares) for name in shares[0]])
        return dict(zip(shares[0], self.summed(sums).tolist(), strict=True))

    def microbatch_loss(self, rollout: Rollout, rows: list[int], batch: Batch, sequences: int, tokens: int):
        hidden = counted_hidden(self.policy.base_model, batch)
        size = {"sequences": sequences, "tokens": tokens}
        if self.head.fuses(self.loss, self.policy, hidden):
            return self.fused_loss(rollout, rows, batch, hidden, **size)
        return self.loss_of(*self.loss_tensors(rollout, rows, batch, hidden), **size)

    def fused_loss(self, rollout: Rollout, rows: list[int], batch: Batch, hidden: Tensor, **size: int) -> LossOutput:
        """`loss_of` of `loss_tensors`, with logits, logprobs, loss and gradients in one pass."""
        return self.head.grpo_loss(
            self.policy,
            hidden,
            batch.completion_ids[batch.completion_mask],
            self.old_logprobs_of(rollout, rows),
            self.ref_logprobs_of(rollout, rows),
            self.advantages_of(rollout, rows),
            batch.completion_mask,
            temperature=self.temperature,
            **self.policy_options,
            **self.loss_options(**size),
        )

    @property
    def policy_options(self) -> dict[str, Any]:
        """Bound parameters of the loss, those of `grpo_loss` alone."""
        return self.loss.keywords

    def loss_tensors(
        self, rollout: Rollout, rows: list[int], batch: Batch, hidden: Tensor
    ) -> tuple[Tensor | None, ...]:
        """What the loss is of; `hidden` is `counted_hidden` of the policy."""
        entropy = "gradient" if self.entropy_coef else "value"
        logprobs, entropies = completion_logprobs(
            self.policy, batch, temperature=self.temperature, entropy=entropy, hidden=hidden, head=self.head
        )
        old = self.old_logprobs_of(rollout, rows)
        return (
            logprobs,
            logprobs.detach() if old is None else old,
            self.ref_logprobs_of(rollout, rows),
            self.advantages_of(rollout, rows),
            batch.completion_mask,
            entropies,
        )

    def old_logprobs_of(self, rollout: Rollout, rows: list[int]) -> Tensor | None:
        """[b,T], or None where they are the policy's own: a single update of fresh samples has a ratio of 1."""
        return self.padded(rollout.old_logprobs, rows) if self.updates_per_rollout > 1 else None

    def ref_logprobs_of(self, rollout: Rollout, rows: list[int]) -> Tensor | None:
        return self.padded(rollout.ref_logprobs, rows) if self.needs_reference else None

    def padded(self, values: list[Tensor], rows: list[int]) -> Tensor:
        """The given rows of values [T_b] as one [b,T] on the device."""
        return nn.utils.rnn.pad_sequence([values[i] for i in rows], batch_first=True).to(self.device)

    def advantages_of(self, rollout: Rollout, rows: list[int]) -> Tensor:
        return rollout.advantages[rows].to(self.device)

    def loss_of(self, *tensors: Tensor | None, sequences: int, tokens: int) -> LossOutput:
        """The loss of its tensors, with all its parameters."""
        return self.loss(*tensors, **self.loss_options(sequences=sequences, tokens=tokens))

    def loss_options(self, *, sequences: int, tokens: int) -> dict[str, Any]:
        """Parameters of the loss that are not bound: the minibatch's size, and what training itself looks at."""
        return {
            "sequences": sequences,
            "tokens": tokens,
            "max_length": self.sampling.max_new_tokens,
            "beta": self.beta,
            "kl": self.kl,
            "kl_placement": self.kl_placement,
            "entropy_coef": self.entropy_coef,
        }

    # ---- what is watched ----------------------------------------------------------------------------------------

    def rollout_metrics(self, rollout: Rollout) -> dict[str, float]:
        """Means over all ranks; what has nothing to be a mean of is left out."""
        sums = self.rollout_sums(rollout)
        rows = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.device)
        totals = self.summed(rows).tolist()
        return {name: total / count for name, (total, count) in zip(sums, totals, strict=True) if count}

    def rollout_sums(self, rollout: Rollout) -> dict[str, tuple[float, int]]:
        """Sum and count of each quantity; the same keys on every rank, whatever it sampled."""
        rewards, penalty = (x.view(-1, self.group_size) for x in (rollout.rewards, rollout.kl_penalty))
        unscored = rewards.isnan()
        pairs = list(zip(rollout.prompts, rollout.completions, strict=True))
        lengths = [len(completion.ids) for completion in rollout.completions]
        accuracy = rollout.reward_terms.get("accuracy", [None] * len(pairs))
        # Of prompts that accuracy is not for, neither right nor wrong.
        judged = [(n, value >= 1) for n, value in zip(lengths, accuracy, strict=True) if value is not None]
        quantities = {
            "reward/mean": rewards[~unscored].tolist(),
            "reward/std": group_std(rewards, ddof=0)[~unscored.all(1)].tolist(),
            "reward/unscored": unscored.flatten().tolist(),
            "reward/unscored_groups": unscored.all(1).tolist(),
            "reward/kl_penalty": penalty.flatten().tolist()
            if self.needs_reference and self.kl_placement == "reward"
            else [],
            "advantage/zero_std_groups": zero_std_groups(rewards).tolist(),
            "rollout/completion_length": lengths,
            "rollout/correct_completion_length": [n for n, right in judged if right],
            "rollout/wrong_completion_length": [n for n, right in judged if not right],
            "rollout/reasoning_length": [reasoning_length(*pair, self.tokenizer) for pair in pairs],
            "rollout/format": Format()(rollout.prompts, rollout.completions),
            "rollout/truncated": [completion.truncated for completion in rollout.completions],
        }
        for name, values in rollout.reward_terms.items():
            quantities[f"reward/{name}"] = [value for value in values if value is not None]
        kinds = sorted({kind for own in self.everyones(list({p.kind for p in rollout.prompts})) for kind in own})
        for kind in kinds if len(kinds) > 1 else []:
            rows = [row for row, prompt in enumerate(rollout.prompts) if prompt.kind == kind]
            own = rollout.rewards[rows]
            quantities[f"reward/mean/{kind}"] = own[~own.isnan()].tolist()
            quantities[f"reward/accuracy/{kind}"] = [accuracy[row] for row in rows if accuracy[row] is not None]
        return {name: (float(sum(values)), len(values)) for name, values in quantities.items()}

    def state(self) -> dict[str, Any]:
        half_used = self.rollout is not None and self.used < self.updates_per_rollout
        return super().state() | {
            "used": self.used,
            "beta": self.beta,
            # Of each rank its own.
            "rollouts": self.everyones(self.rollout.pack()) if half_used else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.used, self.beta = state["used"], state["beta"]
        self.rollout = None
        if state["rollouts"]:
            if len(state["rollouts"]) != self.trainer.world_size:
                raise ValueError(
                    f"the checkpoint is from the middle of a rollout on {len(state['rollouts'])} ranks: go on with "
                    f"trainer.devices and trainer.num_nodes as they were, not on {self.trainer.world_size}"
                )
            self.rollout = self.record.unpack(state["rollouts"][self.global_rank])


def check_sizes(batch_size: int, group_size: int, num_minibatches: int, num_iterations: int) -> None:
    """Raise ValueError where a rollout does not divide into groups and minibatches."""
    sizes = {
        "rollout.batch_size": batch_size,
        "rollout.group_size": group_size,
        "module.num_minibatches": num_minibatches,
        "module.num_iterations": num_iterations,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    both = math.lcm(sizes["rollout.group_size"], sizes["module.num_minibatches"])
    for name in ("rollout.group_size", "module.num_minibatches"):
        if batch_size % sizes[name]:
            raise ValueError(
                f"rollout.batch_size={batch_size} is not divisible by {name}={sizes[name]}; "
                f"take a batch of {batch_size - batch_size % both or both}, or change {name}"
            )


def _check_resamples(max_resamples: int, group_size: int) -> None:
    if max_resamples < 0:
        raise ValueError(f"rollout.max_resamples must be at least 0, got {max_resamples}")
    if max_resamples and group_size < 2:
        raise ValueError(
            f"rollout.max_resamples={max_resamples} replaces groups that are all right or all wrong, and a group of "
            "one always is: raise rollout.group_size, or set rollout.max_resamples=0"
        )


def _check_penalty(beta: float, kl_placement: str, refresh_every: int | None) -> None:
    if beta < 0:
        raise ValueError(f"loss.beta must be at least 0, got {beta}")
    if beta > 0 and kl_placement != "none" and refresh_every is None:
        raise ValueError(
            f"loss.beta={beta} needs a reference, but reference=none; "
            "choose reference=fixed, or set loss.beta=0 or loss.kl_placement=none"
        )


def _check_target(beta: float, kl_placement: str, kl_target: float | None, kl_horizon: int) -> None:
    if kl_target is None:
        return
    if kl_target <= 0 or kl_horizon <= 0:
        raise ValueError(f"loss.kl_target={kl_target} and loss.kl_horizon={kl_horizon} must both be above 0")
    if beta == 0 or kl_placement == "none":
        raise ValueError("loss.kl_target adapts loss.beta, which needs a loss.beta above 0 and a loss.kl_placement")


def _check_quantize(quantize: str | None, decay: float) -> None:
    check_precision(quantize, "reference.quantize")
    if quantize is not None and decay:
        raise ValueError(
            f"reference.quantize={quantize} with reference.decay={decay}: an average moves by less than the steps of a "
            "quantised weight; take reference=fixed or reference=refresh, or reference.quantize=null"
        )


def check_adapters(refresh_every: int | None, quantize: str | None) -> None:
    """Raise ValueError for a reference that a policy with adapters cannot have, which is its own."""
    if refresh_every:
        raise ValueError(
            f"reference.refresh_every={refresh_every} with adapter.rank: the reference is the policy with its adapters "
            "off, which no step changes; take reference=fixed, or adapter=none"
        )
    if quantize is not None:
        raise ValueError(
            f"reference.quantize={quantize} with adapter.rank: the reference is the policy with its adapters off; set "
            "adapter.quantize for both, or reference.quantize=null"
        )
