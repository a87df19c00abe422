from io import StringIO

from rich.console import Console

from r1lab.analysis.memory_table import GIB, caption, memory_table, records, verdict
from r1lab.model.plan import CONTEXT, Plan

SMALL = Plan({"policy": GIB}, {"update": {"activations": 2 * GIB}, "step": {"temporaries": GIB}}, {})
LARGE = Plan({"policy": 4 * GIB}, {"update": {"activations": 2 * GIB}, "step": {"temporaries": 5 * GIB}}, {"value": 8})


def test_what_fits_is_judged_with_the_allowance():
    assert verdict(SMALL, 4) == (True, 4 * GIB - SMALL.needed)
    assert SMALL.needed == int(3 * GIB * 1.05) + CONTEXT
    fits, left = verdict(LARGE, 9)
    assert not fits and left == 9 * GIB - LARGE.needed < 0


def rows(*table):
    """The lines of a table by their first cell."""
    console = Console(width=100, record=True, file=StringIO())
    console.print(memory_table(*table))
    return {line.split("│")[1].strip(): line for line in console.export_text().splitlines() if "│" in line}


def test_the_table_has_a_column_a_number_of_gpus():
    lines = rows({2: LARGE, 8: SMALL}, 9)
    assert [cell.strip() for cell in lines["policy"].split("│")[2:4]] == ["4.00", "1.00"]
    assert [cell.strip() for cell in lines["update, in all"].split("│")[2:4]] == ["6.00", "3.00"]
    assert [cell.strip() for cell in lines["fits in 9 GiB"].split("│")[2:4]] == ["no", "yes"]
    assert lines["short by"].split("│")[3].strip() == ""


def test_the_caption_says_which_strategies_are_planned():
    assert caption({1: "single", 2: "fsdp2", 8: "fsdp2"}) == [
        "planned: strategy=single on 1 GPU; strategy=fsdp2 on 2, 8 GPUs",
        "CUDA: 600 MiB, fragments: 5% of the peak",
    ]
    assert caption({8: "ddp"})[0] == "planned: strategy=ddp on 8 GPUs"


def test_records_add_up():
    found = records({2: LARGE})
    parts = [row["bytes"] for row in found if row["phase"] in ("all", "step") and row["part"] not in ("peak", "needed")]
    assert sum(parts) == next(row["bytes"] for row in found if row["part"] == "peak") == LARGE.peak
    assert {row["gpus"] for row in found} == {2}
