"""Log-probability of given tokens under a linear output head: the definition."""

import torch
from torch import Tensor


def linear_logprob(
    hidden: Tensor, head: Tensor, ids: Tensor, *, temperature: float, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """hidden [N, H], head [V, H], ids int64 [N] -> (logprob [N], entropy [N] or None), in nats.

    logprob = z[ids] - logsumexp(z) with z = hidden head^T / temperature, and entropy = logsumexp(z) - sum_v p_v z_v,
    both of the distribution at that temperature. Computed and returned in float32 (float64 for float64 inputs).

    Raises ValueError for a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(dtype) @ head.to(dtype).T
    if temperature != 1:
        logits = logits / temperature
    log_normaliser = logits.logsumexp(dim=-1)
    logprob = logits.gather(-1, ids[:, None]).squeeze(-1) - log_normaliser
    if not entropy:
        return logprob, None
    return logprob, log_normaliser - (logits.softmax(dim=-1) * logits).sum(dim=-1)
