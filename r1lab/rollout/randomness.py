"""Random numbers by key: a draw depends on (seed, step, prompt, completion, position) and on nothing else.

So neither batching, dropped rows, ranks nor a resume change what is sampled. The generator is SplitMix64 (Steele, Lea
and Flood, 2014) used as a hash, in int64 tensors whose products wrap around, on any device.
"""

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's output function, int64 -> int64."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def row_keys(seed: int, step: int, prompts: Tensor, completions: Tensor) -> Tensor:
    """One int64 key a row from the seed, the step and the numbers of prompt and completion (int64 [B] each)."""
    key = torch.zeros_like(prompts)
    for part in (seed, step, prompts, completions):
        key = mix((key ^ part) + _GOLDEN)
    return key


def uniform(keys: Tensor, position: int) -> Tensor:
    """Uniform float32 in [0, 1) for each row key at a token position."""
    offset = ((position + 1) * _GOLDEN + 2**63) % 2**64 - 2**63  # wraps around like the tensors do
    return _shift_right(mix(keys + offset), 40).float() / (1 << 24)
