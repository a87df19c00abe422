"""Two sweeps of one question beside each other: what each cost and what it found. Does pruning pay?"""

import pandas as pd

from r1lab.analysis.effects import effects, of_objective, ranked
from r1lab.analysis.number import interval
from r1lab.analysis.replay import replay_line
from r1lab.analysis.setting import describe, short_names
from r1lab.analysis.sweep import Sweep, SweepError


def steps_used(sweep: Sweep) -> int:
    """Training steps of all runs, cut short or not."""
    return int(pd.to_numeric(sweep.seeds["steps"]).fillna(0).sum())


def against_lines(sweep: Sweep, other: Sweep | None) -> list[str]:
    """What to add to the verdict; nothing without a second sweep.

    Raises:
        SweepError: if they do not optimise the same thing.
    """
    if other is None:
        return []
    if sweep.objectives[0] != other.objectives[0]:
        raise SweepError(
            f"{sweep.name} optimises {sweep.objectives[0]} and {other.name} {other.objectives[0]}: not to be compared"
        )
    used, reference = steps_used(sweep), steps_used(other)
    saved = f"{1 - used / reference:.0%} of the steps saved" if reference else "unknown how many steps it saved"
    lines = [f"**Against {other.name}:** {saved}."]
    other_question = [key for key in ("params", "steps", "seeds") if sweep.record.get(key) != other.record.get(key)]
    if other_question:
        lines.append(f"They are not the same sweep: {' and '.join(other_question)} differ.")
    lines += [f"{s.name}: {_cost(s)}; best {_best(s)}." for s in (sweep, other)]
    return lines + [line for line in [replay_line(sweep, other)] if line]


def _cost(sweep: Sweep) -> str:
    pruned = int((sweep.points["state"] == "PRUNED").sum())
    return f"{steps_used(sweep):,} steps, {pruned} of {len(sweep.points)} trials pruned"


def _best(sweep: Sweep) -> str:
    best = ranked(sweep, of_objective(effects(sweep), sweep.objectives[0]))[0]
    setting = describe(sweep.settings[best.point], short_names(sweep.treatments)) or "the one point"
    return f"{setting} with {interval(best.mean)} (n {best.mean.n})"
