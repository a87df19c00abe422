"""The reward: a weighted sum of named terms, each of them kept for the log."""

import asyncio
import inspect
import logging
import math
import numbers
import traceback
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from r1lab.reward.schedule import LARGEST, Schedule
from r1lab.types import Completion, Prompt

_SHOWN = 200
_SILENT = 1000

log = logging.getLogger("r1lab.reward")


class RewardError(RuntimeError):
    """A reward term failed; the message names the term, the completion's number in the batch, and its text."""


class RewardTerm(Protocol):
    """A named part of the reward, called once with the whole batch; may be `async def`."""

    def __call__(
        self, prompts: list[Prompt], completions: list[Completion]
    ) -> list[float | None] | Awaitable[list[float | None]]:
        """One number for each completion, None where the term does not apply. `completions[b]` answers `prompts[b]`."""
        ...


@dataclass(frozen=True)
class Rewards:
    """total: float32 [B], the weighted sum, NaN where no term applies. terms: for each name the B unweighted numbers,
    None = does not apply."""

    total: Tensor
    terms: dict[str, list[float | None]]


class WeightedSum:
    """`total[b] = sum over terms of weights[name] * term[b]`, where None adds nothing, and NaN where all are None.

    A weight is a number, or a `Schedule` of it over steps. A weight of 0 measures a term without rewarding it.
    """

    def __init__(self, terms: Mapping[str, RewardTerm], weights: Mapping[str, float | Schedule]):
        """Raises ValueError where terms and weights differ in their names, or a weight is not a finite number."""
        if set(terms) != set(weights):
            missing, unknown = sorted(set(terms) - set(weights)), sorted(set(weights) - set(terms))
            raise ValueError(f"each reward term needs one weight: no weight for {missing}, no term for {unknown}")
        self.terms = dict(terms)
        self.weights = dict(weights)
        self._silent = dict.fromkeys(self.terms, 0)  # completions that a term was asked for and never applied to
        for name, weight in self.weights.items():
            if not isinstance(weight, Schedule) and not abs(weight) <= LARGEST:  # NaN is neither
                raise ValueError(f"reward.{name}.weight must be a number up to {LARGEST:.0e}, got {weight}")

    def scheduled(self, step: int) -> dict[str, float]:
        """Those weights that have a schedule, as they are after `step` optimizer steps."""
        return {name: weight(step) for name, weight in self.weights.items() if isinstance(weight, Schedule)}

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion], step: int = 0) -> Rewards:
        """Score B completions of B prompts (each prompt repeated for each completion of its group).

        Args:
            step: optimizer steps done so far, for the schedules of weights.

        Raises:
            RewardError: a term raises, or returns a wrong number of rewards, NaN, infinity or something not a number;
                or a reward, alone, weighted or summed, is above 1e30.
        """
        prompts, completions = list(prompts), list(completions)
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts for {len(completions)} completions; give one prompt for each")
        results = _call_all(self.terms, prompts, completions)
        terms = {name: _checked(name, result, completions) for name, result in results.items()}
        weights = self.weights | self.scheduled(step)
        total = [
            _sum({name: (weights[name], values[b]) for name, values in terms.items()}, b, completion)
            for b, completion in enumerate(completions)
        ]
        for name in [name for name in self._silent if weights[name]]:
            self._tell_of_silence(name, terms[name])
        return Rewards(torch.tensor(total, dtype=torch.float32), terms)

    def _tell_of_silence(self, name: str, values: list[float | None]) -> None:
        """Warn, once, of a term that has a weight and applies to nothing."""
        self._silent[name] += len(values)
        applies = any(value is not None for value in values)
        if not applies and self._silent[name] >= _SILENT:
            log.warning(
                f"reward.{name} applied to none of {self._silent[name]} completions, so it rewards nothing: see its "
                "kinds, the columns that it needs, or the part of a completion that it judges"
            )
        if applies or self._silent[name] >= _SILENT:
            del self._silent[name]


def _call_all(terms: Mapping[str, RewardTerm], prompts: list[Prompt], completions: list[Completion]) -> dict[str, Any]:
    """What each term returned: plain terms one after the other, then the async ones at the same time."""
    results: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    for name, term in terms.items():
        try:
            results[name] = term(prompts, completions)
        except Exception as error:
            errors[name] = error
            break
    waiting = {name: result for name, result in results.items() if inspect.isawaitable(result)}
    if errors:
        for result in waiting.values():
            if inspect.iscoroutine(result):
                result.close()
    elif waiting:
        outcomes = dict(zip(waiting, _await_all(list(waiting.values())), strict=True))
        results.update(outcomes)
        errors = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Exception)}
    for name, error in errors.items():
        raise RewardError(_describe(name, terms[name], error, prompts, completions)) from error
    return results


def _await_all(awaitables: list[Awaitable[Any]]) -> list[Any]:
    """Results in order, a failure in its place, also when called from within a running event loop (a notebook)."""

    async def gather():
        return await asyncio.gather(*awaitables, return_exceptions=True)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(gather())
    # A loop cannot be entered twice, so the terms get one in a thread of their own.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, gather()).result()


def _describe(
    name: str, term: RewardTerm, error: Exception, prompts: list[Prompt], completions: list[Completion]
) -> str:
    """Name the completion that makes the term fail, found by scoring one at a time until the same error comes."""
    what = f"reward term {name!r} raised {type(error).__name__}: {error}"
    if frames := traceback.extract_tb(error.__traceback__):
        what += f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    for b, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            result = term([prompt], [completion])
            if inspect.isawaitable(result):
                result = _await_all([result])[0]
            if isinstance(result, Exception):
                raise result
        except Exception as again:
            if repr(again) == repr(error):
                return f"{what}, {_place(b, completion)}"
    return f"{what}, for a batch of {len(completions)} completions but for none of them alone"


def _checked(name: str, result: Any, completions: list[Completion]) -> list[float | None]:
    values = result.tolist() if hasattr(result, "tolist") else result
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise RewardError(f"reward term {name!r} returned {_shorten(repr(result))} instead of a list of numbers")
    if len(values) != len(completions):
        raise RewardError(f"reward term {name!r} returned {len(values)} rewards for {len(completions)} completions")
    return [_number(name, value, b, completions[b]) for b, value in enumerate(values)]


def _number(name: str, value: Any, b: int, completion: Completion) -> float | None:
    if value is None:
        return None
    # Tensors and NumPy scalars of one element count as the number they hold.
    number = value.item() if hasattr(value, "item") else value
    try:
        number = float(number) if isinstance(number, numbers.Real) else math.nan
    except OverflowError:  # a whole number that no float holds
        raise RewardError(_too_large(f"reward term {name!r} returned a number", b, completion)) from None
    if not math.isfinite(number):
        shown = _shorten(repr(value))
        raise RewardError(f"reward term {name!r} returned {shown}, not a finite number, {_place(b, completion)}")
    if abs(number) > LARGEST:
        raise RewardError(_too_large(f"reward term {name!r} returned {number:g}", b, completion))
    return number


def _sum(weighted: Mapping[str, tuple[float, float | None]], b: int, completion: Completion) -> float:
    """The sum of weight * value over the terms of completion b that apply; NaN if none does."""
    if all(value is None for _, value in weighted.values()):
        return math.nan
    total = 0.0
    for name, (weight, value) in weighted.items():
        if value is None:
            continue
        if abs(weight * value) > LARGEST:
            what = (
                f"reward.{name}.weight={weight:g} times the value {value:g} of the term {name!r} is {weight * value:g}"
            )
            raise RewardError(_too_large(what, b, completion))
        total += weight * value
    if abs(total) > LARGEST:
        parts = " + ".join(f"{weight:g} * {value:g} ({name})" for name, (weight, value) in weighted.items() if value)
        raise RewardError(_too_large(f"the sum of the weighted rewards {parts} is {total:g}", b, completion))
    return total


def _too_large(what: str, b: int, completion: Completion) -> str:
    return (
        f"{what}, {_place(b, completion)}: training sums rewards in float32, and takes none above {LARGEST:.0e}; "
        "let the term return smaller numbers, or lower its weight"
    )


def _place(b: int, completion: Completion) -> str:
    return f"for completion {b}: {_shorten(completion.text)!r}"


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
