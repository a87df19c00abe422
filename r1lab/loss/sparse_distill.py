"""Distillation on a few tokens of the teacher's distribution: its likeliest with a tail bucket, or drawn ones."""

from collections.abc import Iterator

import torch
from torch import Tensor

from r1lab.loss.distill import token_divergence
from r1lab.loss.logprob import CHUNK_BYTES, check_head, check_temperature, head_logits, tail_logprob


def top_k_divergence(
    teacher_logprobs: Tensor,
    student_logprobs: Tensor,
    *,
    tail: bool,
    teacher_tail: Tensor | None = None,
    student_tail: Tensor | None = None,
) -> Tensor:
    """KL(teacher || student), nats [N], of the teacher's likeliest tokens: logprobs of both at the same k ids, [N, k].

    With `tail` all other tokens are one bucket more: a lower bound of the whole divergence that meets it as k -> V.
    Without, both are renormalised over the k tokens, which puts nothing on the student's mass elsewhere: a biased
    estimate that miscalibrates (Sparse Logit Sampling, arXiv 2503.16870, section 3).

    Args:
        teacher_tail, student_tail: logprobs [N, 1] of all other tokens together (`r1lab.loss.logprob.tail_logprob`).
            Without them, `tail` takes what the k logprobs leave of 1. That is harmless for the teacher, whose tail is
            only a weight. Of a student it is right as long as the tail is large.

    Raises:
        ValueError: for a missing student_tail, if the student's k logprobs leave too little of 1 to tell how much.
    """
    if not tail:
        log_t, log_s = _renormalised(teacher_logprobs.detach()), _renormalised(student_logprobs)
    else:
        log_t = with_tail(teacher_logprobs.detach(), teacher_tail)
        log_s = with_tail(student_logprobs, student_tail)
        least = torch.finfo(student_logprobs.dtype).eps ** 0.5
        if student_tail is None and len(log_s) and not (mass := float(log_s[:, -1].detach().min().exp())) >= least:
            raise ValueError(
                f"tail=True: the student's logprobs leave {mass:.1e} of 1 to all other tokens, and "
                f"{student_logprobs.dtype} has too few digits for that: pass student_tail, the last column of "
                "r1lab.loss.logprob.linear_buckets"
            )
    return token_divergence(log_t, log_s, divergence="forward_kl", jsd_beta=0.0)


def with_tail(logprobs: Tensor, tail: Tensor | None = None) -> Tensor:
    """Logprobs [N, k] of some tokens -> [N, k + 1] with that of all others together: `tail` [N, 1], or log(1 - sum p).

    The sum is in float64; minus infinity where it reaches 1.
    """
    if tail is None:
        mass = logprobs.double().exp().sum(-1, keepdim=True)
        tail = torch.log1p(-mass.clamp(max=1)).to(logprobs.dtype)
    return torch.cat([logprobs, tail], -1)


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
    tail: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """hidden [N, H], head [V, H] -> ids int64 and float32 logprobs, [N, k] each, of the k likeliest tokens in order.

    With `tail` the logprobs are [N, k + 1], and the last column is the `tail_logprob` of all other tokens. Logits and
    chunks as in `r1lab.loss.logprob.linear_logprob`. Raises ValueError for k outside [1, V].
    """
    if not 1 <= k <= len(head):
        raise ValueError(f"k must be from 1 to the vocabulary's {len(head)}, got {k}")
    ids: list[Tensor] = []
    logprobs: list[Tensor] = []
    for log_t, _ in _parts(hidden, head, bias, temperature, softcap, chunk_bytes):
        likeliest = log_t.topk(k)
        ids.append(likeliest.indices)
        logprobs.append(
            with_tail(likeliest.values, tail_logprob(log_t, likeliest.indices)) if tail else likeliest.values
        )
    return torch.cat(ids), torch.cat(logprobs)


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
    check_temperature(proposal_temperature, "proposal_temperature")
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
    check_head(temperature, softcap, "none", chunk_bytes)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    head, bias = head.to(dtype), None if bias is None else bias.to(dtype)
    rows = max(1, chunk_bytes // (len(head) * dtype.itemsize))
    # A pass over no tokens has results, too: of no rows.
    for start in range(0, max(len(hidden), 1), rows):
        at = slice(start, start + rows)
        yield head_logits(hidden[at], head, bias, temperature, softcap).log_softmax(-1), at
