"""TensorBoard for runs that are resumed."""

from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger; a run that goes on hides the steps behind its checkpoint, which it is about to take again."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._experiment is None:
            # Handed to the writer, which is made at the first access.
            self._kwargs["purge_step"] = step
        super().log_metrics(metrics, step)
