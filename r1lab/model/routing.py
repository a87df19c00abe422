"""The routers of a model while it trains: their load, the balance loss of a pass, and experts that are given to them.

transformers' routers neither count nor balance; hooks on them do, while a pass is watched and at no other time, so
that sampling, a reference's passes and validation leave no trace.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from r1lab.model.moe import (
    biases,
    load_metrics,
    load_of,
    next_bias,
    routers,
    sequence_balance,
    set_biases,
    weights_of,
)


class Routing:
    """Watches the routers of one or more models.

    Args:
        models: whose routers; None is passed over. At least one must have a router.
        balance: whether passes have a balance loss.
    """

    def __init__(self, *models: nn.Module | None, balance: bool):
        self.routers = routers(*models)
        self.balance = balance
        self.load = self.latest = self._no_load()  # since the last step, on this rank; of the last step, on all
        self.changed = self.replayed = 0  # tokens that would have gone elsewhere, of those that were given experts
        self._sequences: Tensor | None = None
        self._num_sequences = 0
        self._given: Tensor | None = None
        self._elsewhere: Tensor | None = None
        self._losses: list[Tensor] = []
        self._hooks = [
            router.register_forward_hook(self._hook(layer)) for layer, router in enumerate(self.routers.values())
        ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def bias(self) -> Tensor:
        """A copy of the routers' biases, float32 [L,E]."""
        return biases(self.routers)

    @contextmanager
    def watch(self, sequences: Tensor, num_sequences: int, given: Tensor | None = None) -> Iterator[None]:
        """Inside, a forward pass (with gradient) is counted; it must hold the backward pass as well.

        Args:
            sequences: int64 [...], the number of each token's sequence, -1 at padding; num_sequences: how many.
            given: int64 [...,L,K], experts that tokens are to go to, -1 where the router chooses (see `Recorder`).
        """
        self._sequences, self._num_sequences, self._losses = sequences.flatten(), num_sequences, []
        if given is not None:
            self._given = given.flatten(0, -3)
            self._elsewhere = torch.zeros_like(self._sequences, dtype=torch.bool)
        try:
            yield
            if given is not None and torch.is_grad_enabled():
                self.changed += int(self._elsewhere.sum())
                self.replayed += int(((self._given[:, 0, 0] >= 0) & (self._sequences >= 0)).sum())
        finally:
            self._sequences = self._given = self._elsewhere = None
            self._losses = []

    @contextmanager
    def over(self, sequences: Tensor) -> Iterator[None]:
        """Inside a watched pass, a part of it over fewer of its tokens."""
        before = self._sequences
        self._sequences = sequences.flatten().where(before >= 0, -1)
        try:
            yield
        finally:
            self._sequences = before

    @property
    def loss(self) -> Tensor | float:
        """Of the pass that is watched: `sequence_balance` summed over layers and sequences."""
        return sum(self._losses) if self._losses else 0.0

    def step(self, *, rate: float, everyone: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The metrics of the passes since the last step, and the bias after them; the count begins anew.

        Args:
            rate: of the bias's update, 0 leaves it as it is.
            everyone: a tensor of this rank -> its sum over all.
        """
        self.latest = everyone(self.load)
        if rate:
            set_biases(next_bias(self.bias, self.latest, rate), self.routers)
        metrics = {}
        found = load_metrics(self.latest) if self.latest.sum() else {}  # no token counted
        for name, values in found.items():
            metrics |= {f"layer_{layer}/{name}": float(value) for layer, value in enumerate(values)}
            metrics[name] = float(values.mean())
        counts = everyone(torch.tensor([self.changed, self.replayed], dtype=torch.float32, device=self.load.device))
        if counts[1]:
            metrics["changed"] = float(counts[0] / counts[1])
        self.load, self.changed, self.replayed = self._no_load(), 0, 0
        return metrics

    def _no_load(self) -> Tensor:
        return torch.zeros_like(self.bias)

    def _hook(self, layer: int) -> Callable:
        def called(router: nn.Module, _: tuple, output: tuple[Tensor, Tensor, Tensor]):
            if self._sequences is None:
                return None
            logits, weights, chosen = output
            # What gradient checkpointing computes again, in the backward pass, must be the same and counts once.
            again = torch._C._current_graph_task_id() != -1
            if self._given is not None:
                given = self._given[:, layer]
                elsewhere = (given >= 0).all(1) & (given.sort(1).values != chosen.sort(1).values).any(1)
                self._elsewhere |= elsewhere & (self._sequences >= 0) & (not again)
                chosen = torch.where(given >= 0, given, chosen)
                weights = weights_of(logits, chosen, router).to(weights.dtype)
            if torch.is_grad_enabled():
                if not again:
                    self.load[layer] += load_of(chosen, self._sequences >= 0, self.load.shape[1])
                if self.balance:
                    loss = sequence_balance(logits, self._sequences, self._num_sequences, router.top_k)
                    self._losses += [] if again else [loss]
            return logits, weights, chosen

        return called


class Recorder:
    """The experts that the tokens of a pass without gradient went to, for an engine that samples.

    Use as `with recorder: model(...)`, then `recorder.take()`.
    """

    def __init__(self, model: nn.Module):
        self._routers = routers(model)
        self._chosen: list[Tensor] = []
        self._hooks: list = []

    def __enter__(self) -> "Recorder":
        def called(router: nn.Module, _: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
            self._chosen.append(output[2])

        self._hooks = [router.register_forward_hook(called) for router in self._routers.values()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def take(self) -> Tensor:
        """Int64 [N,L,K] of the pass since the last call."""
        chosen, self._chosen = torch.stack(self._chosen, 1), []
        return chosen
