import numpy as np

from r1lab.analysis.curve_panels import band, curve_metric
from r1lab.analysis.sweep import load_sweep

SCORE = "validation/pass_at_1"


def test_band_over_seeds(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "curves", {"a": [1, 2]})
    notes = {seed: writer.note(0.5, curve=[0.1 * seed, 0.2 * seed]) for seed in (1, 2, 3)}
    # A validation that seed 3 alone has would move the mean by itself.
    notes[3]["curve"] = {"step": [50, 75, 100], SCORE: [0.3, 0.9, 0.6]}
    writer.trial({"a": 1}, notes)
    writer.trial({"a": 2}, {1: 0.5}, "PRUNED", intermediate={50: 0.9})
    sweep = load_sweep(writer.folder)
    assert curve_metric(sweep) == SCORE
    table = band(sweep, [0], SCORE)
    assert table["step"].tolist() == [50, 100]
    # .2 +- 4.302653 * .1 / sqrt(3), of which no score can be below 0
    np.testing.assert_allclose(table.iloc[0], [50, 0.2, 0.0, 0.2 + 0.248414], atol=1e-6)
    assert band(sweep, [1], SCORE).empty  # pruned


def test_no_curve(beta_sweep):
    assert curve_metric(load_sweep(beta_sweep.folder)) is None
