"""Lightning's precision for modules that put their own batches on the device."""

from contextlib import nullcontext

from lightning.pytorch.plugins.precision import FSDPPrecision, HalfPrecision, Precision
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from torch import nn


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
        learns = [p for p in module.parameters() if p.requires_grad]
        adapted = any(hasattr(part, "adapter_settings") for part in module.modules())
        kept = [p.data for p in learns] if adapted else []
        module = super().convert_module(module)
        for p, data in zip(learns, kept, strict=False):
            p.data = data
        return module


class FSDPPrecisionAsIs(_AsIs, FSDPPrecision):
    """FSDP's."""


def precision_plugin(precision: str | int, strategy: Strategy | str) -> Precision | None:
    """The plugin for a precision under a strategy; None: Lightning's own will do."""
    if isinstance(strategy, FSDPStrategy):
        return FSDPPrecisionAsIs({32: "32-true", "32": "32-true"}.get(precision, precision))
    if precision in ("16-true", "bf16-true"):
        return HalfPrecisionAsIs(precision)
    return None
