"""Frozen weights in 8 or 4 bits by bitsandbytes: of a reference, a teacher, a reward model, or of what LoRA adapts.

Quantised are the linear layers of a model's body and the fused experts of a mixture, in blocks of 64 weights that share
a float32 scale: `8bit` to 255 even levels (8.5 bits a weight), `nf4` to the quantiles of a normal distribution (QLoRA,
2305.14314, section 3; 4.5 bits). A product is made with the weights as they come back, in the dtype of its input, which
itself is not quantised. Embeddings, norms, routers and the output head stay as they are.

The layers hold plain uint8 tensors, so that devices, dtypes, copies and checkpoints are PyTorch's own matter.
bitsandbytes' layers are not used: its Linear8bitLt computes in float16 whatever it is given, quantises the activations
too, and leaves its scales behind when the model around it moves; its Linear4bit cannot load what it saves, and repacks
itself on CPUs with AVX512-BF16. Their kernels are the same.
"""

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils.checkpoint import checkpoint

from r1lab.packages import absent, needed

PRECISIONS = ("8bit", "nf4")
BLOCK = 64  # the smallest block of both: the fewest outliers a scale


def bitsandbytes(setting: str) -> ModuleType:
    """The package; ImportError, in one line that names the setting, where it is missing."""
    package = (setting, "bitsandbytes", "pip install 'r1lab[quantized]'")
    if find_spec("bitsandbytes") is None:
        raise absent(*package)
    with needed(*package):
        import bitsandbytes
    return bitsandbytes


def check_precision(precision: str | None, setting: str) -> None:
    """Raise ValueError for an unknown precision, ImportError for a known one without bitsandbytes; None is none."""
    if precision is None:
        return
    if precision not in PRECISIONS:
        raise ValueError(f"{setting}={precision} must be {', '.join(PRECISIONS)}, or null for none")
    bitsandbytes(f"{setting}={precision}")


def refuse_sharded(settings: Iterable[str], strategy: str) -> None:
    """Raise ValueError where a strategy that shards parameters meets settings that quantise something.

    bitsandbytes' operators do not know DTensors ("does not have a sharding strategy registered"), and the state of an
    8-bit optimizer is in blocks that no shard keeps whole.
    """
    if settings := list(settings):
        raise ValueError(
            f"strategy={strategy} shards parameters, which bitsandbytes cannot work on: leave out "
            f"{', '.join(settings)}, or take strategy=ddp"
        )


@cache
def _real_levels(device: torch.device) -> Tensor:
    return bitsandbytes("8bit").functional.create_linear_map(signed=True).to(device)


def _levels(device: torch.device) -> Tensor:
    """Of 8bit: even ones from -1 to 1, float32 [256]; fake ones among fake tensors, as plans are made with."""
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is None and device.type != "meta":
        return _real_levels(device)
    with unset_fake_temporarily() as fake, torch.device("cpu"):
        levels = _real_levels(device)
    return fake.from_tensor(levels) if fake is not None else levels


class Quantized(nn.Module):
    """A weight in few bits; called with a dtype it gives the weight back in it, in its own without.

    Args:
        weight: float32, bfloat16 or float16, of any shape.
        precision: 8bit or nf4.
    """

    def __init__(self, weight: Tensor, precision: str):
        super().__init__()
        self.precision, self.shape = precision, weight.shape
        # Parameters, since data parallelism exchanges buffers in every step; the scales as bytes, since a model that
        # is cast to bfloat16 must not cast them.
        self.packed, self.scales = (nn.Parameter(x, requires_grad=False) for x in self._pack(weight))
        # Empty: its dtype is that of the model around it, whatever that is cast to.
        self.register_buffer("like", weight.detach().new_empty(0), persistent=False)

    def _pack(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        functional = bitsandbytes(self.precision).functional
        weight = weight.detach().contiguous()
        if self.precision == "nf4":
            packed, state = functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
        else:
            packed, state = functional.quantize_blockwise(weight, code=_levels(weight.device), blocksize=BLOCK)
        return packed, state.absmax.view(torch.uint8)

    @torch.no_grad()
    def hold(self, weight: Tensor) -> None:
        """Take another weight of the same shape in its place."""
        for held, new in zip((self.packed, self.scales), self._pack(weight), strict=True):
            held.copy_(new)

    def state(self, dtype: torch.dtype) -> Any:
        """bitsandbytes' QuantState, for a weight that comes back in `dtype`."""
        return bitsandbytes(self.precision).functional.QuantState(
            absmax=self.scales.view(torch.float32),
            shape=self.shape,
            code=None if self.precision == "nf4" else _levels(self.scales.device),
            blocksize=BLOCK,
            quant_type="nf4" if self.precision == "nf4" else None,
            dtype=dtype,
        )

    def forward(self, dtype: torch.dtype | None = None) -> Tensor:
        functional, state = bitsandbytes(self.precision).functional, self.state(dtype or self.like.dtype)
        restore = functional.dequantize_4bit if self.precision == "nf4" else functional.dequantize_blockwise
        return restore(self.packed.data, state)


class _Product(torch.autograd.Function):
    """x [..., K], W [N, K] -> x W^T; the weight is made again for the gradient of x, and never kept."""

    @staticmethod
    def forward(ctx, x: Tensor, quantized: Quantized) -> Tensor:
        ctx.quantized = quantized
        return nn.functional.linear(x, quantized(x.dtype))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.quantized(gradient.dtype), None


class QuantizedLinear(nn.Linear):
    """A linear layer with a quantised weight; `weight` makes the whole of it. peft adapts what is an nn.Linear."""

    def __init__(self, linear: nn.Linear, precision: str):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.quantized = nn.ModuleDict({"weight": Quantized(linear.weight, precision)})

    @property
    def weight(self) -> Tensor:
        return self.quantized["weight"]()

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        quantized = self.quantized["weight"]
        if quantized.precision == "nf4":  # its kernels for few rows read the four bits as they multiply
            out = bitsandbytes("nf4").matmul_4bit(x, quantized.packed.data, quantized.state(x.dtype))
        else:
            out = _Product.apply(x, quantized)
        return out if self.bias is None else out + self.bias.to(out.dtype)


def _experts_forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Of a module with quantised fused weights: they are there during its own forward pass alone, and made again for
    the backward pass.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        for name, quantized in self.quantized.items():
            object.__setattr__(self, name, quantized())
        try:
            return type(self).forward(self, *args, **kwargs)
        finally:
            for name in self.quantized:
                object.__delattr__(self, name)

    if not torch.is_grad_enabled():
        return run(*args, **kwargs)
    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def quantize(model: nn.Module, precision: str | None) -> nn.Module:
    """A transformers model, quantised in place and frozen; as it is for None.

    Args:
        precision: 8bit or nf4.

    Raises:
        ValueError: for another precision, or weights of another dtype than float32, bfloat16 and float16.
        ImportError: without bitsandbytes.
    """
    if precision is None:
        return model
    check_precision(precision, "quantize")
    model.requires_grad_(False)
    body = model.base_model
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.Linear):
            _replace(body, name, QuantizedLinear(module, precision))
            continue
        fused = {own: p for own, p in module.named_parameters(recurse=False) if p.dim() == 3}
        if fused:
            module.quantized = nn.ModuleDict({own: Quantized(p, precision) for own, p in fused.items()})
            for own in fused:
                delattr(module, own)
            module.forward = MethodType(_experts_forward, module)
    return model


def dequantize(model: nn.Module) -> nn.Module:
    """The inverse of `quantize`, in place, but for what was lost: weights are as the quantised ones come back."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            plain.weight, plain.bias = nn.Parameter(module.weight, requires_grad=False), module.bias
            _replace(model, name, plain)
        elif isinstance(getattr(module, "quantized", None), nn.ModuleDict):
            weights = {own: quantized() for own, quantized in module.quantized.items()}
            del module.quantized, module.forward
            for own, weight in weights.items():
                setattr(module, own, nn.Parameter(weight, requires_grad=False))
    return model


def requantize(model: nn.Module, source: nn.Module) -> None:
    """Quantise the weights of `source`, which is not quantised, in the place of the model's, which is a copy of it."""
    for name, quantized in quantized_weights(model).items():
        quantized.hold(source.get_parameter(name))


def quantized_weights(model: nn.Module) -> dict[str, Quantized]:
    """{name of the weight before it was quantised: what there is now}."""
    return {weight_name(name): module for name, module in model.named_modules() if isinstance(module, Quantized)}


def is_packed(name: str) -> bool:
    """Whether an entry of a state dict is part of a quantised weight."""
    return ".quantized." in name


def weight_name(name: str) -> str:
    return name.replace(".quantized.", ".")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
