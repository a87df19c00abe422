"""Two sweeps of one question beside each other: what each cost and what it found. Does pruning pay?"""

import pandas as pd

from r1lab.analysis.decoding import title
from r1lab.analysis.effects import effects, of_objective, ranked
from r1lab.analysis.greedy import greedy_effect, has_greedy
from r1lab.analysis.number import interval, number
from r1lab.analysis.replay import replay_of
from r1lab.analysis.setting import describe, short_names
from r1lab.analysis.sweep import Sweep, SweepError


def steps_used(sweep: Sweep) -> int:
    """Training steps of all runs, cut short or not."""
    return int(pd.to_numeric(sweep.seeds["steps"]).fillna(0).sum())


def against_lines(sweep: Sweep, other: Sweep | None) -> list[str]:
    """Sentences for the finding, the same from either side; none without a second sweep.

    Raises:
        SweepError: if they do not optimise the same thing.
    """
    if other is None:
        return []
    if sweep.objectives[0] != other.objectives[0]:
        raise SweepError(
            f"{sweep.name} optimises {sweep.objectives[0]} and {other.name} {other.objectives[0]}: not to be compared"
        )
    pruned, full = _sides(sweep, other)
    used, reference = steps_used(pruned), steps_used(full)
    saved = f"{1 - used / reference:.0%} of the steps saved" if reference else "unknown how many steps it saved"
    lines = [f"{pruned.name} against {full.name}: {saved}."]
    other_question = [key for key in ("params", "steps", "seeds") if sweep.record.get(key) != other.record.get(key)]
    if other_question:
        lines.append(f"They are not the same sweep: {' and '.join(other_question)} differ.")
    lines += [f"{s.name}: {_cost(s)}; best {_best(s)}." for s in (pruned, full)]
    replay = replay_of(pruned, full)
    return lines + ([replay.told] if replay else [])


def pruning_decision(sweep: Sweep, other: Sweep | None) -> str:
    """Whether to prune: where the replay loses less than the smallest effect that matters."""
    replay = None if other is None else replay_of(*_sides(sweep, other))
    minimum = sweep.record.get("minimum_effect")
    if replay is None or minimum is None:
        return ""
    word = "Prune" if replay.lost < minimum else "Do not prune"
    return (
        f"{word}: in the replay it saves {replay.saved:.0%} of the steps, and the best point left is worse by "
        f"{number(replay.lost)}, where {number(minimum)} would matter."
    )


def _sides(sweep: Sweep, other: Sweep) -> tuple[Sweep, Sweep]:
    """(the pruned one, the full one)."""
    return (other, sweep) if other.record.get("pruner") and not sweep.record.get("pruner") else (sweep, other)


def _cost(sweep: Sweep) -> str:
    pruned = int((sweep.points["state"] == "PRUNED").sum())
    return f"{steps_used(sweep):,} steps, {pruned} of {len(sweep.points)} trials pruned"


def _best(sweep: Sweep) -> str:
    best = ranked(sweep, of_objective(effects(sweep), sweep.objectives[0]))[0]
    setting = describe(sweep.settings[best.point], short_names(sweep.treatments)) or "the one point"
    score = title(sweep.record, sweep.objectives[0])
    greedy = f", held-out greedy {interval(greedy_effect(sweep, best.point).mean)}" if has_greedy(sweep) else ""
    return f"{setting} with {score} {interval(best.mean)} (n {best.mean.n}){greedy}"
