"""torch's dtypes by the names that settings have for them."""

import torch


def dtype_of(name: str, setting: str) -> torch.dtype:
    """A dtype that weights can have. Raises ValueError, which names the setting, where there is none of that name."""
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{setting}={name} is no dtype of weights: give float32, bfloat16 or float16")
    return dtype
