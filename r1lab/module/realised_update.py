"""The share of an optimizer's update that reaches the weights, measured on a sample of the trained elements.

Weights in bfloat16 have 8 significant bits, so an update below 2^-9 of a weight's size can be rounded away. AdamW
moves each element by about the learning rate: at 1e-5 most weights above 0.005 stay as they are.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from r1lab.model.weights import QUANTILE_BLOCK
from r1lab.strategy.sharded import local

SAMPLE = 65_536  # elements per parameter group and rank
LEAST = 0.5  # ratio of norms below which training hardly moves the weights
# torch's optimizers that update each element from its own gradient and state alone.
ELEMENTWISE = (
    optim.Adadelta,
    optim.Adagrad,
    optim.Adam,
    optim.Adamax,
    optim.AdamW,
    optim.ASGD,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.Rprop,
    optim.SGD,
)


@dataclass(frozen=True)
class Sample:
    """Elements of a parameter group on this rank.

    Args:
        places: parameters, each with the int64 [n] positions of its sampled elements in this rank's part of it.
        fraction: of the group's elements on this rank, the fraction that is sampled.
    """

    places: Sequence[tuple[nn.Parameter, Tensor]]
    fraction: float

    def values(self) -> Tensor:
        """The elements as they are now, float64 [N]."""
        return _joined(_take(p, where) for p, where in self.places)


def choose(parameters: Sequence[nn.Parameter], size: int = SAMPLE) -> Sample:
    """Draw about `size` elements of this rank's parts, the same in each run; all elements if there are no more."""
    sizes = torch.tensor([local(p).numel() for p in parameters], dtype=torch.int64)
    total = int(sizes.sum())
    drawn = torch.arange(total)
    if total > size:
        drawn = torch.randint(total, (size,), generator=torch.Generator().manual_seed(0)).unique()
    ends = sizes.cumsum(0)
    owners = torch.bucketize(drawn, ends, right=True)
    places = []
    for number in owners.unique().tolist():
        p, start = parameters[number], ends[number] - sizes[number]
        places.append((p, (drawn[owners == number] - start).to(local(p).device)))
    return Sample(places, len(drawn) / total if total else 1.0)


def can_measure(optimizer: optim.Optimizer) -> bool:
    """Whether `measure` knows the optimizer: `ELEMENTWISE`, and AdamW of bitsandbytes."""
    return type(optimizer) in ELEMENTWISE or _is_bitsandbytes_adam(optimizer)


@torch.no_grad()
def measure(optimizer: optim.Optimizer, samples: Sequence[Sample], step: Callable[[], Any]) -> Tensor:
    """Step the optimizer, and compare the update that the weights take with the update that it proposes.

    The proposed update is computed in float64 from gradients and optimizer state before the step: no weights' dtype
    rounds it.

    Args:
        samples: of each parameter group.
        step: steps the optimizer.

    Returns:
        Squared norms of the realised and the proposed update of this rank's parts, float64 [groups, 2] on the CPU,
        estimated from the samples.
    """
    proposed = [_proposed(optimizer, *pair) for pair in zip(optimizer.param_groups, samples, strict=True)]
    before = [sample.values() for sample in samples]
    step()
    realised = [sample.values() - old for sample, old in zip(samples, before, strict=True)]
    norms = [torch.stack([a.square().sum(), b.square().sum()]) for a, b in zip(realised, proposed, strict=True)]
    return torch.stack([norm.cpu() / sample.fraction for norm, sample in zip(norms, samples, strict=True)])


def ratios(squares: Tensor) -> list[float]:
    """Norm of the realised update / norm of the proposed one of each group, from their squares [groups, 2]; NaN where
    no update is proposed."""
    return [math.sqrt(realised / proposed) if proposed else math.nan for realised, proposed in squares.tolist()]


def metric_prefix(group: dict[str, Any]) -> str:
    """Prefix of a parameter group's metric names."""
    return f"{group['name']}_" if "name" in group else ""


def rounding_warning(group: dict[str, Any], ratio: float, step: int) -> str | None:
    """Warning text for this ratio of norms, with the setting that helps; None at `LEAST` or above."""
    if not ratio < LEAST:
        return None
    prefix, dtypes = metric_prefix(group), {p.dtype for p in group["params"]}
    remedy = "raise optimizer.lr"
    if any(dtype.itemsize < 4 for dtype in dtypes):
        remedy = "train float32 weights with trainer.precision=bf16-mixed model.policy.dtype=float32"
    named = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    return (
        f"optimizer/{prefix}realised={ratio:.3f} at step {step}, expected about 1: {named} weights round away most of "
        f"each update at {prefix}lr={group['lr']:g} and hardly learn; {remedy}"
    )


def _proposed(optimizer: optim.Optimizer, group: dict[str, Any], sample: Sample) -> Tensor:
    """The update of the sampled elements by an optimizer of the same kind on float64 copies of them."""
    if not sample.places:
        return sample.values()
    eight_bit = _is_bitsandbytes_adam(optimizer)
    options = {key: value for key, value in group.items() if key != "params"}
    if eight_bit:
        options = {key: options[key] for key in ("lr", "eps", "weight_decay")} | {"betas": tuple(options["betas"][:2])}
    copies = [nn.Parameter(_like(p, _take(p, where))) for p, where in sample.places]
    before = _joined(copies)
    exact = (optim.AdamW if eight_bit else type(optimizer))([{"params": copies, **options}])
    state_of = _bitsandbytes_state if eight_bit else _state
    for copy, (p, where) in zip(copies, sample.places, strict=True):
        copy.grad = None if p.grad is None else _like(p, _take(p.grad, where))
        if p in optimizer.state:
            exact.state[copy] = state_of(optimizer.state[p], p, where)
    exact.step()
    return _joined(copies) - before


def _state(state: dict[str, Any], p: nn.Parameter, where: Tensor) -> dict[str, Any]:
    """The sampled elements of state with the parameter's shape; the rest, such as the step's number, as it is."""
    return {key: _part(value, p, where) for key, value in state.items()}


def _part(value: Any, p: nn.Parameter, where: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 0:
        return value.to(torch.float64 if p.dim() == 0 else value.dtype, copy=True)
    return _take(value, where) if value.shape == p.shape else value.clone()


def _bitsandbytes_state(state: dict[str, Any], p: nn.Parameter, where: Tensor) -> dict[str, Any]:
    """Moments of 8 bits are places in a table, times a scale per block; those of small parameters are float32."""
    if "step" not in state:
        return {}
    moments = []
    for number in (1, 2):
        moment = torch.take(state[f"state{number}"], where)
        if moment.dtype == torch.uint8:
            moment = state[f"qmap{number}"][moment.long()] * state[f"absmax{number}"][where // QUANTILE_BLOCK]
        moments.append(moment.double())
    return {"step": torch.tensor(float(state["step"])), "exp_avg": moments[0], "exp_avg_sq": moments[1]}


def _is_bitsandbytes_adam(optimizer: optim.Optimizer) -> bool:
    ours = any(base.__module__.startswith("bitsandbytes.") for base in type(optimizer).__mro__)
    return ours and getattr(optimizer, "optimizer_name", None) == "adam"


def _take(tensor: Tensor, where: Tensor) -> Tensor:
    """Elements of this rank's part, float64 [n]."""
    return torch.take(local(tensor).detach(), where).double()


def _like(p: nn.Parameter, taken: Tensor) -> Tensor:
    """A single number where the parameter is one, as its state is."""
    return taken if p.dim() else taken.squeeze(0)


def _joined(parts: Iterable[Tensor]) -> Tensor:
    flat = [part.flatten() for part in parts]
    return torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
