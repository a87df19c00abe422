"""Models of shapes alone: built on the meta device, computed with as on a GPU, at a few of their layers' depth.

A model of 671 billion parameters is built in seconds and holds none of them. A layer is like the others of its kind,
so two of each are enough to compute with; `FakeModel.extra` says how many there are beside them.
"""

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.integrations.moe import ExpertsInterface, grouped_mm_experts_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

DEPTH = 2  # layers of a kind that are computed with
_NAME = "r1lab_fake"
_FLASH_WIDTH = 256  # largest head of the flash kernel
_GROUPED = [getattr(place, name) for place, name in ((torch.nn.functional, "grouped_mm"), (torch, "_grouped_mm"))]
aten = torch.ops.aten


def meta_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A model without data, whole: for its parameters' shapes."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype).eval()


def layer_list(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers: of its lists of modules the one with the most parameters."""
    lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def kind(layer: nn.Module) -> tuple:
    """What layers that compute alike have in common."""
    return type(layer), *((name, p.shape) for name, p in layer.named_parameters())


@dataclass
class FakeModel:
    """A model of at most `DEPTH` layers a kind on fake tensors; extra: how many more the whole has, layer by layer."""

    model: PreTrainedModel
    mode: FakeTensorMode
    extra: list[int]

    @classmethod
    def of(cls, whole: PreTrainedModel, mode: FakeTensorMode, *, attention: str | None = "sdpa") -> "FakeModel":
        """The fake of a model on the meta device, which is left alone.

        Args:
            attention: eager, which holds the scores of all pairs; all others are fused kernels.
        """
        model = copy.deepcopy(whole)
        extra = _shorten(model)
        # The loop over experts would ask for data; the grouped product saves as much.
        model.config._experts_implementation = _NAME
        model.config._attn_implementation = "eager" if attention == "eager" else _NAME
        memo: dict[int, Tensor] = {}
        with mode:
            for module in model.modules():
                for tensors in (module._parameters, module._buffers):
                    for name, x in tensors.items():
                        if x is not None:
                            memo[id(x)] = tensors[name] = memo[id(x)] if id(x) in memo else _like(x)
        return cls(model, mode, extra)

    @property
    def layers(self) -> nn.ModuleList:
        return layer_list(self.model)

    @property
    def beside_layers(self) -> list[nn.Module]:
        """The modules that stand beside the list of layers: embedding, last norm and so on."""
        layers = self.layers
        parent = next(m for m in self.model.modules() if any(child is layers for child in m.children()))
        return [child for child in parent.children() if child is not layers]


def _like(x: Tensor) -> Tensor:
    empty = torch.empty(x.shape, dtype=x.dtype)
    return nn.Parameter(empty, requires_grad=x.requires_grad) if isinstance(x, nn.Parameter) else empty


def _shorten(model: PreTrainedModel) -> list[int]:
    """Leave `DEPTH` layers of each kind; of each that is left, how many like it went: all on the last of its kind."""
    layers = layer_list(model)
    number = Counter(kind(layer) for layer in layers)
    kept, left = [], Counter()
    for index, layer in enumerate(layers):
        left[kind(layer)] += 1
        if left[kind(layer)] <= DEPTH:
            kept.append(index)
    extra, seen = [], Counter()
    for index in kept:
        own = kind(layers[index])
        seen[own] += 1
        extra.append(number[own] - DEPTH if seen[own] == DEPTH else 0)
    types = getattr(model.config, "layer_types", None)
    if types:
        model.config.layer_types = [types[index] for index in kept]
    model.config.num_hidden_layers = len(kept)
    chosen = [layers[index] for index in kept]
    del layers[:]
    layers.extend(chosen)
    for number_now, layer in enumerate(layers):  # their place in the key-value cache
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number_now
    return extra


# ---- attention and experts as a GPU computes them -------------------------------------------------------------------


class _OnGPU(TorchFunctionMode):
    """Inside, scaled dot product attention is the kernel that PyTorch takes on an NVIDIA GPU from Ampere on.

    By aten/src/ATen/native/transformers/cuda/sdp_utils.cpp: flash (or cuDNN's, which saves as much) for 16 bits
    without a mask; the memory-efficient kernel for float32, for masks, and for heads of two widths as in MLA; what
    keeps all scores for float32 whose heads share keys and values, which that kernel cannot do.
    The grouped product of float32, which fake tensors lack, is a loop over experts there, see `_Grouped`.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _fused(*args, **kwargs)
        if func in _GROUPED and args[0].dtype != torch.bfloat16:
            return _Grouped.apply(args[0], args[1])
        return func(*args, **kwargs)


class _Grouped(torch.autograd.Function):
    """Shapes of [S, in] x experts [E, in, out] -> [S, out]: what it saves, and the gradients that are wanted."""

    @staticmethod
    def forward(ctx, tokens, weight):
        of_tokens, of_weight = ctx.needs_input_grad
        ctx.save_for_backward(tokens if of_weight else None, weight if of_tokens else None)
        ctx.made = [(x.shape, x.dtype) if wanted else None for x, wanted in ((tokens, of_tokens), (weight, of_weight))]
        return tokens.new_empty(len(tokens), weight.shape[2])

    @staticmethod
    def backward(ctx, _):
        return tuple(made and torch.empty(made[0], dtype=made[1]) for made in ctx.made)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if torch.is_autocast_enabled("cpu"):  # which casts for this on a GPU; rotated queries and keys are float32
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
    half = query.dtype in (torch.bfloat16, torch.float16)
    if half and attn_mask is None and query.shape[-1] == value.shape[-1] <= _FLASH_WIDTH:
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[0]
    if enable_gqa:
        options = {"scale": scale, "enable_gqa": True}
        return aten._scaled_dot_product_attention_math(query, key, value, attn_mask, 0.0, is_causal, **options)[0]
    bias = None
    if attn_mask is not None:
        bias = torch.zeros(attn_mask.shape, dtype=query.dtype).expand(*query.shape[:3], key.shape[2])
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    options = {"scale": scale}
    return aten._scaled_dot_product_efficient_attention(query, key, value, bias, grad, 0.0, is_causal, **options)[0]


def _attention(module, query, key, value, attention_mask, **options):
    """transformers' own, without the mask that it would make of fake tensors where a GPU needs none."""
    if attention_mask is not None and attention_mask.dim() == 2:  # [B, K] of a left-padded batch
        shape = attention_mask.shape[0], 1, query.shape[2], key.shape[2]
        attention_mask = torch.ones(shape, dtype=torch.bool)
    with _OnGPU():
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _experts(self, *states: Tensor) -> Tensor:
    with _OnGPU():
        return grouped_mm_experts_forward(self, *states)


AttentionInterface.register(_NAME, _attention)
ExpertsInterface.register(_NAME, _experts)
