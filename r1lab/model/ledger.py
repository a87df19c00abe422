"""What a computation on fake tensors would allocate, and when: its peak without a byte of it.

Fake tensors (torch._subclasses, what torch.compile traces with) have shapes, dtypes and lifetimes as real ones, and no
data. Every operation passes through the ledger, which knows a storage from the operation that makes it to the moment
that nothing refers to it any more. So it sees what autograd saves, what a backward pass needs at a time, what a loss
keeps by mistake, for any architecture.
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK = 512  # bytes: what PyTorch's allocator for CUDA rounds up to, and counts


class Ledger(TorchDispatchMode):
    """Bytes of the storages that operations made and that still live (`now`), and the most since `restart` (`peak`).

    Args:
        held: models whose weights are not counted.
    """

    def __init__(self, *held: nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self._live: dict[int, tuple[int, weakref.ref]] = {}
        self._held = [x.untyped_storage() for model in held for x in (*model.parameters(), *model.buffers())]
        self._known = {id(storage) for storage in self._held}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # An index's gradient is added into zeros made for it; only for tensors of a subclass it is added to a copy.
        backward = torch._C._current_graph_task_id() != -1
        if backward and func is torch.ops.aten.index_put.default and len(args) > 3 and args[3]:  # accumulate
            func = torch.ops.aten.index_put_.default
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._note(x.untyped_storage())
        self.peak = max(self.peak, self.now + _scratch(func, args))
        return out

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._live or key in self._known:
            return
        self._live[key] = rounded(storage.nbytes()), weakref.ref(storage, lambda _: self._drop(key))
        self.now += self._live[key][0]
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int) -> None:
        self.now -= self._live.pop(key)[0]


def rounded(nbytes: int) -> int:
    """What an allocation takes."""
    return -(-nbytes // BLOCK) * BLOCK


def _scratch(func: Any, args: tuple[Any, ...]) -> int:
    """Bytes that an operation allocates inside, unseen: logsumexp the exponentials of what it sums."""
    return rounded(args[0].nbytes) if func is torch.ops.aten.logsumexp.default else 0
