"""torch's dtypes by the names that settings have for them, and casts to them."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

# Buffers, by the end of their name, that 16 bits would falsify: rotary frequencies, which are multiplied by positions,
# and a moving average.
EXACT = ("inv_freq", "score_moments")


def dtype_of(name: str, setting: str) -> torch.dtype:
    """A dtype that weights can have. Raises ValueError, which names the setting, where there is none of that name."""
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{setting}={name} is no dtype of weights: give float32, bfloat16 or float16")
    return dtype


def cast_weights(module: nn.Module, dtype: torch.dtype, keep: Collection[Tensor] = ()) -> nn.Module:
    """Cast a module's floating-point parameters and buffers in place, except for `keep` and the buffers in `EXACT`."""
    kept = {id(tensor) for tensor in keep}
    kept |= {id(buffer) for name, buffer in module.named_buffers() if name.endswith(EXACT)}

    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and id(tensor) not in kept else tensor.detach()

    return module._apply(convert)
