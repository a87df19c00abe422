"""LoRA (2106.09685) by peft: low-rank adapters on a frozen policy, which with its adapters off is its own reference.

On a quantised base it is QLoRA (2305.14314). Adapters sit on the linear layers of the body. Routers, norms, embeddings,
the output head and the fused experts of a mixture, which are no linear layers, stay frozen as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from r1lab.model.quantize import check_precision, dequantize
from r1lab.model.quantize import quantize as quantized
from r1lab.packages import absent, needed

ALL = "all-linear"
_PEFT = ("adapter.rank", "peft", "pip install 'r1lab[quantized]'")


def check_adapter(*, rank: int | None, alpha: float, targets: str | Sequence[str], quantize: str | None, **_: Any):
    """Raise ValueError for settings that are out of range, ImportError without what they need."""
    if rank is None:
        if quantize is not None:
            raise ValueError(f"adapter.quantize={quantize} is for a frozen base, and the whole policy is trained: "
                             "set adapter.rank, or take adapter=qlora")  # fmt: skip
        return
    if rank < 1:
        raise ValueError(f"adapter.rank must be at least 1, or null for none, got {rank}")
    if alpha <= 0:
        raise ValueError(f"adapter.alpha must be above 0, got {alpha}")
    if not targets or (isinstance(targets, str) and targets != ALL):
        raise ValueError(f"adapter.targets={targets} must be {ALL}, or a list of names such as [q_proj,v_proj]")
    check_precision(quantize, "adapter.quantize")
    if find_spec("peft") is None:
        raise absent(*_PEFT)


def with_adapters(
    model: PreTrainedModel,
    *,
    rank: int | None,
    alpha: float,
    targets: str | Sequence[str],
    quantize: str | None,
    seed: int,
) -> PreTrainedModel:
    """The model itself, in place: all frozen but new adapters in float32, which at first change nothing.

    A linear layer x W^T becomes x W^T + (alpha / rank) x A^T B^T. There is no dropout: the policy that is trained must
    be the one that sampled.

    Args:
        rank: of A and B; None: the model as it is.
        targets: all-linear, or names of linear layers of the body.
        quantize: 8bit or nf4, of the frozen weights; None: as they are.
        seed: of A; B starts at zero.

    Raises:
        ValueError: for settings out of range, or targets that are not there.
        ImportError: without peft or, to quantise, without bitsandbytes.
    """
    settings = {"rank": rank, "alpha": alpha, "targets": targets, "quantize": quantize, "seed": seed}
    check_adapter(**settings)
    if rank is None:
        return model
    with needed(*_PEFT):
        from peft import LoraConfig, inject_adapter_in_model

    quantized(model.requires_grad_(False), quantize)
    # Without the body's config: by it peft takes the linear layers of a mixture's shared experts for routed ones.
    body = nn.ModuleDict({"body": model.base_model})
    linear = [name for name, module in body.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in linear if targets == ALL or name.rpartition(".")[2] in targets]
    if missing := [] if targets == ALL else sorted({*targets} - {name.rpartition(".")[2] for name in chosen}):
        there = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise ValueError(f"adapter.targets: there is no linear layer {', '.join(missing)}; the model has {there}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modes = [(part, part.training) for part in model.modules()]
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen, lora_dropout=0.0), body)
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()  # small steps are lost in bfloat16
    model.adapter_settings = settings  # for a checkpoint to make the same again
    model.eval()
    for part, training in modes:
        part.training = training  # which checkpoints a layer's activations
    return model


def adapter_settings(model: nn.Module) -> dict[str, Any] | None:
    """What a model's adapters were made with; None for a model without."""
    return getattr(model, "adapter_settings", None)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is what it was before its adapters.

    peft would freeze them meanwhile. FSDP2 looks at its first pass which parameters are trained, and in what dtype.
    """
    learns = [p for p in model.parameters() if p.requires_grad]
    for layer in _layers(model):
        layer.enable_adapters(False)
    for p in learns:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for layer in _layers(model):
            layer.enable_adapters(True)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, in place, without adapters: their product added to the weights, which are no longer quantised.

    The sum is in the dtype of the base's weights: bfloat16 rounds most of it away, so merge in float32.
    """
    dequantize(model)
    for name, layer in [(name, module) for name, module in model.named_modules() if _is_layer(module)]:
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer.get_base_layer())
    del model.adapter_settings
    return model.requires_grad_(True)


def _layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if _is_layer(module)]


def _is_layer(module: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)
