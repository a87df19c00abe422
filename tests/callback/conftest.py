"""A tiny run with the shape of a real one: rollouts that serve two steps each, validations, checkpoints."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from r1lab.callback.checkpoints import Checkpoints
from r1lab.callback.metrics_csv import MetricsCSV
from r1lab.callback.samples import Samples
from r1lab.module.checkpoint import AtomicCheckpointIO
from r1lab.types import Completion, Prompt

# pass@1 after validated steps: the best is neither the first nor the last
SCORES = {4: 0.25, 8: 0.75, 12: 0.5}


@dataclass(frozen=True)
class TinyRollout:
    prompts: list
    completions: list
    rewards: torch.Tensor
    reward_terms: dict
    kl_penalty: torch.Tensor
    advantages: torch.Tensor


class Prompts(IterableDataset):
    def __init__(self, step):
        self.step = step

    def __iter__(self):
        step = self.step
        while True:
            first = 2 * (step // 2)
            yield [] if step % 2 else [Prompt((1,), f"what is {n}?", str(n), index=n) for n in (first, first + 1)]
            step += 1


class Data(L.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.step = 0

    def train_dataloader(self):
        return DataLoader(Prompts(self.step), batch_size=None)

    def val_dataloader(self):
        return DataLoader([torch.zeros(1)], batch_size=None)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch  # Lightning's own takes no frozen dataclass

    def state_dict(self):
        return {"step": self.trainer.lightning_module.step}

    def load_state_dict(self, state):
        self.step = state["step"]


class TinyModule(L.LightningModule):
    """`events` maps the name of a moment to a call that is made there with the step."""

    updates_per_rollout = 2
    group_size = 2

    def __init__(self, events=None):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.step, self.rollout, self.events = 0, None, events or {}

    def happens(self, moment):
        self.events.get(moment, lambda step: None)(self.step)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def training_step(self, prompts, batch_idx):
        self.happens("step begins")
        if prompts:
            expanded = [p for p in prompts for _ in range(2)]
            written = [Completion((1,) * (i + 1), f"text {i}", truncated=i == 3) for i in range(4)]
            rewards = torch.arange(4.0) + self.step
            terms = {"accuracy": rewards.tolist(), "format": [None, 1.0, 0.0, 1.0]}
            self.rollout = TinyRollout(
                expanded, written, rewards, terms, torch.zeros(4), torch.tensor([-1.0, 1.0, -1.0, 1.0])
            )
            self.log_dict(
                {"reward/accuracy": float(rewards.mean()) / 20, "rollout/completion_length": 2.5 + self.step},
                on_step=True,
                on_epoch=False,
            )
        loss = (self.weight - self.step) ** 2
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        self.step += 1
        self.log("loss/total", loss.detach(), on_step=True, on_epoch=False)

    def validation_step(self, batch, batch_idx):
        self.happens("validation")
        self.log_dict({"validation/pass_at_1": SCORES[self.step]}, batch_size=1)

    def on_train_batch_end(self, *args):
        self.happens("step ends")

    def on_validation_end(self):
        self.happens("validation ends")

    def on_save_checkpoint(self, checkpoint):
        self.happens("checkpoint")
        checkpoint["step"] = self.step
        checkpoint["rewards"] = self.rollout.rewards

    def on_load_checkpoint(self, checkpoint):
        self.step = checkpoint["step"]
        rewards = checkpoint["rewards"]
        self.rollout = TinyRollout([], [], rewards, {}, rewards, rewards)


@pytest.fixture
def fit(monkeypatch):
    """fit(folder, events=..., callbacks=..., resume=...) -> (module, trainer); 12 steps, a validation every 4."""

    def run(folder, *, events=None, callbacks=None, resume=False, steps=12, plugins=None):
        folder = Path(folder)
        module = TinyModule(events)
        if callbacks is None:
            callbacks = run_callbacks(folder)
        trainer = L.Trainer(
            max_steps=steps,
            accelerator="cpu",
            val_check_interval=4,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            logger=False,
            enable_progress_bar=any(isinstance(c, L.pytorch.callbacks.ProgressBar) for c in callbacks),
            enable_checkpointing=any(isinstance(c, Checkpoints) for c in callbacks),
            enable_model_summary=False,
            callbacks=callbacks,
            plugins=plugins or [AtomicCheckpointIO()],
            default_root_dir=folder,
        )
        trainer.fit(module, datamodule=Data(), ckpt_path=folder / "checkpoints/last.ckpt" if resume else None)
        return module, trainer

    return run


def run_callbacks(folder):
    return [
        MetricsCSV(folder / "metrics.csv"),
        Samples(3, folder / "samples.jsonl", groups=2, shown=0),
        Checkpoints(folder / "checkpoints", monitor="validation/pass_at_1", mode="max", every_n_train_steps=3),
    ]


@pytest.fixture
def snapshot(tmp_path):
    """snapshot(folder, name) copies what a process killed at this moment would leave; returns the copy."""

    def copy(folder, name):
        target = tmp_path / name
        shutil.copytree(folder, target)
        # A half-written file beside the good one, as a kill in the middle of a save leaves it.
        checkpoints = target / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        (checkpoints / f".last.ckpt.{os.getpid()}.tmp").write_bytes(b"half")
        return target

    return copy
