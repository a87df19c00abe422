import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

import r1lab.analysis.ceiling as ceiling
from r1lab.analysis.ceiling import ceilings, definition, saturation
from r1lab.analysis.sweep import load_sweep

ROOT = Path(__file__).parents[2]
TABLE = yaml.safe_load(Path(ceiling.__file__).with_name("ceiling.yaml").read_text())
GATES = {"tiny": "r1lab/model/tiny_base"}


def committed_means():
    """(base, sweep and point) -> mean held-out greedy accuracy, of every point with at least three seeds."""
    found = {}
    for path in sorted(ROOT.glob("sweeps/results/*/trials.csv")):
        table = pd.read_csv(path)
        if "after/heldout/greedy" not in table:
            continue
        params = [name for name in table.columns[2 : list(table).index("seed")] if name != "model.name"]
        table = table[table["counted"]].assign(base=table.get("model.name", "tiny"))
        for (base, *levels), scores in table.groupby(["base", *params], dropna=False)["after/heldout/greedy"]:
            if len(scores) >= 3:
                point = " ".join(f"{name}={level}" for name, level in zip(params, levels, strict=True))
                found[base, f"{path.parent.name}, {point}, {len(scores)} seeds"] = scores.mean()
    return found


def test_the_table_holds_the_highest_committed_means():
    means = committed_means()
    for base, known in TABLE["bases"].items():
        best = max((key for key in means if key[0] == base), key=means.get)
        assert round(means[best], 4) == known["greedy"] and best[1] == known["source"]


def test_the_table_holds_the_forced_accuracy_of_each_gate():
    for base, known in TABLE["bases"].items():
        gate = json.loads((ROOT / GATES.get(base, base) / "gate.json").read_text())
        assert round(gate["forced"]["all"], 4) == known["forced"]


@pytest.fixture
def bases(write_sweep, tmp_path):
    """Greedy of the baseline: tiny .98, bases/2 .93; of a=2 .97 and .97. The ceilings are .994 and .978."""

    def write(**config):
        params = {"a": [1, 2], "model.name": ["tiny", "sweeps/bases/2"]}
        record = {"blocks": ["model.name"], "baseline": {"a": 1}, "config": TABLE["settings"] | config}
        writer = write_sweep(tmp_path / "bases", params, seeds=[1, 2], **record)
        greedy = {(1, "tiny"): 0.98, (1, "sweeps/bases/2"): 0.93, (2, "tiny"): 0.97, (2, "sweeps/bases/2"): 0.97}
        for (a, base), score in greedy.items():
            note = writer.note(0.5, after={"heldout": {"pass_at_1": 0.5, "greedy": score}})
            writer.trial({"a": a, "model.name": base}, {1: note, 2: note})
        return load_sweep(writer.folder)

    return write


def test_saturated_where_both_arms_are_near_the_ceiling_of_a_base(bases):
    sweep = bases()
    assert ceilings(sweep) == {"tiny": 0.9941, "sweeps/bases/2": 0.9779}
    assert [saturation(sweep, point) for point in (0, 1)] == ["", "saturated on tiny"]
    assert "0.994 on tiny, 0.978 on sweeps/bases/2" in definition(sweep)


def test_another_task_has_no_known_ceiling(bases):
    sweep = bases(**{"task.num_steps": [5]})
    assert ceilings(sweep) == {} and saturation(sweep, 1) == "" and definition(sweep) == ""


def test_without_blocks_the_base_is_that_of_the_record(write_sweep, tmp_path):
    settings = TABLE["settings"] | {"model.name": "sweeps/bases/3"}
    writer = write_sweep(tmp_path / "one", {"a": [1, 2, 3]}, baseline={"a": 1}, seeds=[1], config=settings)
    # The ceiling is 0.9779, less 0.03: 0.9479.
    for a, score in ((1, 0.948), (2, 0.9479), (3, 0.947)):
        writer.trial({"a": a}, {1: writer.note(0.5, after={"heldout": {"greedy": score}})})
    sweep = load_sweep(writer.folder)
    assert [saturation(sweep, point) for point in range(3)] == ["", "saturated", ""]
