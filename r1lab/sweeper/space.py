"""The space of a sweep, written in Hydra's override grammar: `choice`, `range`, `interval`, and `tag(log, ...)`.

A point of it is a mapping from override keys to values; `overrides` turns one into what a command line would say.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, QuotedString, Transformer
from hydra.errors import HydraException
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Value = str | float | int | bool | None


class SpaceError(ValueError):
    """A search space that no sampler can use; the message names the parameter."""


@dataclass(frozen=True)
class Parameter:
    """One dimension. `levels` gives each value of a discrete one its text in an override; None: continuous."""

    kind: str  # choice | range | interval | int_interval
    distribution: BaseDistribution
    levels: dict[Value, str] | None = None

    def suggest(self, name: str, trial: Trial) -> Value:
        """The trial's value: as it was queued, or drawn by the study's sampler."""
        bounds = self.distribution
        if isinstance(bounds, CategoricalDistribution):
            return trial.suggest_categorical(name, bounds.choices)
        ask = trial.suggest_int if isinstance(bounds, IntDistribution) else trial.suggest_float
        return ask(name, bounds.low, bounds.high, log=bounds.log)

    def holds(self, value: Value) -> bool:
        """Whether it is a level, or within the interval."""
        if self.levels is not None:
            return value in self.levels
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.distribution.low <= value <= self.distribution.high

    def describe(self) -> dict[str, Any]:
        """Plain data, for the study's record."""
        bounds = {key: getattr(self.distribution, key, None) for key in ("low", "high", "log")}
        return {"kind": self.kind, "levels": None if self.levels is None else list(self.levels), **bounds}


@dataclass(frozen=True)
class Space:
    """The dimensions of a sweep, and the overrides that every point shares."""

    parameters: dict[str, Parameter]
    fixed: list[str] = field(default_factory=list)

    def overrides(self, point: Mapping[str, Value]) -> list[str]:
        """What a command line would say to run a point. Keys that are no parameter come from a custom search space."""
        return [*self.fixed, *(f"{name}={self._text(name, value)}" for name, value in point.items())]

    def _text(self, name: str, value: Value) -> str:
        levels = self.parameters[name].levels if name in self.parameters else None
        return levels[value] if levels and value in levels else Override._get_value_element_as_str(value)

    def grid(self) -> list[dict[str, Value]]:
        """Every point, the last parameter changing fastest. Raises SpaceError for a continuous parameter."""
        for name, parameter in self.parameters.items():
            if parameter.levels is None:
                raise SpaceError(
                    f"{name} is an interval, which a grid cannot enumerate: give it choice(...) or range(...)"
                )
        levels = (parameter.levels for parameter in self.parameters.values())
        return [dict(zip(self.parameters, values, strict=True)) for values in itertools.product(*levels)]


def parse_space(params: Mapping[str, Any], arguments: Sequence[str]) -> Space:
    """The space of a sweep file's `params`, with what the command line says in place of it.

    Args:
        params: override key -> text in the grammar, or a plain value that every point shares.
        arguments: the overrides of the command line.

    Raises:
        SpaceError: for text that is not in the grammar, an empty or repeated choice, or a glob.
    """
    given = {override.get_key_element(): override for override in _parsed(arguments)}
    texts = {key: text for key, text in params.items() if key not in given}
    parsed = {key: _parsed([f"{key}={_plain_text(text)}"])[0] for key, text in texts.items()} | given
    parameters = {key: _parameter(key, o) for key, o in parsed.items() if o.is_sweep_override()}
    fixed = [o.input_line for o in parsed.values() if not o.is_sweep_override()]
    return Space(parameters, fixed)


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else Override._get_value_element_as_str(value)


def _parsed(lines: Sequence[str]) -> list[Override]:
    parser, parsed = OverridesParser.create(), []
    for line in lines:
        try:
            parsed.append(parser.parse_override(line))
        except HydraException as error:
            raise SpaceError(f"{line} is not in Hydra's override grammar: {' '.join(str(error).split())}") from error
    return parsed


def _parameter(name: str, override: Override) -> Parameter:
    if override.is_interval_sweep():
        return _interval(name, override.value())
    if not override.is_discrete_sweep() or "GLOB" in override.value_type.name:
        raise SpaceError(f"{name}: a glob is not supported here; use choice(...), range(...) or interval(...)")
    levels = dict(_levels(override))
    if len(levels) < 2 or len(levels) < sum(1 for _ in override.sweep_iterator()):
        raise SpaceError(
            f"{name}: needs at least two different levels, got {', '.join(override.sweep_string_iterator())}"
        )
    return Parameter("range" if override.is_range_sweep() else "choice", CategoricalDistribution(list(levels)), levels)


def _levels(override: Override) -> Iterator[tuple[Value, str]]:
    """Each level as a number, word, boolean or None, and its text. Lists and the like stand for themselves as text."""
    elements = override.sweep_iterator(transformer=Transformer.identity)
    for value, text in zip(elements, override.sweep_string_iterator(), strict=True):
        value = value.text if isinstance(value, QuotedString) else value
        yield (value if value is None or isinstance(value, (str, int, float, bool)) else text), text


def _interval(name: str, sweep: IntervalSweep) -> Parameter:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if not low < high:
        raise SpaceError(f"{name}: interval({low}, {high}) is empty; its first end must be the smaller one")
    if log and low <= 0:
        raise SpaceError(f"{name}: a logarithmic interval must begin above 0, got {low}")
    if isinstance(low, int):  # int(interval(...)); a plain interval holds floats
        return Parameter("int_interval", IntDistribution(low, high, log=log))
    return Parameter("interval", FloatDistribution(float(low), float(high), log=log))
