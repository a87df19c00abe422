"""What training computes: FLOP by kind, counted at every forward pass of a step from the models' shapes."""

from collections.abc import Callable
from typing import Any, Protocol

import lightning as L
import torch
from torch import nn

from r1lab.model.probe import is_probing

KINDS = ("training", "rollout", "scoring")


class Cost(Protocol):
    """`r1lab.model.flops.ForwardCost`."""

    token: float
    pair: float
    head: float
    trained: float


class Flops(L.Callback):
    """Logs `flops/training` (forward and backward, three forward passes' worth, or little over two where little more
    than adapters is trained), `flops/rollout` (sampling),
    `flops/scoring` (passes without gradient: old, reference and teacher logprobs) and `flops/total`, since step 0.

    Padding counts, as it is computed, and of packed rows the pairs of tokens that see one another; validation, the
    scores before and after and learned rewards do not. Of several ranks it is this rank's times their number. What a
    pass with gradient checkpointing computes again is not counted.

    Args:
        cost: model -> its `Cost`.
        budget: of the total, with which the fit ends after a step; None: no end.
    """

    def __init__(self, *, cost: Callable[[nn.Module], Cost], budget: float | None):
        if budget is not None and budget <= 0:
            raise ValueError(f"budget.flops must be above 0, or null for none, got {budget}")
        self.cost, self.budget = cost, budget
        self.spent = dict.fromkeys(KINDS, 0.0)
        self._hooks: list[Any] = []
        self._costs: dict[int, Cost] = {}
        self._passes = 3.0  # that forward and backward are worth

    @property
    def total(self) -> float:
        return sum(self.spent.values())

    # ---- what Lightning calls -------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not on_fit_start, which for callbacks comes before the module's own, where models are checked.
        self.trainer, self.policy = trainer, pl_module.policy
        policy = pl_module.policy
        self._passes = 2.0 + self.cost(policy).trained
        teacher = getattr(pl_module, "teacher", None)
        for model in (policy, pl_module.reference, teacher and teacher.model):
            if model is not None:
                self.watch(model, model.base_model, self.cost(model))
        if pl_module.sampler is not policy:  # of a policy in shards
            self.watch(pl_module.sampler, pl_module.sampler.base_model, self.cost(policy))
        # A value model or a reward model on the policy's trunk adds no body; one of its own is like the policy's.
        body = getattr(pl_module.value_model, "body", None)
        if body is not None:
            self._hooks.append(self.hook(body, self.cost(policy)))
        if (further := getattr(pl_module, "mtp", None)) is not None:
            self._hooks.append(self.hook(further.body, self.cost(further)))
        pl_module.head.watch = self.note_head

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._costs, pl_module.head.watch = [], {}, None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        ranks = trainer.world_size
        spent = {f"flops/{kind}": ranks * value for kind, value in self.spent.items()} | {
            "flops/total": ranks * self.total
        }
        pl_module.log_dict(spent, on_step=True, on_epoch=False, batch_size=1)
        if self.budget is not None:
            # Ranks, which have prompts of their own, end with one another.
            over = trainer.strategy.broadcast(ranks * self.total >= self.budget)
            trainer.should_stop = trainer.should_stop or over

    def state_dict(self) -> dict[str, Any]:
        return {"spent": dict(self.spent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent = dict(state["spent"])

    # ---- counting -------------------------------------------------------------------------------------------------

    def watch(self, model: nn.Module, body: nn.Module, cost: Cost) -> None:
        """Count the passes of a model's body, and of its head where that is called as a module: in sampling."""
        self._costs[id(model)] = cost
        self._hooks.append(self.hook(body, cost))

        def called(_: nn.Module, inputs: tuple) -> None:
            self.add("rollout", cost.head * inputs[0].numel() / inputs[0].shape[-1])

        self._hooks.append(model.get_output_embeddings().register_forward_pre_hook(called))

    def hook(self, body: nn.Module, cost: Cost) -> Any:
        """Registered: the body's passes, at this cost."""

        def called(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            given = next(x for x in (kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args) if x is not None)
            rows, length = given.shape[:2]
            cache = kwargs.get("past_key_values")
            before = cache.get_seq_length() if cache is not None else 0
            pairs = rows * (length * before + length * (length + 1) / 2)
            places = kwargs.get("position_ids")
            if cache is None and places is not None:  # packed: a token sees its own row alone
                pairs = float((places + 1).sum())
            kind = "rollout" if cache is not None else self.kind()
            self.add(kind, cost.token * rows * length + cost.pair * pairs)

        return body.register_forward_pre_hook(called, with_kwargs=True)

    def note_head(self, model: nn.Module, tokens: int) -> None:
        """The head of a watched model was applied to hidden states without a call of the module."""
        if id(model) in self._costs:
            # A teacher's head is applied inside the loss, where gradients are on.
            kind = self.kind() if model is self.policy else "scoring"
            self.add(kind, self._costs[id(model)].head * tokens)

    def kind(self) -> str:
        return "training" if torch.is_grad_enabled() else "scoring"

    def add(self, kind: str, forward: float) -> None:
        if self.trainer.training and not is_probing():
            self.spent[kind] += forward * (self._passes if kind == "training" else 1)
