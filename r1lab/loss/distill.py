"""Distillation on the teacher's whole distribution: divergences of two linear heads, token by token."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from r1lab.loss.logprob import CHUNK_BYTES, LARGEST_SCALE, check_chunk_bytes, check_temperature, head_logits

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def linear_distill_loss(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    divergence: str,
    jsd_beta: float,
    temperature: float,
    teacher_temperature: float | None = None,
    tokens: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """hidden [N, H], head [V, H] of the student, [N, H'] and [V, H'] of the teacher -> this share of the mean over
    `tokens` of their `token_divergence`, nats a token; gradient to the student alone.

    The student's distribution is that at `temperature`, the teacher's that at `teacher_temperature` (None: the same).
    Computed in float32 (float64 for float64 inputs), as many tokens at a time as `chunk_bytes` of logits hold.

    Raises ValueError for an unknown divergence, a temperature, jsd_beta or chunk_bytes out of range, or a teacher that
    has another vocabulary or other tokens than the student.
    """
    teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
    temperatures = (temperature, teacher_temperature)
    check_distill(hidden, head, teacher_hidden, teacher_head, divergence, jsd_beta, *temperatures, chunk_bytes)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    heads = head.to(dtype), teacher_head.detach().to(dtype)
    rows = max(1, chunk_bytes // (len(head) * dtype.itemsize))
    total = hidden.new_zeros((), dtype=dtype)
    for part, teacher in zip(hidden.split(rows), teacher_hidden.detach().split(rows), strict=True):
        arguments = (part, teacher, *heads, divergence, jsd_beta, temperature, teacher_temperature)
        if len(hidden) <= rows or not torch.is_grad_enabled():
            total = total + _summed(*arguments)
        else:
            total = total + checkpoint(_summed, *arguments, use_reentrant=False, preserve_rng_state=False)
    return total / max(tokens, 1)


def token_divergence(log_t: Tensor, log_s: Tensor, *, divergence: str, jsd_beta: float) -> Tensor:
    """Log-probabilities [..., V] of the teacher and of the student -> [...], nats.

    forward_kl: KL(t || s) (Hinton et al., arXiv 1503.02531, without the factor temperature^2); reverse_kl: KL(s || t)
    (MiniLLM, arXiv 2306.08543); jsd: beta KL(t || m) + (1 - beta) KL(s || m) with m = beta t + (1 - beta) s and
    beta = jsd_beta (GKD, arXiv 2306.13649, eq. 1). That is 0 at both ends of beta, where its limits over beta and over
    1 - beta are the forward and the reverse KL; jsd_beta 0 and 1 are defined as those, as GKD's implementations do.
    A token that both forbid adds nothing.
    """
    if divergence == "jsd" and jsd_beta in (0, 1):
        divergence = DIVERGENCES[int(jsd_beta)]
    if divergence == "forward_kl":
        return _kl(log_t, log_s)
    if divergence == "reverse_kl":
        return _kl(log_s, log_t)
    m = jsd_beta * log_t.exp() + (1 - jsd_beta) * log_s.exp()
    log_m = m.masked_fill(m == 0, 1.0).log()
    return jsd_beta * _kl(log_t, log_m) + (1 - jsd_beta) * _kl(log_s, log_m)


def check_distill(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    divergence: str,
    jsd_beta: float,
    temperature: float,
    teacher_temperature: float,
    chunk_bytes: int,
) -> None:
    """Raises ValueError for what `linear_distill_loss` refuses."""
    check_divergence(divergence, jsd_beta, temperature, teacher_temperature, LARGEST_SCALE)
    check_chunk_bytes(chunk_bytes)
    if len(head) != len(teacher_head):
        raise ValueError(f"student and teacher must have one vocabulary, got {len(head)} and {len(teacher_head)}")
    if len(hidden) != len(teacher_hidden):
        raise ValueError(f"student and teacher must have the same tokens, got {len(hidden)} and {len(teacher_hidden)}")


def check_divergence(
    divergence: str, jsd_beta: float, temperature: float, teacher_temperature: float, scale: float = 1.0
) -> None:
    """Raises ValueError for a divergence that there is not, or numbers out of its range.

    scale: see `r1lab.loss.logprob.check_temperature`.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence {divergence!r} is not one of {', '.join(DIVERGENCES)}")
    if not 0 <= jsd_beta <= 1:
        raise ValueError(f"jsd_beta must be within [0, 1], got {jsd_beta}")
    check_temperature(temperature, scale=scale)
    check_temperature(teacher_temperature, "teacher_temperature", scale=scale)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum p (log p - log q); 0 where p is 0, and so is the gradient, whatever q is."""
    p = log_p.exp()
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum(-1)


def _summed(
    hidden: Tensor,
    teacher_hidden: Tensor,
    head: Tensor,
    teacher_head: Tensor,
    divergence: str,
    jsd_beta: float,
    temperature: float,
    teacher_temperature: float,
) -> Tensor:
    log_s = head_logits(hidden, head, None, temperature, None).log_softmax(-1)
    log_t = head_logits(teacher_hidden, teacher_head, None, teacher_temperature, None).log_softmax(-1)
    return token_divergence(log_t, log_s, divergence=divergence, jsd_beta=jsd_beta).sum()
