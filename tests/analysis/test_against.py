import pytest

from r1lab.analysis.against import against_lines, pruning_decision, steps_used
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
        "cut against full: 45% of the steps saved.",
        "cut: 220 steps, 1 of 2 trials pruned; best a=1 with validation/pass_at_1 0.600 [-0.671, 1.871] (n 2).",
        "full: 400 steps, 0 of 2 trials pruned; best a=1 with validation/pass_at_1 0.600 [-0.671, 1.871] (n 2).",
    ]
    assert against_lines(a, None) == [] and pruning_decision(a, None) == ""


def test_the_verdict_of_either_says_whether_to_prune(write_sweep, tmp_path):
    lr = {"kind": "interval", "low": 0.0, "high": 1.0, "log": False}
    search = {"seeds": [1], "steps": 30, "sampler": "tpe", "minimum_effect": 0.02}
    options = {"n_startup_trials": 1, "n_warmup_steps": 0}
    full = write_sweep(tmp_path / "full", {"lr": lr}, **search)
    cut = write_sweep(tmp_path / "cut", {"lr": lr}, pruner="MedianPruner", pruner_options=options, **search)
    for i, values in enumerate([(0.5, 0.5, 0.5), (0.1, 0.4, 0.9)]):
        curve = dict(zip((10, 20, 30), values, strict=True))
        for writer in (full, cut):
            writer.trial({"lr": i / 10}, {1: values[-1]}, intermediate=curve)
    a, b = load_sweep(cut.folder), load_sweep(full.folder)
    assert against_lines(a, b) == against_lines(b, a) and against_lines(a, b)[0].startswith("cut against full: 0%")
    # The late one is lost in every order in which it comes second.
    assert pruning_decision(a, b) == pruning_decision(b, a)
    assert pruning_decision(a, b).startswith("Do not prune: in the replay it saves")


def test_of_different_objectives(write_sweep, tmp_path):
    sweeps = []
    for name in ("score", "seconds"):
        writer = write_sweep(tmp_path / name, {"a": [1]}, objectives=[name])
        writer.trial({"a": 1}, {1: 0.5})
        sweeps.append(load_sweep(writer.folder))
    with pytest.raises(SweepError, match="not to be compared"):
        against_lines(*sweeps)
