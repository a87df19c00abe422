"""Weights for timing, of which a core copies billions in the time in which it would draw a few hundred million."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from r1lab.model.policy import new_policy

BLOCK = 1_000_003  # a prime, so that no two rows of a matrix are the same


def repeated(config: dict[str, Any], *, seed: int, **options: Any) -> PreTrainedModel:
    """`r1lab.model.policy.new_policy`, its matrices of the same million of draws over and over."""
    with no_init_weights():
        model = new_policy(config, seed=seed, **options)
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed)) * model.config.initializer_range
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            if weight.dim() == 1:
                weight.fill_(1.0)  # of a norm
                continue
            whole = weight.view(-1)
            begins = block.roll(7919 * number)  # and no two matrices
            for start in range(0, len(whole), BLOCK):
                part = whole[start : start + BLOCK]
                part.copy_(begins[: len(part)])
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.zero_()
    return model
