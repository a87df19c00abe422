"""Supervised training on documents as a LightningModule: the tiny base's pretraining, cold start, fine-tuning."""

import time
from dataclasses import asdict
from typing import Any

import torch

from r1lab.loss.sft import sft_loss
from r1lab.module.base import PolicyModule
from r1lab.module.logprobs import completion_logprobs
from r1lab.rollout.collate import Batch


class SFT(PolicyModule):
    """Cross-entropy on completions, averaged over their tokens; the prompt's tokens do not count.

    Args (beside those of `PolicyModule`):
        padding_free: asks the data for packed batches (see `r1lab.rollout.collate.Batch`).
    """

    def __init__(self, *, padding_free: bool, **policy_parts: Any):
        super().__init__(**policy_parts)
        self.padding_free = padding_free

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:
        started = time.perf_counter()
        tokens = int(self.all_gather(sum(part.completion_mask.sum() for part in batch)).sum())
        self.optimizers().zero_grad()
        loss = 0.0
        for number, part in enumerate(batch, 1):
            part = part.to(self.device)
            with self.exchange(number == len(batch)):
                logprobs, _ = completion_logprobs(self.policy, part, temperature=1.0, head=self.head)
                share = sft_loss(logprobs, part.completion_mask, tokens=tokens)
                self.backward_share(share)
            loss += share.item()
        loss = float(self.all_gather(torch.tensor(loss, device=self.device)).sum())
        self.take_step(loss, lambda: {"microbatches": [asdict(part) for part in batch]})
        self.log_step({"loss/total": loss, "time/step_seconds": time.perf_counter() - started})
