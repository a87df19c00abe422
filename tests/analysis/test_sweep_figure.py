import itertools

import numpy as np
import pytest

from r1lab.analysis.effects import effects
from r1lab.analysis.sweep import load_sweep
from r1lab.analysis.sweep_figure import sweep_figure

SCORE = "validation/pass_at_1"


def titles(figure):
    return [title for axes in figure.axes if (title := axes.get_title("left"))]


def drawn(folder):
    sweep = load_sweep(folder)
    figure = sweep_figure(sweep, effects(sweep))
    figure.canvas.draw()
    return figure


def test_one_factor(beta_sweep):
    figure = drawn(beta_sweep.folder)
    assert titles(figure) == ["mean, 95 % interval, every seed", "learning curves by loss.beta"]
    axes = figure.axes[0]
    # Each point a mean and three dots; an interval for the two that have one.
    assert [len(dots.get_offsets()) for dots in axes.collections] == [1, 3] * 3
    intervals = [line for line in axes.lines if len(set(line.get_ydata())) == 1]
    np.testing.assert_allclose(intervals[0].get_xdata(), [0.303172, 1.296828], atol=1e-6)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "0.001", "0.1"]
    notes = next(other for other in figure.axes if other is not axes and other.get_ylim() == axes.get_ylim())
    assert [label.get_text() for label in notes.get_yticklabels()] == ["+0.200\np 0.148", "baseline", "-0.200\np 0.250"]
    assert "no run noted a curve" in figure.axes[-1].texts[0].get_text()


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (2, ["mean, 95 % interval, every seed", "mean validation/pass_at_1, the baseline framed",
             "learning curves by p0", "learning curves by p1"]),
        (3, ["main effects: marginal means, 95 % intervals, every seed", "learning curves by p2"]),
    ],
)  # fmt: skip
def test_several_factors(write_sweep, tmp_path, factors, expected):
    names = [f"p{i}" for i in range(factors)]
    params = {name: [0, 1] for name in names} | {"base": ["x", "y"]}
    writer = write_sweep(tmp_path / "grid", params, blocks=["base"], baseline=dict.fromkeys(names, 0))
    for *levels, base in itertools.product(*[[0, 1]] * factors, ["x", "y"]):
        value = sum(level * 0.1 * (i + 1) for i, level in enumerate(levels))
        notes = {seed: writer.note(value, curve=[0.0, value + seed / 100]) for seed in (1, 2)}
        writer.trial(dict(zip(names, levels, strict=True)) | {"base": base}, notes)
    figure = drawn(writer.folder)
    assert titles(figure) == expected
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["x", "y"]


def test_a_search_of_two_objectives(write_sweep, tmp_path):
    lr = {"kind": "interval", "low": 1e-5, "high": 1e-2, "log": True}
    writer = write_sweep(
        tmp_path / "tpe",
        {"lr": lr, "kl": ["k3", None], "beta": {"kind": "interval", "low": 0.0, "high": 1.0}},
        seeds=[1],
        sampler="tpe",
        directions=["maximize", "minimize"],
        objectives=[SCORE, "rollout/completion_length"],
        baseline={"lr": 1e-5, "kl": None},
    )
    for i in range(12):
        kl = {"kl": "k3", "beta": i / 12} if i % 2 else {"kl": None}
        writer.trial({"lr": 1e-5 * 1.5**i, **kl}, {1: writer.note([i / 20, 10.0 + i], curve=[0.0, i / 20])})
    figure = drawn(writer.folder)
    assert titles(figure) == [
        "the best points: mean, 95 % interval, every seed",
        f"importance for {SCORE} (fANOVA)\nnot in every trial: beta",
        "parallel coordinates: one line a finished trial",
        "learning curves: the best points, and all runs",
        "Pareto front of the means",
        "the best points: mean, 95 % interval, every seed",
    ]
    # More score costs more length: all twelve are on the front.
    front = next(axes for axes in figure.axes if axes.get_title("left") == "Pareto front of the means")
    assert len(front.lines[0].get_xdata()) == 12


def test_a_search_that_has_just_begun(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "new", {"lr": {"kind": "interval", "low": 0.0, "high": 1.0}}, sampler="tpe")
    writer.trial({"lr": 0.5}, {1: 0.5})
    writer.trial({"lr": 0.6}, {}, "RUNNING")
    writer.trial({"lr": 0.1}, {}, "PRUNED", intermediate={10: 0.1}, pruned={"seed_index": 0, "step": 10})
    assert titles(drawn(writer.folder)) == [
        "mean, 95 % interval, every seed",
        "parallel coordinates: one line a finished trial; pruned ones grey, the darker the better their last value",
        "learning curves: the best points, and all runs",
    ]


def test_equal_seeds_lie_under_each_other(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "equal", {"a": [1]})
    writer.trial({"a": 1}, {1: 0.5, 2: 0.6, 3: 0.5})
    dots = drawn(writer.folder).axes[0].collections[1]
    np.testing.assert_allclose(dots.get_offsets()[:, 1], [0.16, 0.16, 0.23])


def test_nothing_varies(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "point", {"a": [1]})
    writer.trial({"a": 1}, {1: writer.note(0.5, curve=[0.1, 0.5]), 2: writer.note(0.6, curve=[0.2, 0.6])})
    assert "learning curves: the best points, and all runs" in titles(drawn(writer.folder))
