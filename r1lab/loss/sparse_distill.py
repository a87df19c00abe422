"""Distillation on a few tokens of the teacher's distribution: its likeliest with a tail bucket, or drawn ones."""

from collections.abc import Iterator

import torch
from torch import Tensor

from r1lab.loss.distill import token_divergence
from r1lab.loss.logprob import CHUNK_BYTES, check_chunk_bytes, head_logits


def top_k_divergence(teacher_logprobs: Tensor, student_logprobs: Tensor, *, tail: bool) -> Tensor:
    """KL(teacher || student), nats [N], of the teacher's likeliest tokens: logprobs of both at the same k ids, [N, k].

    With `tail` all other tokens are one bucket more: a lower bound of the whole divergence that meets it as k -> V.
    Without, both are renormalised over the k tokens, which puts nothing on the student's mass elsewhere: a biased
    estimate that miscalibrates (Sparse Logit Sampling, arXiv 2503.16870, section 3).
    """
    buckets = with_tail if tail else _renormalised
    log_t, log_s = buckets(teacher_logprobs.detach()), buckets(student_logprobs)
    return token_divergence(log_t, log_s, divergence="forward_kl", jsd_beta=0.0)


def with_tail(logprobs: Tensor) -> Tensor:
    """Logprobs [N, k] of some tokens -> [N, k + 1] with that of all others together, log(1 - sum p).

    The rest is at least the rounding of 1, so that it has a logarithm where the k tokens are all there is.
    """
    mass = logprobs.logsumexp(-1, keepdim=True).clamp(max=-torch.finfo(logprobs.dtype).eps)
    return torch.cat([logprobs, (-torch.expm1(mass)).log()], -1)


def _renormalised(logprobs: Tensor) -> Tensor:
    return logprobs.log_softmax(-1)


def sampled_divergence(teacher_logprobs: Tensor, student_logprobs: Tensor, weights: Tensor) -> Tensor:
    """[N, n] each, of n tokens drawn from a proposal q -> an unbiased estimate of KL(teacher || student), nats [N].

    sum_i w_i (log t_i - log s_i) with w_i = t_i / (n q_i), random-sampling distillation (Sparse Logit Sampling, arXiv
    2503.16870, section 4; its weights are renormalised, these are not: that would bias the estimate). So is its
    gradient one of the whole divergence's.
    """
    return (weights * (teacher_logprobs.detach() - student_logprobs)).sum(-1)


@torch.no_grad()
def linear_top_k(
    hidden: Tensor,
    head: Tensor,
    *,
    k: int,
    temperature: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """hidden [N, H], head [V, H] -> ids int64 and float32 logprobs, [N, k] each, of the k likeliest tokens in order.

    Logits and chunks as in `r1lab.loss.logprob.linear_logprob`. Raises ValueError for k outside [1, V].
    """
    if not 1 <= k <= len(head):
        raise ValueError(f"k must be from 1 to the vocabulary's {len(head)}, got {k}")
    parts = [log_t.topk(k) for log_t, _ in _parts(hidden, head, bias, temperature, softcap, chunk_bytes)]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


@torch.no_grad()
def linear_draws(
    hidden: Tensor,
    head: Tensor,
    uniform: Tensor,
    *,
    temperature: float,
    proposal_temperature: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden [N, H], head [V, H], n draws uniform [N, n] in [0, 1) -> ids int64, logprobs and weights, [N, n] each.

    The proposal is the teacher's distribution sharpened (proposal_temperature < 1) or flattened (> 1); at 1 it is the
    distribution itself and all weights are 1 / n. See `sampled_divergence`.
    """
    if proposal_temperature <= 0:
        raise ValueError(f"proposal_temperature must be above 0, got {proposal_temperature}")
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for log_t, at in _parts(hidden, head, bias, temperature, softcap, chunk_bytes):
        log_q = (log_t / proposal_temperature).log_softmax(-1)
        cumulative = log_q.exp().cumsum(-1)
        # right=True: a token of zero mass is never drawn.
        drawn = uniform[at].to(cumulative) * cumulative[:, -1:]
        ids = torch.searchsorted(cumulative, drawn, right=True).clamp_(max=len(head) - 1)
        logprobs = log_t.gather(-1, ids)
        found.append((ids, logprobs, (logprobs - log_q.gather(-1, ids)).exp() / ids.shape[1]))
    ids, logprobs, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    return ids, logprobs, weights


def _parts(
    hidden: Tensor, head: Tensor, bias: Tensor | None, temperature: float, softcap: float | None, chunk_bytes: int
) -> Iterator[tuple[Tensor, slice]]:
    """Log-probabilities [n, V] of some tokens at a time, and which."""
    check_chunk_bytes(chunk_bytes)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    head, bias = head.to(dtype), None if bias is None else bias.to(dtype)
    rows = max(1, chunk_bytes // (len(head) * dtype.itemsize))
    # A pass over no tokens has results, too: of no rows.
    for start in range(0, max(len(hidden), 1), rows):
        at = slice(start, start + rows)
        yield head_logits(hidden[at], head, bias, temperature, softcap).log_softmax(-1), at
