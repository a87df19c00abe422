"""A model's weights as shapes, and what is made of each: its shard, its gradient, its optimizer state, in bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from transformers import PreTrainedModel

from r1lab.model.fake import layer_list
from r1lab.model.quantize import is_packed, quantized_weights

SMALL = 4096  # numbers below which bitsandbytes keeps 32-bit state (min_8bit_size of its optimizers)
PAGED_FROM = 100_000  # numbers from which it pages it (Optimizer8bit.get_state_buffer)
QUANTILE_BLOCK = 256  # numbers that share a scale of its 8-bit state
QMAPS = 2 * 256 * 4  # its two tables, one of each for all
MOMENTS = {"Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2, "Adamax": 2, "Adagrad": 1, "Lion": 1}


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer. layer: number of its layer, None where it is in none."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer: int | None
    parameter: bool

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def shard(self, ranks: int, *, flat: bool) -> "Weight":
        """The largest that a rank holds of it.

        flat: FSDP, which cuts the numbers in a row; else FSDP2, whose shards are whole rows: 256 experts in one tensor
        are 256 shards at most, however many the ranks.
        """
        if not self.parameter or ranks == 1 or not self.shape:
            return self
        shape = (-(-self.numel // ranks),) if flat else (-(-self.shape[0] // ranks), *self.shape[1:])
        return Weight(self.name, shape, self.dtype, self.layer, True)


def weights_of(model: PreTrainedModel, dtype: torch.dtype | None = None) -> list[Weight]:
    """Of a model on any device, the meta device too; tied ones once. dtype: what they are cast to, where it is set."""
    layers = {id(x): i for i, layer in enumerate(layer_list(model)) for x in (*layer.parameters(), *layer.buffers())}
    found: dict[int, Weight] = {}
    for parameter, named in ((True, model.named_parameters()), (False, model.named_buffers())):
        for name, x in named:
            own = dtype if dtype is not None and x.is_floating_point() else x.dtype
            found[id(x)] = Weight(name, tuple(x.shape), own, layers.get(id(x)), parameter)
    return list(found.values())


def total(weights: Iterable[Weight]) -> int:
    """Bytes."""
    return sum(weight.nbytes for weight in weights)


def counted(model: PreTrainedModel) -> tuple[int, int]:
    """Parameters, and those that a token is computed with: of routed experts the `num_experts_per_tok` alone."""
    config = model.config
    experts = next((n for name in _EXPERTS if (n := getattr(config, name, None))), 1)
    share = getattr(config, "num_experts_per_tok", None) or experts
    sizes = [(name, p.numel()) for name, p in model.named_parameters() if not is_packed(name)]
    sizes += [(name, quantized.shape.numel()) for name, quantized in quantized_weights(model).items()]
    sizes = [(".experts." in name, number) for name, number in sizes]
    return sum(n for _, n in sizes), sum(n * share // experts if routed else n for routed, n in sizes)


_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")


@dataclass(frozen=True)
class OptimizerBytes:
    """state: on the device. host: paged to the host's memory. step: what a step takes beside them, for a moment."""

    state: int
    host: int
    step: int


def optimizer_bytes(name: str, weights: Sequence[Weight], *, momentum: bool = False) -> OptimizerBytes:
    """Of an optimizer class of torch.optim or bitsandbytes by its name, for the weights (or shards) that it steps.

    PyTorch's steps all weights of a kind at once on a GPU (`foreach`), and holds the roots of all second moments at a
    time. bitsandbytes' kernels step in place. Raises ValueError for a class whose state is not known.
    """
    plain = name.removeprefix("Paged")
    bits = next((n for n in ("8bit", "32bit") if plain.endswith(n)), "")
    kind = plain.removesuffix(bits) if bits else plain
    numbers = sum(weight.numel for weight in weights)
    if kind == "SGD" and not bits:
        return OptimizerBytes(total(weights) if momentum else 0, 0, 0)
    if kind not in MOMENTS:
        raise ValueError(
            f"optimizer.optimizer._target_: the state of {name} is not known to the planner; it knows SGD, "
            f"{', '.join(MOMENTS)}, and bitsandbytes' 8bit, 32bit and Paged ones of Adam, AdamW and Lion"
        )
    moments = MOMENTS[kind]
    if not bits and name == plain:
        steps = 4 * len(weights)  # a float32 counter each
        return OptimizerBytes(moments * total(weights) + steps, 0, total(weights) if moments == 2 else 0)
    state = {True: 0, False: 0}
    for weight in weights:
        number = 4 * weight.numel
        if bits == "8bit" and weight.numel >= SMALL:
            number = weight.numel + 4 * -(-weight.numel // QUANTILE_BLOCK)
        state[name != plain and weight.numel >= PAGED_FROM] += moments * number
    tables = QMAPS * moments // 2 if bits == "8bit" and numbers and max(w.numel for w in weights) >= SMALL else 0
    return OptimizerBytes(state[False] + tables, state[True], 0)
