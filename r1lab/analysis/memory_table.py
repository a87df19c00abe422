"""Plans of memory as a table, a row a part and a column a number of GPUs, and as rows of data."""

from collections.abc import Mapping

from rich.table import Table

from r1lab.analysis.number import counted
from r1lab.model.plan import CONTEXT, FRAGMENTED, PHASES, Plan

MIB, GIB = 2**20, 2**30


def verdict(plan: Plan, memory_gib: float) -> tuple[bool, int]:
    """Whether a plan fits, and the bytes that are left, or that it is short by (negative)."""
    left = int(memory_gib * GIB) - plan.needed
    return left >= 0, left


def memory_table(plans: Mapping[int, Plan], memory_gib: float) -> Table:
    """Of the plans by number of GPUs; all ranks are alike, or this is of the one with the most."""
    unit, name = (GIB, "GiB") if max(plan.peak for plan in plans.values()) >= GIB else (MIB, "MiB")
    table = Table(title=f"{name} a rank", title_justify="left")
    table.add_column("", no_wrap=True)
    for ranks in plans:
        table.add_column(counted(ranks, "GPU"), justify="right")

    def row(label: str, values: list[int | None], **options) -> None:
        cells = ["" if v is None else f"{v / unit:,.2f}" for v in values]
        table.add_row(label, *cells, **options)

    every = list(plans.values())
    for part in _names(plan.held for plan in every):
        row(part, [plan.held.get(part) for plan in every])
    row("in all phases", [sum(plan.held.values()) for plan in every], end_section=True, style="bold")
    for phase in (name for name in PHASES if name in every[0].phases):
        for part in _names(plan.phases[phase] for plan in every):
            row(f"  {part}", [plan.phases[phase].get(part) for plan in every])
        row(f"{phase}, in all", [plan.of_phase(phase) for plan in every], end_section=True, style="bold")
    row("peak", [plan.peak for plan in every], style="bold")
    row("and CUDA, fragments", [plan.needed for plan in every])
    left = [verdict(plan, memory_gib) for plan in every]
    table.add_row(f"fits in {memory_gib:g} GiB", *("yes" if fits else "no" for fits, _ in left), style="bold")
    if not all(fits for fits, _ in left):
        row("short by", [None if fits else -nbytes for fits, nbytes in left])
    if any(plan.host for plan in every):
        row("on the host", [sum(plan.host.values()) for plan in every])
    return table


def caption(strategies: Mapping[int, str]) -> list[str]:
    """Lines for below the table, which may be narrower: the strategies by number of GPUs, and the allowance."""
    planned = []
    for strategy in dict.fromkeys(strategies.values()):
        gpus = [ranks for ranks, name in strategies.items() if name == strategy]
        planned.append(f"strategy={strategy} on {', '.join(map(str, gpus))} GPU{'s' * (gpus != [1])}")
    allowance = f"CUDA: {CONTEXT // MIB} MiB, fragments: {FRAGMENTED:.0%} of the peak"
    return [f"planned: {'; '.join(planned)}", allowance]


def records(plans: Mapping[int, Plan]) -> list[dict[str, object]]:
    """One row a part: gpus, phase (`all` for what is held throughout), part, bytes; then peak and needed."""
    rows: list[dict[str, object]] = []
    for ranks, plan in plans.items():
        parts = [("all", plan.held), *plan.phases.items(), ("host", plan.host)]
        rows += [{"gpus": ranks, "phase": phase, "part": p, "bytes": n} for phase, own in parts for p, n in own.items()]
        for total in ("peak", "needed"):
            rows.append({"gpus": ranks, "phase": plan.largest, "part": total, "bytes": getattr(plan, total)})
    return rows


def _names(mappings) -> list[str]:
    """All keys, in the order in which they first come."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
