"""Settings that no run can have: rejected by whatever composes a run's config, before it loads or plans anything."""

from collections.abc import Mapping
from typing import Any

from r1lab.module.grpo import check_sizes
from r1lab.strategy.precision import standard_precision

LEAST = {
    "seed": 0,
    "trainer.max_steps": 0,
    "rollout.batch_size": 1,
    "rollout.group_size": 1,
    "rollout.max_new_tokens": 1,
    "data.batch_size": 1,
    "data.microbatch_tokens": 0,  # no limit
    "module.microbatch_tokens": 0,
    "optimizer.lr": 0,
}


def check_numbers(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting of a run's config that is no number, or too small, for a precision that cannot be
    trained in, and for rollouts that do not divide into groups and minibatches. Missing settings are skipped."""
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
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if "precision" in (config.get("trainer") or {}):
        standard_precision(config["trainer"]["precision"])
    module, rollout = config.get("module") or {}, config.get("rollout") or {}
    if "num_minibatches" in module:
        check_sizes(
            rollout["batch_size"], rollout["group_size"], module["num_minibatches"], module.get("num_iterations", 1)
        )
