"""The values of a sweep's parameters: which are the same, how they read, and which setting is the baseline."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# A setting: {parameter: value}; a parameter that a conditional sweep leaves out is not in it.
Setting = Mapping[str, Any]


def key(value: Any) -> tuple[str, Any]:
    """Equal for the same value only: 1 and 1.0 are, True and 1 or "8" and 8 are not, as YAML has it."""
    if value is None or isinstance(value, (bool, str)):
        return type(value).__name__, value
    return "number", float(f"{value:.12g}")


def setting_key(setting: Setting) -> tuple:
    return tuple(sorted((name, key(value)) for name, value in setting.items()))


def label(value: Any) -> str:
    """As it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def short_names(params: Sequence[str]) -> dict[str, str]:
    """The end of each dotted name that still tells it from the others: beta, format.weight."""
    names = {}
    for param in params:
        parts = param.split(".")
        # A weight or a scale alone says nothing: of three and more parts two are kept.
        length = 1 if len(parts) < 3 else 2
        while any(_ends_with(other, parts[-length:]) for other in params if other != param) and length < len(parts):
            length += 1
        names[param] = ".".join(parts[-length:])
    return names


def describe(setting: Setting, names: Mapping[str, str] | None = None) -> str:
    """`beta=0.01, group_size=8`; names: how to write each parameter, by default in full."""
    return ", ".join(f"{(names or {}).get(param, param)}={label(value)}" for param, value in setting.items())


def find_baseline(
    settings: Sequence[Setting], baseline: Setting | None, blocks: Sequence[str]
) -> tuple[int | None, str]:
    """The setting that the baseline names, and why there is none otherwise.

    The one with the same parameters and values; else the only one that agrees in all that the baseline names.

    Returns:
        (its index or None, the reason or "").
    """
    wanted = {name: value for name, value in (baseline or {}).items() if name not in blocks}
    if not wanted:
        return None, "the sweep names no baseline"
    target = set(setting_key(wanted))
    agreeing = [i for i, setting in enumerate(settings) if target <= set(setting_key(setting))]
    exact = [i for i in agreeing if len(settings[i]) == len(wanted)] or agreeing
    if len(exact) == 1:
        return exact[0], ""
    if not exact:
        return None, f"the baseline {describe(wanted)} is not among the trials"
    return None, f"the baseline {describe(wanted)} fits {len(exact)} points: it must name every parameter"


def _ends_with(name: str, parts: list[str]) -> bool:
    return name.split(".")[-len(parts) :] == parts
