"""expert_load.csv: how many tokens went to each expert of a mixture, step by step, for a picture of it.

One line a step and layer: step, layer, and the load of each expert relative to the mean of its layer.
"""

from pathlib import Path
from typing import Any

import lightning as L

from r1lab.callback.line_file import append_lines, complete_lines, replace_lines


class ExpertLoad(L.Callback):
    """Writes the load of every router of the policy, all ranks together; no file where there is none.

    On resume, lines past the restored step go.

    Args:
        path: of the file.
        every: training steps between two that are written.
    """

    def __init__(self, path: str | Path, *, every: int):
        if every < 1:
            raise ValueError(f"callback.expert_load.every must be at least 1, got {every}")
        self.path, self.every = Path(path), every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            header, *lines = complete_lines(self.path) or [""]
            kept = [line for line in lines if int(line.split(",", 1)[0]) <= pl_module.step]
            if kept:
                replace_lines(self.path, [header, *kept])
            else:
                self.path.unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        routing = pl_module.routing
        if routing is None or not trainer.is_global_zero or pl_module.step % self.every or not routing.latest.sum():
            return
        load = routing.latest / routing.latest.mean(-1, keepdim=True)
        lines = [
            ",".join([str(pl_module.step), str(layer), *(f"{value:.4g}" for value in row)])
            for layer, row in enumerate(load.tolist())
        ]
        if not self.path.exists():
            lines = [",".join(["step", "layer", *(f"expert_{i}" for i in range(load.shape[1]))]), *lines]
        append_lines(self.path, lines)
