"""Settings that no run and no command can have: rejected before anything is loaded or planned."""

import math
from collections.abc import Mapping
from typing import Any

from r1lab.module.grpo import check_sizes
from r1lab.strategy.precision import standard_precision

# Settings of `evaluate` and `generate`: type, least, most.
COMMAND = {
    "first": (int, 0, math.inf),
    "logprobs_k": (int, 1, math.inf),
    "max_new_tokens": (int, 1, math.inf),
    "num_prompts": (int, 1, math.inf),
    "num_samples": (int, 1, math.inf),
    "seed": (int, -(2**63), 2**63 - 1),
    "shard_size": (int, 1, math.inf),
    "temperature": (float, 0, math.inf),
    "top_k": (int, 0, math.inf),
    "top_p": (float, 0, 1),
}
LEAST = {
    "seed": 0,
    "trainer.max_steps": 0,
    "rollout.batch_size": 1,
    "rollout.group_size": 1,
    "rollout.max_new_tokens": 1,
    "data.batch_size": 1,
    "data.microbatch_tokens": 0,  # no limit
    "module.microbatch_tokens": 0,
    "model.lr": 0,
    "model.sft_lr": 0,
    "model.value_lr": 0,
    # They follow the model's unless they are set, so the model's come first.
    "module.value_lr": 0,
    "optimizer.lr": 0,
}


def check_numbers(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting of a run's config that is no finite number, no whole one where it counts, or too
    small, for a precision that cannot be trained in, and for rollouts that do not divide into groups and minibatches.
    Missing settings are skipped."""
    for name, least in LEAST.items():
        *sections, key = name.split(".")
        place: Any = config
        for section in sections:
            place = place.get(section) or {}
        value = place.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if name.endswith("lr"):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}: give one such as 1e-5")
        elif not math.isfinite(value) or value != int(value):
            raise ValueError(f"{name} must be a whole number, got {value}: give one such as {max(least, 100)}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if "precision" in (config.get("trainer") or {}):
        standard_precision(config["trainer"]["precision"])
    module, rollout = config.get("module") or {}, config.get("rollout") or {}
    if "num_minibatches" in module:
        check_sizes(
            rollout["batch_size"], rollout["group_size"], module["num_minibatches"], module.get("num_iterations", 1)
        )


def check_command(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting of `evaluate` or `generate` of another type, or outside its range."""
    for name, (kind, least, most) in COMMAND.items():
        value = settings.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or not math.isfinite(value):
            raise ValueError(f"{name} must be a {'whole number' if kind is int else 'number'}, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
        if value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")
    for name, kind, example in (("ks", int, "[1,4]"), ("splits", str, "[heldout,harder]")):
        values = settings.get(name)
        if values is not None and not (isinstance(values, list) and all(type(value) is kind for value in values)):
            raise ValueError(f"{name} must be a list, such as {example}, got {values!r}")
    if wrong := [k for k in settings.get("ks") or [] if k < 1]:
        raise ValueError(f"ks must hold numbers from 1, got {wrong[0]}")
    if settings.get("splits") == []:
        raise ValueError("splits is empty: name at least one, such as [heldout]")
