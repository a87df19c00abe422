"""Distillation as a LightningModule: a student learns what a teacher writes, or its distribution token by token.

    mode          what is learnt                                                          needs of the teacher
    sft           its samples, by cross-entropy (DeepSeek-R1, 2501.12948, section 2.4)    text
    forward_kl    KL(teacher || student) over the whole vocabulary                        its weights
    reverse_kl    KL(student || teacher)                                                  its weights
    jsd           GKD's mixture of both, between forward (jsd_beta 0) and reverse (1)     its weights
    top_k         forward KL over its k likeliest tokens and a bucket for the others      weights, or stored logprobs
    sampled       forward KL estimated from tokens that are drawn from it                 its weights

Each is taught on the teacher's samples, on the student's own, or on both: GKD (2306.13649, algorithm 1), whose loss is
(1 - fraction) E_data[D] + fraction E_student[D], without a gradient through the sampling. GKD draws for each batch
which of the two it is; here a batch holds both, in these shares.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from r1lab.loss.distill import DIVERGENCES, check_divergence
from r1lab.loss.logprob import check_temperature
from r1lab.loss.sft import sft_loss
from r1lab.loss.sparse_distill import sampled_divergence, top_k_divergence, with_tail
from r1lab.model.capacity import check_batch
from r1lab.module.logprobs import counted_hidden, scatter
from r1lab.module.teacher import Taught, Teacher
from r1lab.rollout.collate import Batch, collate, microbatches
from r1lab.rollout.randomness import row_keys, uniform
from r1lab.rollout.sampling import Sampling
from r1lab.strategy.sharded import as_forward
from r1lab.types import TOP, Prompt, TaughtCompletion

MODES = ("sft", *DIVERGENCES, "top_k", "sampled")
DATA, STUDENT = "data", "student"  # who wrote what is learnt from: the teacher, in stored samples, or the student


class Distill(Taught):
    """A student and its teacher.

    Args (beside those of `PolicyModule`):
        teacher: makes the teacher; None: mode is sft, or top_k of stored logprobs.
        mode: see above.
        jsd_beta: of mode=jsd, 0 forward and 1 reverse KL.
        k, tail: of mode=top_k: how many tokens, and whether the others are a bucket of their own.
        num_draws, proposal_temperature: of mode=sampled, see `r1lab.loss.sparse_distill.linear_draws`.
        temperature, teacher_temperature: that the distributions of student and teacher are compared at.
        student_fraction: weight of the student's own samples, GKD's lambda.
        sft_weight: weight of the cross-entropy of the teacher's samples beside another mode.
        sampling: of the student's samples; seed keys it.
        microbatch_tokens: tokens a forward pass may hold, padding included (0: no limit).
        padding_free: a microbatch is one row of its sequences, without padding (see `r1lab.rollout.collate.Batch`).

    Raises:
        ValueError: for settings that do not go together.
    """

    def __init__(
        self,
        *,
        teacher: Callable[[], Teacher] | None,
        mode: str,
        jsd_beta: float,
        k: int,
        tail: bool,
        num_draws: int,
        proposal_temperature: float,
        temperature: float,
        teacher_temperature: float,
        student_fraction: float,
        sft_weight: float,
        sampling: Sampling,
        seed: int,
        microbatch_tokens: int,
        padding_free: bool,
        **policy_parts: Any,
    ):
        # Of one whose samples are learnt nothing is asked, so that it may have a tokenizer of its own.
        super().__init__(teacher=None if mode == "sft" else teacher, **policy_parts)
        _check_mode(mode, teacher is not None, student_fraction, sft_weight)
        if mode == "sft" and (temperature != 1 or teacher_temperature != 1):
            raise ValueError(
                f"module.mode=sft learns samples as they are: module.temperature={temperature} and "
                f"module.teacher_temperature={teacher_temperature} are of divergences; leave both at 1"
            )
        check_temperature(proposal_temperature, "module.proposal_temperature")
        if mode != "sft":
            how = mode if mode in DIVERGENCES else "forward_kl"
            try:
                check_divergence(how, jsd_beta, temperature, teacher_temperature)
            except ValueError as error:
                raise ValueError(f"module.{error}") from None
        for name, number in (("k", k), ("num_draws", num_draws)):
            if number < 1:
                raise ValueError(f"module.{name} must be at least 1, got {number}")
        self.mode, self.jsd_beta, self.k, self.tail = mode, jsd_beta, k, tail
        self.num_draws, self.proposal_temperature = num_draws, proposal_temperature
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.student_fraction, self.sft_weight = student_fraction, sft_weight
        self.sampling, self.seed = sampling, seed
        self.microbatch_tokens, self.padding_free = microbatch_tokens, padding_free

    def make_models(self) -> None:
        super().make_models()
        if self.mode == "top_k" and self.teacher is not None:
            vocabulary = len(self.teacher.model.get_output_embeddings().weight)
            if self.k > vocabulary:
                raise ValueError(f"module.k={self.k} is above the {vocabulary} tokens that the teacher has: lower it")

    @property
    def stored_top_k(self) -> int:
        """How many stored logprobs each token of the teacher's samples must have."""
        return self.k if self.mode == "top_k" and self.make_teacher is None else 0

    # ---- one step -----------------------------------------------------------------------------------------------

    def training_step(self, batch: tuple[Sequence[Prompt], Sequence[TaughtCompletion]], batch_idx: int) -> None:
        started = time.perf_counter()
        prompts, written = batch
        sources = {DATA: list(written), STUDENT: self.own_samples(prompts)}
        sampled = time.perf_counter()
        counts = torch.tensor([sum(len(row.ids) for row in rows) for rows in sources.values()], device=self.device)
        tokens = dict(zip(sources, self.summed(counts).tolist(), strict=True))
        sequences = int(self.summed(torch.tensor(sum(map(len, sources.values())), device=self.device)))

        self.optimizers().zero_grad()
        microbatches = self.even([(name, part) for name, rows in sources.items() for part in self.parts(rows)])
        sums = dict.fromkeys(("total", DATA, STUDENT, "sft", "balance"), torch.zeros((), device=self.device))
        for number, ((source, rows), real) in enumerate(microbatches, 1):
            ids = [row.prompt_ids for row in rows], [row.ids for row in rows]
            collated = collate(*ids, self.tokenizer.pad_token_id, packed=self.padding_free)
            check_batch(self.policy, collated)
            collated = collated.to(self.device)
            with self.exchange(number == len(microbatches)), self.watch(collated, real):
                size = tokens[source], sequences
                losses = as_forward(partial(self.losses, source, rows, collated, *size, number), self.policy)
                self.backward_share(sum(weight * loss for weight, loss in losses.values()) * real)
            for name, (weight, loss) in losses.items():
                sums[name] = sums[name] + loss.detach() * real
                # The balance of experts is no part of what is learnt.
                sums["total"] = sums["total"] + weight * loss.detach() * (real and name != "balance")
        everyone = self.summed(torch.stack(list(sums.values())).detach())
        metrics = dict(zip(sums, everyone.tolist(), strict=True))
        self.take_step(metrics["total"], lambda: {"rows": [asdict(row) for row in chain(*sources.values())]})

        self.teacher_tokens += sum(tokens.values())
        metrics = {f"loss/{name}": value for name, value in metrics.items() if name == "total" or self.has(name)}
        metrics |= {"rollout/teacher_tokens": float(self.teacher_tokens)}
        if sources[STUDENT]:
            metrics["rollout/completion_length"] = counts[1].item() / len(sources[STUDENT])
        seconds = {"rollout": sampled - started, "step": time.perf_counter() - started}
        self.log_step(metrics | {f"time/{name}_seconds": value for name, value in seconds.items()})

    def has(self, loss: str) -> bool:
        """Whether this run measures a part of the loss."""
        of_data = self.student_fraction < 1
        return {
            DATA: of_data and self.mode != "sft",
            STUDENT: self.student_fraction > 0,
            "sft": of_data and (self.mode == "sft" or self.sft_weight > 0),
            "balance": self.balance_weight > 0,
        }[loss]

    def own_samples(self, prompts: Sequence[Prompt]) -> list[TaughtCompletion]:
        """One completion of the student for each prompt."""
        if not self.student_fraction:
            return []
        options = {"sampling": self.sampling, "seed": self.seed, "step": self.step, "policy_version": self.step}
        completions = self.engine.generate(self.sampler, prompts, group_size=1, **options)
        return [TaughtCompletion(p.ids, c.ids) for p, c in zip(prompts, completions, strict=True)]

    def parts(self, rows: Sequence[TaughtCompletion]) -> list[list[TaughtCompletion]]:
        """The rows in microbatches."""
        lengths = [len(row.prompt_ids) + len(row.ids) for row in rows]
        parts = microbatches(lengths, self.microbatch_tokens, packed=self.padding_free)
        return [[rows[i] for i in part] for part in parts]

    def losses(
        self, source: str, rows: Sequence[TaughtCompletion], batch: Batch, tokens: int, sequences: int, number: int
    ) -> dict[str, tuple[float, Tensor]]:
        """Of a microbatch its parts of the loss: (weight, share of the mean over the source's `tokens`).

        rows, batch: the microbatch. number: its in the step, which keys what is drawn for it.
        """
        hidden = counted_hidden(self.policy.base_model, batch)
        found: dict[str, tuple[float, Tensor]] = {}
        if self.mode != "sft":
            weight = self.student_fraction if source == STUDENT else 1 - self.student_fraction
            found[source] = weight, self.divergence(hidden, batch, rows, tokens, number)
        if source == DATA and self.has("sft"):
            mask = batch.completion_mask
            logprobs, _ = self.head.logprob(self.policy, hidden, batch.completion_ids[mask], temperature=1.0)
            weight = 1.0 if self.mode == "sft" else self.sft_weight
            found["sft"] = weight, sft_loss(scatter(mask, logprobs), mask, tokens=tokens)
        if self.balance_weight:
            found["balance"] = 1.0, self.balance_share(sequences)
        return found

    def divergence(
        self, hidden: Tensor, batch: Batch, rows: Sequence[TaughtCompletion], tokens: int, number: int
    ) -> Tensor:
        """The mode's divergence: a microbatch's share of its mean over `tokens`, nats a token."""
        if self.mode in DIVERGENCES:
            return self.head.distill_loss(
                self.policy,
                hidden,
                self.teacher.model,
                self.teacher.hidden(batch),
                divergence=self.mode,
                jsd_beta=self.jsd_beta,
                temperature=self.temperature,
                teacher_temperature=self.teacher_temperature,
                tokens=tokens,
            )
        if self.mode == "top_k":
            ids, of_teacher = self.top_k(batch, rows)
            if self.tail:
                student = self.head.buckets(self.policy, hidden, ids, temperature=self.temperature)
            else:
                student, _ = self.head.logprob(self.policy, hidden, ids, temperature=self.temperature)
            k = self.k
            tails = {"teacher_tail": of_teacher[:, k:], "student_tail": student[:, k:]} if self.tail else {}
            return top_k_divergence(of_teacher[:, :k], student[:, :k], tail=self.tail, **tails).sum() / max(tokens, 1)
        ids, of_teacher, weights = self.head.draws(
            self.teacher.model,
            self.teacher.hidden(batch),
            self.uniform(len(hidden), number),
            temperature=self.teacher_temperature,
            proposal_temperature=self.proposal_temperature,
        )
        student, _ = self.head.logprob(self.policy, hidden, ids, temperature=self.temperature)
        return sampled_divergence(of_teacher, student, weights).sum() / max(tokens, 1)

    def top_k(self, batch: Batch, rows: Sequence[TaughtCompletion]) -> tuple[Tensor, Tensor]:
        """Ids and logprobs [N,k] of the teacher's likeliest tokens, computed now or read from storage. With
        `tail` the logprobs are [N,k+1], and the last column is of all other tokens."""
        if self.teacher is not None:
            options = {"k": self.k, "temperature": self.teacher_temperature, "tail": self.tail}
            return self.head.top_k(self.teacher.model, self.teacher.hidden(batch), **options)
        # The counted tokens of a batch are the completions', row by row.
        ids, logprobs = ([place[: self.k] for row in rows for place in getattr(row, name)] for name in TOP)
        logprobs = torch.tensor(logprobs, device=self.device)
        return torch.tensor(ids, device=self.device), with_tail(logprobs) if self.tail else logprobs

    def uniform(self, places: int, number: int) -> Tensor:
        """Draws [N,num_draws] in [0,1), keyed by the seed, the step, the rank, the microbatch and the place in it."""
        place = torch.arange(places, device=self.device)
        microbatch = torch.full_like(place, self.global_rank * 2**20 + number)
        keys = row_keys(self.seed, self.step, microbatch, place)
        return torch.stack([uniform(keys, draw) for draw in range(self.num_draws)], 1)


def _check_mode(mode: str, has_teacher: bool, student_fraction: float, sft_weight: float) -> None:
    if mode not in MODES:
        raise ValueError(f"module.mode={mode!r} is not one of {', '.join(MODES)}")
    if not 0 <= student_fraction <= 1:
        raise ValueError(f"module.student_fraction must be within [0, 1], got {student_fraction}")
    if sft_weight < 0:
        raise ValueError(f"module.sft_weight must be at least 0, got {sft_weight}")
    if mode == "sft" and student_fraction > 0:
        raise ValueError(
            f"module.mode=sft learns the teacher's samples, and with module.student_fraction={student_fraction} some "
            "would be the student's own: set it to 0, or choose a mode with the teacher's logprobs"
        )
    if sft_weight > 0 and student_fraction == 1:
        raise ValueError(
            f"module.sft_weight={sft_weight} is of the teacher's samples, and module.student_fraction=1 leaves none: "
            "lower the fraction, or set the weight to 0"
        )
    stored = mode == "sft" or (mode == "top_k" and student_fraction == 0)
    if not has_teacher and not stored:
        raise ValueError(
            f"module.mode={mode} with module.student_fraction={student_fraction} asks the teacher about tokens as it "
            "goes: set module.teacher.name to a checkpoint; without one there are mode=sft, and mode=top_k on stored "
            "logprobs with student_fraction=0"
        )
