"""Which parts of a model are gathered and sharded as one: the wrap policy of DeepSeek-V3 and of any decoder."""

from torch import nn


def blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder layers of a transformers model, each behind its experts where it has some.

    A layer's experts are nearly all of a mixture's weights: apart, the rest of the layer runs before they are there.
    """
    layers = {
        name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()
    }  # of a value model, those of the trunk in it
    return [
        part
        for layer in model.modules()
        if type(layer).__name__ in layers
        for part in (*(p for p in layer.modules() if type(p).__name__.endswith("Experts")), layer)
    ]
