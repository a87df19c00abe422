"""Which comparisons greedy accuracy cannot decide: both arms are at the highest value measured on their base."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from r1lab.analysis.decoding import GREEDY
from r1lab.analysis.effects import values
from r1lab.analysis.number import number
from r1lab.analysis.sweep import Sweep

SATURATED = 0.03  # below the ceiling, at most, in both arms


@cache
def _table() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("ceiling.yaml").read_text(encoding="utf-8"))


def ceilings(sweep: Sweep) -> dict[str, float]:
    """Block -> highest greedy accuracy measured on its base (ceiling.yaml); blocks of other bases or tasks left out."""
    config, table = sweep.record.get("config") or {}, _table()
    if any(config.get(name) != value for name, value in table["settings"].items()):
        return {}
    known = {name: base["greedy"] for name, base in table["bases"].items()}
    if "model.name" in sweep.points:
        bases = dict(zip(sweep.points["block"], sweep.points["model.name"], strict=True))
    else:
        bases = dict.fromkeys(sweep.points["block"], config.get("model.name"))
    varied = "model.name" in sweep.treatments  # then a block has several bases
    return {block: known[base] for block, base in bases.items() if base in known and not varied}


def saturated_blocks(sweep: Sweep, point: int) -> list[str]:
    """The blocks on which the point and the baseline are both within `SATURATED` of the ceiling."""
    return [
        block
        for block, ceiling in ceilings(sweep).items()
        if all(mean >= ceiling - SATURATED - 1e-9 for mean in _means(sweep, point, block))
    ]


def _means(sweep: Sweep, point: int, block: str) -> list[float]:
    """Of the point and of the baseline; minus infinity where there is none."""
    greedy = (values(sweep, [p], GREEDY) for p in (point, sweep.baseline))
    means = [column[column.index.get_level_values("block") == block].mean() for column in greedy]
    return [mean if mean == mean else float("-inf") for mean in means]


def saturation(sweep: Sweep, point: int) -> str:
    """`saturated`, `saturated on tiny` where it is so on some blocks alone, or nothing."""
    if sweep.baseline in (None, point) or not (blocks := saturated_blocks(sweep, point)):
        return ""
    everywhere = len(blocks) == sweep.seeds.loc[sweep.seeds["counted"], "block"].nunique()
    return "saturated" if everywhere else f"saturated on {' and '.join(blocks)}"


def definition(sweep: Sweep) -> str:
    """What `saturated` means and the values it compares with; empty where no ceiling is known."""
    known = ceilings(sweep)
    if not known:
        return ""
    shown = ", ".join(f"{number(value)} on {block}" if block else number(value) for block, value in known.items())
    return (
        f"Saturated: both arms are within {SATURATED} of the highest greedy accuracy measured on the base ({shown}); "
        "a difference in the sampled accuracy then shows how sharp the policy is, not what it can solve."
    )
