from r1lab.analysis.effects import effects
from r1lab.analysis.outlook import alpha, what_would_change_it
from r1lab.analysis.sweep import load_sweep
from r1lab.metric.power import detectable_effect, pairs_needed


def test_smallest_effect_and_seeds_needed(beta_sweep):
    sweep = load_sweep(beta_sweep.folder)
    found = effects(sweep)
    # Two comparisons, of which one has a spread: sd .1. Its .2 is the largest beside -.2 and comes first.
    assert alpha(found) == 0.025
    effect, pairs = detectable_effect(0.1, 3, alpha=0.025), pairs_needed(0.2, 0.1, alpha=0.025)
    assert what_would_change_it(sweep, found) == (
        f"Would have been found four times in five: {effect:.3f} with 3 pairs of beta=0. The largest "
        f"unsettled difference, beta=0 +0.200 [-0.048, +0.448], would take {pairs} seeds if it is real."
    )


def test_spread_of_bases_beside_that_of_seeds(write_sweep, tmp_path):
    params = {"a": [1, 2], "model.name": ["x", "y"]}
    writer = write_sweep(tmp_path / "bases", params, blocks=["model.name"], baseline={"a": 1}, seeds=[1, 2])
    # Baseline: groups (.1, .3) and (.5, .7): MS between 16 / 100, within 2 / 100: sd sqrt(.07) = .265 and .141
    # (tests/metric/test_spread.py). Differences .1 .1 and .2 .2: sd .071 between and 0 within.
    for base, low, gain in (("x", 0.1, 0.1), ("y", 0.5, 0.2)):
        writer.trial({"a": 1, "model.name": base}, {1: low, 2: low + 0.2})
        writer.trial({"a": 2, "model.name": base}, {1: low + gain, 2: low + 0.2 + gain})
    sweep = load_sweep(writer.folder)
    text = what_would_change_it(sweep, effects(sweep))
    assert (
        "Spread of validation/pass_at_1 over model.name: sd 0.265 between bases and 0.141 between seeds of a=1" in text
    )
    assert "sd 0.071 between bases and 0.000 between seeds of the difference of a=2." in text


def test_undefined_says_so(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "one", {"a": [1, 2], "base": ["x"]}, blocks=["base"], baseline={"a": 1}, seeds=[1])
    writer.trial({"a": 1, "base": "x"}, {1: 0.5})
    writer.trial({"a": 2, "base": "x"}, {1: 0.6})
    sweep = load_sweep(writer.folder)
    text = what_would_change_it(sweep, effects(sweep))
    assert "found four times" not in text and "would settle a=2 is unknown" in text
    assert "not to be told from that of seeds" in text and "nan" not in text


def test_a_large_difference_does_not_blur_a_small_one(write_sweep, tmp_path):
    params = {"a": [1, 2, 3], "model.name": ["x", "y"]}
    writer = write_sweep(tmp_path / "each", params, blocks=["model.name"], baseline={"a": 1}, minimum_effect=0.02)
    for base in ("x", "y"):
        writer.trial({"a": 1, "model.name": base}, {1: 0.5, 2: 0.5, 3: 0.5})
        writer.trial({"a": 2, "model.name": base}, {1: 0.51, 2: 0.5, 3: 0.49})
        writer.trial({"a": 3, "model.name": base}, {1: 0.1, 2: 0.15, 3: 0.05})
    sweep = load_sweep(writer.folder)
    text = what_would_change_it(sweep, effects(sweep))
    # Of a=2 alone, by its own sd .01 inside the two bases
    effect = detectable_effect(0.01, 6, groups=2, alpha=0.025)
    pairs = pairs_needed(0.02, 0.01, groups=2, alpha=0.025)
    assert f"four times in five: {effect:.3f} with 6 pairs ({pairs} pairs for 0.020) of a=2. " in text


def test_a_search_tests_nothing(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "tpe", {"a": [1, 2, 3]}, baseline={"a": 1}, sampler="tpe", seeds=[1, 2])
    for a, values in ((1, (0.5, 0.5)), (2, (0.1, 0.3)), (3, (0.6, 0.7))):
        writer.trial({"a": a}, dict(enumerate(values, 1)))
    sweep = load_sweep(writer.folder)
    text = what_would_change_it(sweep, effects(sweep))
    assert text == "The best of 3 points looks better than it is: run it and the baseline on seeds of their own."
