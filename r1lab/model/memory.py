"""What training holds in memory between two steps, counted from its tensors: what an algorithm needs beside a policy.

Activations and the key-value cache of a rollout come on top: on a GPU they show in `memory/peak_mib`.
"""

from collections.abc import Iterable
from itertools import chain

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

MIB = 2**20


def memory_mib(
    optimizer: Optimizer, *, policy: nn.Module, reference: nn.Module | None, value: nn.Module | None
) -> dict[str, float]:
    """MiB on this rank: `policy`, `reference`, `value` (weights and buffers), `gradients`, `optimizer` (its state).

    Gradients and state are of all that the optimizer trains, paged state included, wherever its pages are. 0 for what
    is not held; tied weights count once, quantised ones as they lie packed with their scales.
    """
    models = {"policy": policy, "reference": reference, "value": value}
    state = (x for entry in optimizer.state.values() for x in entry.values() if isinstance(x, Tensor))
    gradients = (p.grad for p in trained(optimizer) if p.grad is not None)
    return {
        **{name: weights_mib(model) for name, model in models.items()},
        "gradients": _mib(gradients),
        "optimizer": _mib(state),
    }


def weights_mib(model: nn.Module | None) -> float:
    """MiB of a model's weights and buffers, tied ones once; 0 without a model."""
    return 0.0 if model is None else _mib(chain(model.parameters(), model.buffers()))


def trainable(*models: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [p for model in models for p in model.parameters() if p.requires_grad]


def trained(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters that the optimizer steps."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _mib(tensors: Iterable[Tensor]) -> float:
    parts = (x.to_local() if isinstance(x, DTensor) else x for x in tensors)
    return sum({x.data_ptr(): x.nbytes for x in parts}.values()) / MIB
