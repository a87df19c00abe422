"""pass@k: the chance that at least one of k samples is right."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pass_at_k(num_samples: int | Sequence[int] | Tensor, num_correct: Sequence[int] | Tensor, k: int) -> Tensor:
    """The unbiased estimate of pass@k from n >= k samples of each prompt, c of them right.

    `1 - C(n - c, k) / C(n, k)` (Chen et al. 2021, arXiv 2107.03374, eq. 1), as the product over j < k of
    `(n - c - j) / (n - j)`, which neither overflows nor cancels. At k = 1 it is c / n.

    Args:
        num_samples: n, one for all prompts or [P].
        num_correct: c, [P].
        k: at least 1 and at most every n.

    Returns:
        float64 [P], one estimate a prompt; their mean is the score of the set.

    Raises:
        ValueError: k is not in 1..n, or c not in 0..n.
    """
    c = torch.as_tensor(num_correct)
    n = torch.as_tensor(num_samples).expand(c.shape)
    if c.dim() != 1 or not len(c):
        raise ValueError(f"num_correct must hold one count for each prompt, got shape {tuple(c.shape)}")
    if not 1 <= k <= int(n.min()):
        raise ValueError(f"pass@k needs 1 <= k <= samples of each prompt, got k={k} with {int(n.min())} samples")
    if bool(((c < 0) | (c > n)).any()):
        raise ValueError("num_correct must be within 0..num_samples for each prompt")
    n, c, j = n.double()[:, None], c.double()[:, None], torch.arange(k, dtype=torch.float64)
    return 1 - ((n - c - j).clamp(min=0) / (n - j)).prod(-1)
