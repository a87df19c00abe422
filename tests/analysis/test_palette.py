from r1lab.analysis.curves import BLUE, GREY, ORANGE
from r1lab.analysis.palette import block_markers, level_colors, point_colors, shorten
from r1lab.analysis.sweep import load_sweep


def test_the_baseline_is_grey_and_levels_differ(beta_sweep):
    sweep = load_sweep(beta_sweep.folder)
    assert list(level_colors(sweep, "loss.beta").values()) == [BLUE, ORANGE, GREY]
    assert point_colors(sweep, [0, 1, 2]) == {0: BLUE, 1: GREY, 2: ORANGE}
    assert block_markers(sweep) == {"": "o"}


def test_many_levels_and_many_points(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "many", {"a": list(range(12)), "b": [1, 2]})
    for a in range(12):
        writer.trial({"a": a, "b": 1 + a % 2}, {1: 0.5})
    sweep = load_sweep(writer.folder)
    assert len(set(level_colors(sweep, "a").values())) == 12
    assert set(point_colors(sweep, range(12)).values()) == {BLUE}


def test_long_names_are_cut():
    assert shorten("abcdef", 4) == "abc…" and shorten("abcd", 4) == "abcd"
