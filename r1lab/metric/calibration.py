"""Calibration: whether what is said with confidence p is right in a share p of the cases."""

from collections.abc import Sequence

import numpy as np


def expected_calibration_error(confidence: Sequence[float], correct: Sequence[bool], *, bins: int = 10) -> float:
    """Mean over bins of equal width of |accuracy - mean confidence|, weighted by their share (Guo et al., 1706.04599,
    eq. 3); confidence in [0, 1], [N] each. NaN for none.
    """
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if not len(confidence):
        return float("nan")
    which = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(which, correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
