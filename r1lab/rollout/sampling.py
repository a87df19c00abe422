"""From logits to the next token: temperature, top-k, top-p, and the inverse of the cumulative distribution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from r1lab.loss.logprob import check_temperature


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 leave the distribution whole."""

    temperature: float
    max_new_tokens: int
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        check_temperature(self.temperature, "rollout.temperature", greedy=True)
        if self.max_new_tokens < 1:
            raise ValueError(f"rollout.max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.top_k < 0:
            raise ValueError(f"rollout.top_k must be at least 0 (0 leaves the distribution whole), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"rollout.top_p must be in (0, 1], got {self.top_p}")


def restrict(probs: Tensor, top_k: int, top_p: float) -> Tensor:
    """Zero all but the `top_k` likeliest tokens and the smallest set whose mass reaches `top_p`; not renormalised."""
    if top_k and top_k < probs.shape[-1]:
        probs = probs.masked_fill(probs < probs.topk(top_k).values[..., -1:], 0.0)
    if top_p < 1:
        ordered, order = probs.sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p * ordered.sum(-1, keepdim=True)
        probs = probs.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
    return probs


def next_token(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw a token for each row.

    Args:
        logits: [B,V] of any float type.
        uniform: [B] in [0,1), one draw a row.

    Returns:
        Token ids [B] and their logprobs [B] at the sampling temperature, before top-k and top-p (greedy: at 1).
    """
    logits = logits.float()
    if sampling.temperature == 0:
        ids = logits.argmax(-1)
        return ids, logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    probs = (logits / sampling.temperature).softmax(-1)
    cumulative = restrict(probs, sampling.top_k, sampling.top_p).cumsum(-1)
    # right=True: the first token whose cumulative mass exceeds the draw, so one of zero mass is never taken.
    ids = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    ids = ids.clamp_(max=probs.shape[-1] - 1)
    return ids[:, 0], probs.gather(-1, ids)[:, 0].log()
