import pytest

from r1lab.analysis.against import against_lines, steps_used
from r1lab.analysis.sweep import SweepError, load_sweep


def test_steps_saved_by_pruning(write_sweep, tmp_path):
    full, cut = (write_sweep(tmp_path / name, {"a": [1, 2]}, seeds=[1, 2]) for name in ("full", "cut"))
    for writer in (full, cut):
        writer.trial({"a": 1}, {1: 0.5, 2: 0.7})
    full.trial({"a": 2}, {1: 0.1, 2: 0.1})
    # Pruned in its first seed after 20 of 100 steps.
    cut.trial({"a": 2}, {}, "PRUNED", intermediate={10: 0.1, 20: 0.1}, pruned={"seed_index": 0, "step": 20})
    a, b = load_sweep(cut.folder), load_sweep(full.folder)
    assert (steps_used(a), steps_used(b)) == (220, 400)
    assert against_lines(a, b) == [
        "**Against full:** 45% of the steps saved.",
        "cut: 220 steps, 1 of 2 trials pruned; best a=1 with 0.600 [-0.671, 1.871] (n 2).",
        "full: 400 steps, 0 of 2 trials pruned; best a=1 with 0.600 [-0.671, 1.871] (n 2).",
    ]
    assert against_lines(a, None) == []


def test_of_different_objectives(write_sweep, tmp_path):
    sweeps = []
    for name in ("score", "seconds"):
        writer = write_sweep(tmp_path / name, {"a": [1]}, objectives=[name])
        writer.trial({"a": 1}, {1: 0.5})
        sweeps.append(load_sweep(writer.folder))
    with pytest.raises(SweepError, match="not to be compared"):
        against_lines(*sweeps)
