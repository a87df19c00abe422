"""A policy to work with, and the task and engine that go with it: what `evaluate` and `generate` start from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from r1lab.build import build_policy_parts, make
from r1lab.entry import CONF, plain
from r1lab.model.capacity import check_token_ids
from r1lab.model.folder import as_setting
from r1lab.model.policy import NAMED
from r1lab.module.checkpoint import checkpoint_file, load_checkpoint
from r1lab.override import quoted
from r1lab.rollout.engine import RolloutEngine
from r1lab.task.protocol import Task

# What a model is asked that does not know the words of the default task.
_TASKS = {"tiny_bilingual": "bilingual"}
# What of a run's config says how its policy is prompted and sampled.
_NEEDED = ("name", "seed", "model", "task", "rollout", "evaluation")


@dataclass(frozen=True)
class Loaded:
    """A policy in eval mode on the device at hand, its parts, and the resolved config that they are of.

    file: the checkpoint's; None for a Hugging Face model.
    """

    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    engine: RolloutEngine
    config: dict[str, Any]
    file: Path | None


def load(
    checkpoint: str | None, *, model: Mapping[str, Any] | None = None, task: Mapping[str, Any] | None = None
) -> Loaded:
    """The policy of a checkpoint, a run folder (its last), a Hugging Face folder, `tiny`, `tiny_bilingual` or
    `smollm2`.

    Args:
        model: for a Hugging Face folder, the config of the model that has its template; None: that of `model=hf`.
        task: the config of another task than the checkpoint's own; for a model without one, than
            arithmetic (bilingual for `tiny_bilingual`).

    Raises:
        CheckpointError: there is none of these, or it is damaged.
        ValueError: no checkpoint is given, or a model beside one that brings its own.
    """
    disable_progress_bar()
    if not checkpoint:
        raise ValueError("give checkpoint=PATH: a .ckpt file, a run folder, a Hugging Face folder, or tiny")
    file = checkpoint_file(checkpoint)
    if file is not None:
        if model is not None:
            raise ValueError(f"model is for a Hugging Face folder; {file} brings its own")
        policy, tokenizer, config = load_checkpoint(file)
    else:
        config = _default_config(checkpoint, model)
        with as_setting("checkpoint"):
            policy, tokenizer = make(config["model"]["policy"]), make(config["model"]["tokenizer"])
    if task is not None:
        # The task's template is that of the model, by interpolation.
        task = plain(OmegaConf.create({"model": config["model"], "task": dict(task)}))["task"]
        # A checker that the rewards brought is for the answers of the task they were for.
        config = config | {"task": task, "reward": {}}
    check_token_ids(policy, tokenizer, f"checkpoint={checkpoint}")
    parts = build_policy_parts(config, tokenizer)
    policy = policy.to("cuda" if torch.cuda.is_available() else "cpu")
    return Loaded(policy, tokenizer, parts["task"], parts["engine"], config, file)


def _default_config(name: str, model: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parts needed of what `train` would run on a model by default."""
    overrides = [f"model={name if name in NAMED else 'hf'}", f"model.name={quoted(name)}"]
    overrides += [f"task={_TASKS[name]}"] if name in _TASKS else []
    if GlobalHydra.instance().is_initialized():
        config = compose("train", overrides)
    else:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", overrides)
    config = OmegaConf.masked_copy(config, list(_NEEDED))
    if model is not None:
        config.model = {**model, "name": name}
    return plain(config)


def policy_hash(policy: PreTrainedModel) -> str:
    """SHA-256 over names and bytes of the weights, the same wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, weight in sorted(policy.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
