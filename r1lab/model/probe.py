"""Short passes of a model that show whether two ways to compute the same thing agree; each kind is run once a model.

Logprobs are trained on right-padded or packed rows under a head of our own, and sampled with a key-value cache behind
left padding. Each of these ways is an assumption about the architecture. A probe compares them on a few tokens before
the first result is used, so that an architecture which breaks an assumption is rejected, never trained on silently.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

# Largest difference of one token's hidden state relative to its norm, and of one token's logprob in nats.
EXACT_HIDDEN, EXACT_LOGPROB = 1e-4, 5e-4
# The same as means over tokens where products are rounded to 16 or fewer bits.
ROUNDED_HIDDEN, ROUNDED_LOGPROB = 0.05, 0.1
# In 16 bits, that of hidden states by what other rows hold: kernels compute a row alike whatever is beside it.
ROUNDED_BESIDE = 5e-4
# Rounding differs with the shape of a batch; as many times the difference that the shape alone makes is accepted.
NOISE = 8

_SEEN: "weakref.WeakKeyDictionary[nn.Module, set]" = weakref.WeakKeyDictionary()
_PASSED: set = set()
_running = 0


def once(model: PreTrainedModel, what: tuple, check: Callable[[], None], *, sharded: bool = False) -> None:
    """Run a check the first time it is asked of a model, or of a copy: the same config, attention, dtype, device and
    weights (by a sample), with as many hooks.

    A model on fake tensors is not checked. A model in shards is checked only with `sharded`, by all ranks together. A
    check that raises is run again at the next call.

    Args:
        what: names the check.
    """
    weight = next(model.parameters())
    autocast = torch.is_autocast_enabled(weight.device.type)
    state = (*what, model.config._attn_implementation, weight.dtype, weight.device.type, sharded, autocast)
    seen = _SEEN.setdefault(model, set())
    if state in seen:
        return
    seen.add(state)  # before the check, which may ask for itself
    if _is_fake(weight) or (not sharded and _in_shards(model)):
        return
    key = (*state, type(model), model.config.to_json_string(), _fingerprint(model))
    if key in _PASSED:
        return
    global _running
    _running += 1
    try:
        with torch.no_grad(), evaluating(model):
            check()
    except BaseException:
        seen.discard(state)
        raise
    finally:
        _running -= 1
    _PASSED.add(key)


def is_probing() -> bool:
    """Whether the passes of models that run now are a check's, and no part of a step."""
    return _running > 0


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Turn off dropout and the like inside; restore the mode of each part of the model afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def probe_rows(model: PreTrainedModel) -> list[list[int]]:
    """Ids of three rows of 5, 3 and 7 tokens, all different where the vocabulary allows it."""
    size = len(model.get_input_embeddings().weight)
    size = min(size, getattr(model.config.get_text_config(), "vocab_size", size))
    ids = [(size // 3 + 7 * i) % size for i in range(15)]
    return [ids[:5], ids[5:8], ids[8:]]


def rounds(model: nn.Module, device: torch.device) -> bool:
    """Whether the model computes products in 16 or fewer bits: by its weights, by quantisation or under autocast."""
    if torch.is_autocast_enabled(device.type):
        return True
    return any(not p.is_floating_point() or p.dtype.itemsize < 4 for p in (*model.parameters(), *_packed(model)))


def relative(found: Tensor, expected: Tensor) -> Tensor:
    """Hidden states [..., H] twice -> norm of their difference relative to that of `expected`, float32 [...]."""
    found, expected = found.float(), expected.float()
    return (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)


def disagreement(rows: list[Tensor], noise: Tensor, rounded: bool, exact: float, mean: float) -> float | None:
    """The largest difference of all rows where it is above what rounding explains, else None.

    Args:
        rows: for each row the differences of its tokens. noise: those that the shape of a batch alone makes.
        exact: bound for each token in full precision. mean: bound for the mean of a row in reduced precision.
    """
    largest = max(float(row.max()) for row in rows)
    if not rounded:
        worst, bound = largest, max(exact, NOISE * float(noise.max()))
    else:
        worst, bound = max(float(row.mean()) for row in rows), max(mean, NOISE * float(noise.mean()))
    return None if worst <= bound else largest


def _fingerprint(model: nn.Module) -> tuple:
    """What tells models of one config apart: some values of each parameter, and the number of hooks."""
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
    local = (p.to_local() if isinstance(p, DTensor) else p for p in model.parameters())
    samples = [p.detach().flatten()[:2].float() for p in local if p.numel()]
    return hooks, tuple(torch.cat(samples).tolist()) if samples else ()


def _is_fake(weight: Tensor) -> bool:
    return weight.is_meta or isinstance(weight, FakeTensor)


def _in_shards(model: nn.Module) -> bool:
    return any(isinstance(part, (FSDPModule, FullyShardedDataParallel)) for part in model.modules())


def _packed(model: nn.Module) -> Iterator[Tensor]:
    """Buffers of whole numbers below 32 bits: quantised weights."""
    return (b for b in model.buffers() if b.dtype in (torch.int8, torch.uint8))
