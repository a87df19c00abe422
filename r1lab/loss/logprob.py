"""Log-probability of given tokens under a linear output head: the definition."""

from typing import Literal

import torch
from torch import Tensor


def linear_logprob(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    *,
    temperature: float,
    entropy: Literal["none", "value", "gradient"] = "none",
) -> tuple[Tensor, Tensor | None]:
    """hidden [N, H], head [V, H], ids int64 [N] -> (logprob [N], entropy [N] or None), in nats.

    logprob = z[ids] - logsumexp(z) with z = hidden head^T / temperature, and entropy = logsumexp(z) - sum_v p_v z_v,
    both of the distribution at that temperature. Computed and returned in float32 (float64 for float64 inputs).
    `entropy`: none; its value, detached, for a metric; or with its gradient, for a bonus.

    Raises ValueError for a temperature that is not positive, or an unknown choice of entropy.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(dtype) @ head.to(dtype).T
    if temperature != 1:
        logits = logits / temperature
    log_normaliser = logits.logsumexp(dim=-1)
    logprob = logits.gather(-1, ids[:, None]).squeeze(-1) - log_normaliser
    if entropy not in ("none", "value", "gradient"):
        raise ValueError(f"entropy must be none, value or gradient, got {entropy!r}")
    if entropy == "none":
        return logprob, None
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        probs = (logits - log_normaliser[:, None]).exp()
        return logprob, log_normaliser - (probs * logits).sum(dim=-1)
