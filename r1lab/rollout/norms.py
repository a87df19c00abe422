"""Norms in one kernel each, for sampling: a token at a time the GPU waits for the host, which launches over a hundred
kernels a layer of a mixture; transformers' norms are 8 of them each."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm


@cache
def _is_llamas(kind: type[nn.Module]) -> bool:
    """Whether modules of a kind compute what Llama's norm does: DeepSeek-V3's and Qwen3's do, by the same lines, and
    Gemma's do not."""
    own = kind.__dict__.get("forward")
    return own is not None and inspect.getsource(own) == inspect.getsource(LlamaRMSNorm.forward)


def fused(norm: nn.Module, hidden: Tensor) -> Tensor:
    """A norm's forward pass by torch, [..., H] -> [..., H]: y = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich
    2019, arXiv:1910.07467, eq. 4). It rounds once, where transformers rounds before the product as well."""
    if hidden.dtype != norm.weight.dtype:  # for which torch has no one kernel
        return type(norm).forward(norm, hidden)
    out = nn.functional.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
    return out.to(hidden.dtype)  # autocast has it in float32


@contextmanager
def fused_norms(model: nn.Module) -> Iterator[None]:
    """Inside, norms of the model that are Llama's are computed by torch."""
    norms = [part for part in model.modules() if _is_llamas(type(part)) and "forward" not in part.__dict__]
    for norm in norms:
        norm.forward = partial(fused, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
