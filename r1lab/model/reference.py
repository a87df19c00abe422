"""The frozen reference of the KL penalty: fixed, copied anew every N steps, or a moving average.

DeepSeek-R1 copies the policy into the reference every 400 steps (Nature 645:633, Methods). Buffers are copied as well
as parameters: the routing bias of a DeepSeek-V3 MoE is a buffer, and with a stale one a reference routes otherwise.
"""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from r1lab.model.quantize import is_packed, quantize, requantize


def frozen_copy(policy: nn.Module, precision: str | None = None) -> nn.Module:
    """A copy of the policy that takes no gradient; in 8bit or nf4 where asked, see `r1lab.model.quantize`."""
    return quantize(copy.deepcopy(policy).eval().requires_grad_(False), precision)


@torch.no_grad()
def blend(reference: nn.Module, policy: nn.Module, decay: float) -> None:
    """reference = decay * reference + (1 - decay) * policy, in place; decay 0 is a copy. Integer buffers are copied.

    Weights of the reference that are quantised are copied and quantised anew, whatever `decay`.
    """
    requantize(reference, policy)
    theirs = _tensors(policy)
    # Tied weights stand there once; of models in shards, each rank blends its own.
    for name, value in _tensors(reference).items():
        if is_packed(name):
            continue
        if decay and value.is_floating_point():
            value.lerp_(theirs[name].to(value), 1 - decay)
        else:
            value.copy_(theirs[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; of a sharded one this rank's part."""
    parts = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: part.to_local() if isinstance(part, DTensor) else part for name, part in parts.items()}


def refresh(reference: nn.Module, policy: nn.Module, *, step: int, every: int, decay: float) -> bool:
    """Bring the reference up to date after optimizer step `step`, if it is due; True when it was.

    Args:
        every: optimizer steps between two refreshes; 0 keeps the reference fixed.
        decay: what the reference keeps of itself at a refresh: 0 is R1's hard copy, 0.99 with `every` 1 an average.
    """
    if not every or step % every:
        return False
    blend(reference, policy, decay)
    return True
