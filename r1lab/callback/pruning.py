"""Pruning: after each validation the objective is reported, and a run that promises nothing ends there."""

from collections.abc import Callable

import lightning as L


class Pruning(L.Callback):
    """Reports the objective after each validation; ends the training where told to.

    Args:
        metric: the objective.
        report: value and training step -> whether the run is to end; called on one rank, heeded by all.
    """

    def __init__(self, *, metric: str, report: Callable[[float, int], bool]):
        self.metric, self.report = metric, report
        self.pruned = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.metric not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("validation/")))
            raise ValueError(f"objective={self.metric} is not measured in a validation; there are {known}")
        value = float(trainer.callback_metrics[self.metric])
        verdict = trainer.is_global_zero and self.report(value, pl_module.step)
        self.pruned = trainer.strategy.broadcast(verdict)
        trainer.should_stop = trainer.should_stop or self.pruned
