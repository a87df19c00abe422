"""Lightning's precision for modules that put their own batches on the device."""

from contextlib import nullcontext

from lightning.pytorch.plugins.precision import FSDPPrecision, HalfPrecision, Precision
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from torch import nn

from r1lab.dtype import cast_weights


class _AsIs:
    """Batches are records of token ids, none of whose numbers is to be cast, and Lightning refuses frozen ones; and
    what a step makes (logprobs, rewards, sums of losses) is float32, where Lightning would have new tensors in half."""

    def convert_input(self, data):
        return data

    def forward_context(self):
        return super().forward_context() if "mixed" in self.precision else nullcontext()


class HalfPrecisionAsIs(_AsIs, HalfPrecision):
    """Weights in half precision, but for adapters: what is trained on a frozen base stays as it is, in float32."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        return cast_weights(module, self._desired_input_dtype, keep=_adapters(module))


class FSDPPrecisionAsIs(_AsIs, FSDPPrecision):
    """FSDP's. What is sharded together has one dtype, so a base with adapters is in float32 shards, which FSDP gathers
    in half precision."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        if "true" not in self.precision or _adapters(module):
            return module
        return cast_weights(module, self._desired_input_dtype)


def _adapters(module: nn.Module) -> list[nn.Parameter]:
    """The trained parameters of a module if it has adapters, else none."""
    if not any(hasattr(part, "adapter_settings") for part in module.modules()):
        return []
    return [p for p in module.parameters() if p.requires_grad]


# What Lightning takes for the same precision.
_ALIASES = {
    "None": "32-true",
    "32": "32-true",
    "64": "64-true",
    "16": "16-mixed",
    "bf16": "bf16-mixed",
}
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true")
_REJECTED = {
    "16-mixed": "in float16 (16-mixed) gradients would be clipped while they are scaled",
    "16-true": "AdamW's moments underflow in float16",
}


def standard_precision(precision: str | int | None) -> str:
    """The full name of a precision that Lightning accepts under several.

    Raises ValueError for a precision that cannot be trained in.
    """
    name = _ALIASES.get(str(precision), str(precision))
    if name in PRECISIONS:
        return name
    reason = _REJECTED.get(name)
    raise ValueError(
        f"trainer.precision={precision} is not one of {', '.join(PRECISIONS)}{f': {reason}' if reason else ''}; take "
        "bf16-mixed"
    )


def precision_plugin(precision: str | int | None, strategy: Strategy | str) -> Precision | None:
    """The plugin for a precision under a strategy; None: Lightning's own will do."""
    name = standard_precision(precision)
    if isinstance(strategy, FSDPStrategy):
        return FSDPPrecisionAsIs(name)
    return HalfPrecisionAsIs(name) if name == "bf16-true" else None
