"""What a rank holds in training, and in which phase of a step it holds the most: from shapes, in bytes.

A step has four phases: rollout, logprobs (passes without gradient: old, reference, teacher), update (forward and
backward of the microbatches) and step (of the optimizer). Weights, gradients and optimizer state are there in all of
them, as from the second microbatch of the second step on; a phase's own parts come on top. Where a step has one
microbatch alone, its gradients are made while activations go, and are not all there at once. The peak is that of the
largest phase. A whole copy to sample from is gathered a bucket or a block at a time, which is in no plan:
an update gathers more, unless most of a model is its embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from r1lab.model.passes import RolloutBytes, UpdateBytes
from r1lab.model.quantize import BLOCK
from r1lab.model.weights import Weight, optimizer_bytes, total

# cuBLAS's workspace on Hopper, 32 MiB for each of the two threads that call it, forward and backward; it is allocated
# by PyTorch and so in its peak.
WORKSPACE = 2 * 32 * 2**20
# On top of the peak: the CUDA context and its kernels' code, and of what is allocated the share that lies fallow
# between blocks. A rule of thumb, and not in max_memory_allocated.
CONTEXT = 600 * 2**20
FRAGMENTED = 0.05
# In the order of a step.
PHASES = ("rollout", "logprobs", "update", "step")
# Bytes a number of quantised weights, with a float32 scale for each block; see `r1lab.model.quantize`.
QUANTISED = {"8bit": 1 + 4 / BLOCK, "nf4": 0.5 + 4 / BLOCK}


@dataclass(frozen=True)
class Sharding:
    """How ranks share a model.

    sharded: parameters, gradients and optimizer state in parts (FSDP), else whole on each rank. flat: see
        `Weight.shard`. param_dtype: of the weights that are gathered for a layer's pass; None: as they are.
        reduce_dtype: of gradients on their way. gather: `layer` by layer in a rollout, or into a `whole` copy that each
        rank keeps for it.
    """

    ranks: int
    sharded: bool = False
    flat: bool = False
    param_dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype | None = None
    gather: str = "layer"
    reference_on_cpu: bool = False
    cpu_offload: bool = False


@dataclass(frozen=True)
class Models:
    """Weights of each model that training holds. trained: of those of policy, value and further the ones that are
    stepped. further: multi-token prediction's."""

    policy: Sequence[Weight]
    trained: Sequence[Weight]
    value: Sequence[Weight] = ()
    reference: Sequence[Weight] = ()
    reference_quantised: str | None = None
    teacher: Sequence[Weight] = ()
    further: Sequence[Weight] = ()


@dataclass(frozen=True)
class Passes:
    """What the passes of a step take, see `r1lab.model.passes`; copies: autocast's of the weights; accumulated: whether
    a microbatch finds the gradients of others."""

    update: UpdateBytes
    logprobs: int = 0
    rollout: RolloutBytes | None = None
    copies: int = 0
    accumulated: bool = True


@dataclass(frozen=True)
class Plan:
    """Bytes of a rank: held in all phases, of each phase beside that, and in the host's memory."""

    held: dict[str, int]
    phases: dict[str, dict[str, int]]
    host: dict[str, int]

    def of_phase(self, name: str) -> int:
        """All that is held in a phase."""
        return sum(self.held.values()) + sum(self.phases[name].values())

    @property
    def largest(self) -> str:
        """The phase with the peak."""
        return max(self.phases, key=self.of_phase)

    @property
    def peak(self) -> int:
        """What PyTorch's `max_memory_allocated` says at the end of a step."""
        return self.of_phase(self.largest)

    @property
    def needed(self) -> int:
        """The peak and the allowance: what a GPU must have."""
        return int(self.peak * (1 + FRAGMENTED)) + CONTEXT


def make_plan(models: Models, passes: Passes, optimizer: str, sharding: Sharding, *, momentum: bool = False) -> Plan:
    """The plan of a rank; with shards of different size, of one with the largest."""
    held, host = _held(models, optimizer, sharding, momentum=momentum)
    own = [w.shard(_parts(sharding), flat=sharding.flat) for w in models.trained]
    step = 0 if sharding.cpu_offload else optimizer_bytes(optimizer, own, momentum=momentum).step
    held |= {"autocast copies": passes.copies, "cuBLAS workspace": WORKSPACE}
    phases = {"update": _update(models, passes.update, sharding), "step": {"temporaries": step}}
    if not passes.accumulated:
        gradients = [] if sharding.cpu_offload else own
        phases["update"]["not there at once"] = -_not_at_once(gradients, passes.update)
    if passes.logprobs:
        phases["logprobs"] = {"pass": passes.logprobs, "gathered weights": _gathered(models.policy, sharding)}
    if passes.rollout:
        rollout = passes.rollout
        phases["rollout"] = {
            "cache": rollout.cache,
            "pass and sampling": rollout.peak - rollout.cache,
            "gathered weights": _gathered(models.policy, sharding) if sharding.gather == "layer" else 0,
        }
    return Plan(_some(held), {name: _some(phases[name]) for name in PHASES if name in phases}, _some(host))


def _some(parts: dict[str, int]) -> dict[str, int]:
    return {name: nbytes for name, nbytes in parts.items() if nbytes}


def _parts(sharding: Sharding) -> int:
    return sharding.ranks if sharding.sharded else 1


def _held(models: Models, optimizer: str, sharding: Sharding, *, momentum: bool):
    """On the device, and on the host."""

    def own(weights: Sequence[Weight]) -> list[Weight]:
        return [w.shard(_parts(sharding), flat=sharding.flat) for w in weights]

    trained = own(models.trained)
    state = optimizer_bytes(optimizer, trained, momentum=momentum)
    reference = total(own(models.reference))
    if models.reference_quantised:
        reference = _quantised(own(models.reference), models.reference_quantised)
    ours = {
        "policy": total(own(models.policy)),
        "value": total(own(models.value)),
        "multi-token prediction": total(own(models.further)),
        "gradients": total(trained),
        "optimizer": state.state,
    }
    rest = {"reference": reference, "teacher": total(models.teacher)}
    if sharding.sharded and sharding.gather == "whole":
        rest["sampler"] = total(_cast(models.policy, sharding.param_dtype))
    if not sharding.sharded and sharding.ranks > 1:
        rest["gradient buckets"] = total(trained)  # DDP's, which are no views of the gradients by default
    held, host = ours | rest, {"optimizer": state.host}
    if sharding.cpu_offload:
        host |= ours | {"optimizer": ours["optimizer"] + state.host}
        held = rest
    if sharding.reference_on_cpu:
        host["reference"] = held.pop("reference")
    return held, host


def _quantised(weights: Sequence[Weight], how: str) -> int:
    """Matrices in the layers are quantised; embeddings, heads and norms are not."""
    return int(sum(w.numel * QUANTISED[how] if w.layer is not None and len(w.shape) > 1 else w.nbytes for w in weights))


def _cast(weights: Sequence[Weight], dtype: torch.dtype | None) -> list[Weight]:
    return [w if dtype is None or not w.parameter else replace(w, dtype=dtype) for w in weights]


def _blocks(weights: Sequence[Weight], dtype: torch.dtype | None) -> tuple[int, int]:
    """Bytes of what is in no layer, and of the largest layer, in the dtype that passes compute in."""
    cast = _cast(weights, dtype)
    layers: dict[int, int] = {}
    for w in cast:
        if w.layer is not None:
            layers[w.layer] = layers.get(w.layer, 0) + w.nbytes
    return total(w for w in cast if w.layer is None and w.parameter), max(layers.values(), default=0)


def _gathered(weights: Sequence[Weight], sharding: Sharding) -> int:
    """Weights that a pass without gradient gathers: the root, a layer, the next one, and what arrives. One rank, to
    which nothing arrives, has copies of the root and a layer; the first FSDP only where they are in another dtype."""
    if not sharding.sharded or (sharding.ranks == 1 and sharding.flat and sharding.param_dtype is None):
        return 0
    root, layer = _blocks(weights, sharding.param_dtype)
    return root + (3 if sharding.ranks > 1 else 1) * layer


def _not_at_once(gradients: Sequence[Weight], update: UpdateBytes) -> int:
    """Of the only microbatch's activations and gradients, by how much their most at a time is below the sum of both.

    Of a layer that is not in shards the gradients that its own backward pass has made so far are left out.
    """
    if not update.course:
        return 0
    layers: dict[int, int] = {}
    for w in gradients:
        if w.layer is not None:
            layers[w.layer] = layers.get(w.layer, 0) + w.nbytes
    last_first = [layers[number] for number in sorted(layers, reverse=True)]
    # What is in no layer is taken to be there from the start, as a head's is, and multi-token prediction's, whose layer
    # is the first in a backward pass.
    beside = update.course[-1][1] - len(last_first)
    at_once = [most + sum(last_first[: max(made - beside, 0)]) for most, made in update.course]
    return update.peak + sum(last_first) - max(at_once)


def _update(models: Models, update: UpdateBytes, sharding: Sharding) -> dict[str, int]:
    parts = {
        "activations": update.activations,
        "head buffers": update.head,
        "temporaries": max(update.peak - update.activations - update.head, 0),
    }
    if gathered := _gathered(models.policy, sharding):
        names = {w.name for w in models.trained}
        trained = [w for w in models.policy if w.name in names]
        root, layer = _blocks(trained, sharding.param_dtype)
        of_reduce = _blocks(trained, sharding.reduce_dtype or sharding.param_dtype)[1]
        # The gradients of a layer stay whole until all are there, and go out as one copy; one is in the temporaries.
        largest = max(replace(w, dtype=sharding.param_dtype or w.dtype).nbytes for w in trained)
        parts["gathered weights"] = gathered
        parts["whole gradients"] = max(root + layer + of_reduce - largest, 0)
        value = [w for w in models.value if w.layer is not None]
        parts["gathered weights"] += _gathered(value, sharding)
    return parts
