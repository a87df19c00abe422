import itertools

import numpy as np
import pytest

from r1lab.analysis.ablation import main
from r1lab.analysis.effects import effects, held_at, margins, matrix, measures, of_objective, ranked, shown
from r1lab.analysis.sweep import load_sweep

SCORE = "validation/pass_at_1"


def test_against_the_baseline(beta_sweep):
    zero, base, tenth = effects(load_sweep(beta_sweep.folder))
    assert base.comparison is None and base.p is None
    # Of 0: differences .1 .2 .3, p .074180 (tests/metric/test_paired.py); of .1: -.2 three times, sign-flip p 2/8.
    assert zero.comparison.difference.mean == pytest.approx(0.2) and zero.comparison.test == "t"
    assert tenth.comparison.difference.low is None and tenth.comparison.test == "sign flip"
    # Holm over two: .074180 * 2, .25 * 1
    assert (zero.p, tenth.p) == (pytest.approx(0.148360, abs=1e-6), 0.25)
    assert [effect.point for effect in ranked(load_sweep(beta_sweep.folder), [zero, base, tenth])] == [0, 1, 2]


def test_pairs_are_block_and_seed(write_sweep, tmp_path):
    params = {"loss.beta": [0.0, 0.1], "model.name": ["a", "b"]}
    writer = write_sweep(tmp_path / "pairs", params, blocks=["model.name"], baseline={"loss.beta": 0.0})
    for base, low in (("a", 0.1), ("b", 0.6)):
        writer.trial({"loss.beta": 0.0, "model.name": base}, {1: low, 2: low + 0.1, 3: low + 0.2})
    writer.trial({"loss.beta": 0.1, "model.name": "a"}, {1: 0.2, 2: 0.3})
    writer.trial({"loss.beta": 0.1, "model.name": "b"}, {2: 0.9})
    base, treated = effects(load_sweep(writer.folder))
    # Mean of base means .2 and .7; the interval has what is inside a base alone: sd .1, .1 / 2 * sqrt(2/3) * t(4).
    assert base.mean.mean == pytest.approx(0.45)
    assert base.mean.high - base.mean.mean == pytest.approx(0.113348, abs=1e-6)
    # Pairs (a, 1), (a, 2), (b, 2): .1, .1, .2, of which each base counts once
    assert treated.comparison.difference.n == 3
    assert treated.comparison.difference.mean == pytest.approx(0.15)


def test_differences_are_tested_inside_the_bases_like_the_means(write_sweep, tmp_path):
    params = {"a": [1, 2], "model.name": ["x", "y"]}
    writer = write_sweep(tmp_path / "inside", params, blocks=["model.name"], baseline={"a": 1})
    for base, gain in (("x", 0.1), ("y", 0.5)):
        writer.trial({"a": 1, "model.name": base}, {1: 0.2, 2: 0.2, 3: 0.2})
        writer.trial({"a": 2, "model.name": base}, {1: 0.2 + gain, 2: 0.21 + gain, 3: 0.22 + gain})
    _, treated = effects(load_sweep(writer.folder))
    # sd .01 inside, error .01 / sqrt(6), t(4) = 2.776445; the .4 between the bases is in the table of each.
    assert treated.comparison.difference.high - 0.31 == pytest.approx(0.011335, abs=1e-6) and treated.is_significant


@pytest.fixture
def grid(write_sweep, tmp_path):
    """value = .5 + beta's part (0, .1) + size's part (0, .2) + seed's (0, .02); the last cell failed in one of two."""
    writer = write_sweep(
        tmp_path / "grid",
        {"loss.beta": [0.0, 0.1], "rollout.group_size": [4, 8]},
        seeds=[1, 2],
        baseline={"loss.beta": 0.0, "rollout.group_size": 4},
    )
    for (i, beta), (j, size) in itertools.product(enumerate([0.0, 0.1]), enumerate([4, 8])):
        value = 0.5 + 0.1 * i + 0.2 * j
        writer.trial({"loss.beta": beta, "rollout.group_size": size}, {1: value, 2: value + 0.02})
    return load_sweep(writer.folder)


def test_a_level_of_which_every_point_failed_has_no_mean(write_sweep, tmp_path):
    params = {"a": [1, 2], "b": [1, 2]}
    writer = write_sweep(tmp_path / "failed", params, seeds=[1, 2], baseline={"a": 1, "b": 1})
    for a, b in itertools.product([1, 2], [1, 2]):
        writer.trial({"a": a, "b": b}, {1: 0.5, 2: 0.6} if a == 1 else {}, "COMPLETE" if a == 1 else "FAIL")
    sweep = load_sweep(writer.folder)
    there, failed = margins(sweep, "a", SCORE)
    assert there.mean.mean == pytest.approx(0.55)
    assert failed.mean.n == failed.difference.n == 0
    assert main([str(writer.folder), "--output", str(tmp_path / "out")]) == 0


def test_main_effects_and_matrix(grid):
    low, high = margins(grid, "rollout.group_size", SCORE)
    # Over beta and seeds: (.5 + .52 + .6 + .62) / 4 and .2 more; each seed's: (.5 + .6) / 2 and .02 more.
    assert (low.mean.mean, high.mean.mean) == pytest.approx((0.56, 0.76)) and low.difference is None
    assert high.difference.mean == pytest.approx(0.2) and high.difference.n == 2
    assert low.by_seed.tolist() == pytest.approx([0.55, 0.57])
    np.testing.assert_allclose(matrix(grid, SCORE), [[0.51, 0.71], [0.61, 0.81]])


def test_margins_compare_like_with_like(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "hole", {"a": [1, 2], "b": [1, 2]}, seeds=[1])
    for a, b, value in ((1, 1, 0.1), (1, 2, 0.9), (2, 1, 0.2)):
        writer.trial({"a": a, "b": b}, {1: value})
    # a=2 was never run with b=2, so that a=1's .9 is left out.
    sweep = load_sweep(writer.folder)
    assert [margin.mean.mean for margin in margins(sweep, "a", SCORE)] == [0.1, 0.2]
    assert np.isnan(matrix(sweep, SCORE).iloc[1, 1]) and held_at(sweep, "a") == " at b=1"


def test_measures_are_those_that_are_there(beta_sweep):
    found = measures(load_sweep(beta_sweep.folder))
    assert list(found) == ["held-out pass@1", "format", "completion length", "seconds"]


def test_of_a_search_the_best_and_the_baseline(write_sweep, tmp_path):
    lr = {"kind": "interval", "low": 0.0, "high": 1.0, "log": False}
    writer = write_sweep(tmp_path / "tpe", {"lr": lr}, seeds=[1], sampler="tpe", baseline={"lr": 0.0})
    for i in range(20):
        writer.trial({"lr": i / 20}, {1: i / 20})
    sweep = load_sweep(writer.folder)
    found = shown(sweep, of_objective(effects(sweep), SCORE))
    assert [effect.point for effect in found] == [*range(19, 9, -1), 0] and {effect.p for effect in found} == {None}


def test_smaller_may_be_better(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "cost", {"a": [1, 2]}, directions=["minimize"], objectives=["seconds"])
    writer.trial({"a": 1}, {1: 9.0})
    writer.trial({"a": 2}, {1: 5.0})
    sweep = load_sweep(writer.folder)
    assert [effect.point for effect in ranked(sweep, effects(sweep))] == [1, 0]
