import pytest

from r1lab.analysis.decision import decision
from r1lab.analysis.effects import effects
from r1lab.analysis.sweep import load_sweep

SCORE = "validation/pass_at_1"


@pytest.fixture
def decided(write_sweep, tmp_path):
    """decided(gains of four seeds, ...): the decision on one level against a baseline of .5."""

    def decide(*gains, **record):
        record = {"baseline": {"a": 1}, "seeds": [1, 2, 3, 4]} | record
        writer = write_sweep(tmp_path / "sweep", {"a": [1, 2]}, **record)
        writer.trial({"a": 1}, dict.fromkeys(range(1, len(gains) + 1), 0.5))
        writer.trial({"a": 2}, {seed: 0.5 + gain for seed, gain in enumerate(gains, 1)})
        sweep = load_sweep(writer.folder)
        return decision(sweep, effects(sweep))

    return decide


def test_surely_better(decided):
    # t = .1025 / (.0035 / 2) is far out; the sign-flip test of four pairs ends at 2/16.
    text = decided(0.1, 0.11, 0.1, 0.1, minimum_effect=0.05)
    change = "+0.102 [+0.095, +0.110]"
    assert text.startswith(
        f"change to a=2: it is better by {change}, at least 0.050 and significant after Holm (p <0.001)."
    )
    assert "With 4 pairs this rests on differences that are normally distributed" in text and "gives p 0.125" in text


def test_better_by_too_little(decided):
    text = decided(0.1, 0.11, 0.1, 0.1, minimum_effect=0.2)
    assert text == "keep the baseline. a=2 is significantly better, but its +0.102 is below 0.200."


@pytest.mark.parametrize("gains", [(0.1, -0.1, 0.2, -0.05), (-0.1, -0.11, -0.1, -0.1)])
def test_not_surely_better(decided, gains):
    assert decided(*gains).startswith("keep the baseline. No level is better")


def test_smaller_is_better(decided):
    assert decided(-0.1, -0.11, -0.1, -0.1, directions=["minimize"]).startswith("change to a=2")


def test_one_seed(decided):
    assert decided(0.3, seeds=[1]) == "keep the baseline. Nothing could be tested: one pair."


def test_points_that_are_not_told_apart_are_named(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "three", {"a": [1, 2, 3, 4]}, baseline={"a": 1})
    for level, values in ((1, (0.1, 0.1, 0.1)), (2, (0.5, 0.51, 0.52)), (3, (0.52, 0.5, 0.5)), (4, (0.2, 0.21, 0.2))):
        writer.trial({"a": level}, dict(enumerate(values, 1)))
    sweep = load_sweep(writer.folder)
    text = decision(sweep, effects(sweep))
    assert text.startswith("change to a=2: ") and text.endswith("so that the simplest of all may be taken: a=3.")


def test_the_best_of_a_search_is_not_tested(decided):
    assert decided(0.1, 0.11, 0.1, 0.1, sampler="tpe") == (
        "keep the baseline, until a=2 (+0.102 [+0.095, +0.110]) is better on seeds of its own: the best of 2 points is "
        "not tested on those that chose it."
    )


def test_no_baseline(decided):
    assert decided(0.1, 0.2, 0.1, 0.2, baseline=None) == (
        "none, since the sweep names no baseline. The best mean is that of a=2."
    )


def test_unfinished(write_sweep, beta_sweep):
    beta_sweep.trial({"loss.beta": 0.0}, {}, "RUNNING")
    sweep = load_sweep(beta_sweep.folder)
    assert decision(sweep, effects(sweep)).startswith("preliminary, as the sweep is unfinished: keep the baseline.")


def test_worse_in_another_objective(write_sweep, tmp_path):
    writer = write_sweep(
        tmp_path / "two",
        {"a": [1, 2]},
        directions=["maximize", "minimize"],
        objectives=[SCORE, "rollout/completion_length"],
        baseline={"a": 1},
    )
    writer.trial({"a": 1}, {seed: [0.5, 20.0] for seed in (1, 2, 3)})
    writer.trial({"a": 2}, {1: [0.8, 40.0], 2: [0.81, 41.0], 3: [0.8, 40.0]})
    sweep = load_sweep(writer.folder)
    assert decision(sweep, effects(sweep)) == (
        "keep the baseline. a=2 is better but significantly worse in another objective."
    )
