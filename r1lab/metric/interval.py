"""Bootstrap intervals over prompts: how far a score could move with another draw of prompts from the same task."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Draws held in memory at a time.
_CHUNK = 2**21


def bootstrap_interval(
    values: Sequence[float] | Tensor, *, level: float = 0.95, resamples: int, seed: int
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean (Efron 1979; Efron and Tibshirani 1993, chapter 13).

    Whole prompts are drawn with replacement, so the spread between the samples of a prompt is in it too. Where all
    values are equal the interval is that single point: it then says nothing about the prompts not seen.

    Args:
        values: [P], the score of each prompt (its mean over samples).
        level: share of repetitions of the experiment whose interval should hold the true mean, in (0, 1).
        resamples: bootstrap samples; 1000 and more settle the second digit of the end points.
        seed: of the draws; it leaves torch's global generator alone.

    Returns:
        (low, high), in the units of `values`.

    Raises:
        ValueError: no values, a value that is not finite, level outside (0, 1), resamples below 1.
    """
    values = torch.as_tensor(values, dtype=torch.float64).cpu()
    if values.dim() != 1 or not len(values) or not bool(values.isfinite().all()):
        raise ValueError(f"values must be one finite number for each prompt, got shape {tuple(values.shape)}")
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), got {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _CHUNK // len(values))
    means = [
        values[torch.randint(len(values), (min(rows, resamples - start), len(values)), generator=generator)].mean(1)
        for start in range(0, resamples, rows)
    ]
    tail = (1 - level) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
