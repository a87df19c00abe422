"""Supervised training on documents as a LightningModule: the tiny base's pretraining, cold start, fine-tuning."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from r1lab.loss.sft import sft_loss
from r1lab.model.attention import packed_arguments
from r1lab.model.capacity import check_batch
from r1lab.model.memory import weights_mib
from r1lab.model.moe import load_metrics, load_of, routers
from r1lab.model.mtp import MultiTokenPrediction
from r1lab.model.routing import Recorder
from r1lab.module.base import PolicyModule
from r1lab.module.logprobs import completion_logprobs, counted, hidden_states, scatter
from r1lab.rollout.collate import Batch
from r1lab.strategy.sharded import as_forward
from r1lab.types import Prompt


class SFT(PolicyModule):
    """Cross-entropy on completions, averaged over their tokens; the prompt's tokens do not count.

    Args (beside those of `PolicyModule`):
        mtp_weight: of the loss of predicting each token from two before it, by a module that is trained beside the
            policy (lambda; DeepSeek-V3, 2412.19437, section 2.2); 0: there is none.
        padding_free: asks the data for packed batches (see `r1lab.rollout.collate.Batch`).
    """

    sharded_beside = ("mtp",)

    def __init__(self, *, mtp_weight: float, padding_free: bool, **policy_parts: Any):
        super().__init__(**policy_parts)
        if mtp_weight < 0:
            raise ValueError(f"module.mtp_weight must be at least 0, got {mtp_weight}")
        self.mtp_weight, self.padding_free = mtp_weight, padding_free
        self.mtp: MultiTokenPrediction | None = None

    def make_models(self) -> None:
        super().make_models()
        if self.mtp is None and self.mtp_weight:
            self.mtp = MultiTokenPrediction(self.policy, seed=self.run_config.get("seed", 0))

    def routed_models(self) -> list[nn.Module]:
        return [*super().routed_models(), *([self.mtp] if self.mtp else [])]

    def parameter_groups(self) -> list[dict[str, Any]]:
        # One group, whose gradient is clipped by one norm.
        (policy,) = super().parameter_groups()
        return [{"params": [*policy["params"], *(self.mtp.parameters() if self.mtp else ())]}]

    def memory(self) -> dict[str, float]:
        return super().memory() | ({"memory/mtp_mib": weights_mib(self.mtp)} if self.mtp else {})

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:
        started = time.perf_counter()
        for part in batch:
            check_batch(self.policy, part)
        sizes = [torch.tensor([part.completion_mask.sum(), len(part.completion_ids)]) for part in batch]
        tokens, sequences = self.summed(sum(sizes).to(self.device)).tolist()
        self.optimizers().zero_grad()
        sums = dict.fromkeys(("total", "mtp", "balance"), torch.zeros((), device=self.device))
        parts = self.even(batch)
        for number, (part, counts) in enumerate(parts, 1):
            part = part.to(self.device)
            with self.exchange(number == len(parts)), self.watch(part, counts):
                losses = as_forward(partial(self.losses, part, tokens, sequences), self.policy)
                self.backward_share(sum(losses.values()) * counts)
            for name, value in losses.items():
                sums[name] = sums[name] + value.detach() * counts
        loss, further, balance = self.summed(torch.stack(list(sums.values()))).tolist()
        self.take_step(loss, lambda: {"microbatches": [asdict(part) for part in batch]})
        metrics = {"loss/total": loss, "loss/tokens": tokens, "time/step_seconds": time.perf_counter() - started}
        metrics |= {"loss/mtp": further / self.mtp_weight} if self.mtp else {}
        self.log_step(metrics | ({"loss/balance": balance} if self.balance_weight else {}))

    def losses(self, part: Batch, tokens: int, sequences: int) -> dict[str, Tensor]:
        """The shares of a microbatch in the loss and what is added to it, of a minibatch with so many tokens and
        sequences."""
        hidden = hidden_states(self.policy.base_model, part)
        losses = {"total": self.next_token(part, counted(hidden, part), tokens)}
        if self.mtp is not None:
            losses["mtp"] = self.mtp_weight * self.token_after(part, hidden, tokens)
        if self.balance_weight:
            losses["balance"] = self.balance_share(sequences)
        return losses

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int) -> None:
        super().validation_step(prompts, batch_idx)
        sums = self.held_out_sums(self.trainer.datamodule.held_out)
        loss, tokens = self.summed(sums.pop("loss")).tolist()
        if not tokens:
            return
        metrics = {"loss": loss / tokens}
        if sums:
            found = load_metrics(self.summed(sums["load"]))
            metrics |= {name: float(values.mean()) for name, values in found.items()}
        self.log_dict({f"validation/{name}": value for name, value in metrics.items()}, batch_size=1)

    def held_out_sums(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Of held-out documents: `loss`, summed over tokens, and their number; `load` [L,E] where there are routers."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        load = [torch.zeros_like(router.e_score_correction_bias) for router in routers(self.policy).values()]
        for batch, counts in self.even(batches):
            batch = batch.to(self.device)
            options = {"temperature": 1.0, "head": self.head}
            with Recorder(self.policy) as recorder:
                logprobs, _ = as_forward(partial(completion_logprobs, self.policy, batch, **options), self.policy)
            sums += torch.stack([-logprobs.sum().double(), batch.completion_mask.sum()]) * counts
            if load and counts:
                real = batch.sequences.flatten() >= 0
                chosen = recorder.take().unbind(1)
                load = [sum_ + load_of(own, real, len(sum_)) for sum_, own in zip(load, chosen, strict=True)]
        return {"loss": sums} | ({"load": torch.stack(load)} if load else {})

    def next_token(self, part: Batch, hidden: Tensor, tokens: int) -> Tensor:
        """The cross-entropy of a microbatch's counted tokens under hidden states [N,H], its share of the mean."""
        mask = part.completion_mask
        logprobs, _ = self.head.logprob(self.policy, hidden, part.completion_ids[mask], temperature=1.0)
        return sft_loss(scatter(mask, logprobs), mask, tokens=tokens)

    def token_after(self, part: Batch, hidden: Tensor, tokens: int) -> Tensor:
        """`next_token` of each counted token from two before it, all that was before in sight but the last."""
        following = nn.functional.pad(part.input_ids[:, 1:], (0, 1))
        same = nn.functional.pad(part.sequences[:, 1:], (0, 1), value=-1) == part.sequences
        with self.routing.over(part.sequences.where(same, -1)) if self.routing else nullcontext():
            packed = packed_arguments(self.policy.config, part.position_ids)
            further = self.mtp(hidden, self.policy.get_input_embeddings()(following), **packed)
        place = part.positions if part.position_ids is None else part.position_ids[0, part.positions]
        reached = place > 0  # the second token of a row has nothing two before it
        part = replace(part, completion_mask=part.completion_mask & reached)
        return self.next_token(part, counted(further, part, ahead=2), tokens)
