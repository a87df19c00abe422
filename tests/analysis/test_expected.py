import pytest

from r1lab.analysis.effects import effects
from r1lab.analysis.expected import judged, papers
from r1lab.analysis.sweep import load_sweep
from r1lab.metric.mean_interval import MeanInterval


@pytest.mark.parametrize(
    "low, high, p, direction, outcome",
    [
        (0.01, 0.3, 0.04, "higher", "agrees"),
        (0.01, 0.3, 0.06, "higher", "not settled"),  # by itself it is, among its comparisons it is not
        (0.01, 0.3, 0.04, "lower", "the opposite"),
        (-0.3, -0.01, 0.04, "lower", "agrees"),
        (-0.3, -0.01, 0.04, "higher", "the opposite"),
        (-0.1, 0.3, 0.4, "higher", "not settled"),
        (-0.01, 0.02, 0.4, "equal", "agrees"),
        (0.001, 0.02, 0.04, "equal", "agrees"),  # surely not zero, surely too small to matter
        (0.001, 0.03, 0.04, "equal", "it differs"),
        (0.001, 0.03, 0.06, "equal", "not settled"),
        (0.001, 0.03, None, "higher", "not settled"),  # of a search
    ],
)
def test_what_an_interval_and_its_p_say(low, high, p, direction, outcome):
    assert judged(MeanInterval((low + high) / 2, low, high, 1.0, 3), p, direction, 0.02) == outcome


def test_a_sentence_an_entry(write_sweep, tmp_path):
    expected = [
        {"point": {"a": 2}, "direction": "lower", "source": "Some paper"},
        {"point": {"a": 2}, "direction": "equal", "source": "Another", "measure": "after/heldout/completion_length"},
        {"point": {"a": 3}, "direction": "equal", "source": "A third"},
        {"point": {"a": 2}, "direction": "equal", "source": "A fourth", "measure": "after/heldout/nothing"},
    ]
    writer = write_sweep(tmp_path / "x", {"a": [1, 2]}, baseline={"a": 1}, expected=expected, minimum_effect=0.02)
    writer.trial({"a": 1}, {1: 0.5, 2: 0.6, 3: 0.7})
    writer.trial({"a": 2}, {1: 0.7, 2: 0.8, 3: 0.91})
    sweep = load_sweep(writer.folder)
    told = papers(sweep, effects(sweep))
    # The mean of .2 .2 .21 -+ 4.302653 x .0057735 / sqrt(3)
    assert told == (
        "Some paper: validation/pass_at_1 of a=2 lower; here the opposite (+0.203 [+0.189, +0.218], p <0.001). "
        "Another: completion length of a=2 equal; here agrees (+0.000, p 1.000). "
        "A third on {'a': 3}: there is nothing to compare. "
        "A fourth: after/heldout/nothing of a=2 equal; here not measured."
    )
