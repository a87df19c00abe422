import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from r1lab.analysis.curves import BLUE, ORANGE, curves_figure, plot_curves
from r1lab.analysis.run import load_run


@pytest.fixture
def rl_run(tmp_path):
    steps = np.arange(1, 41)
    metrics = pd.DataFrame(
        {
            "step": steps,
            "reward/accuracy": steps / 50,
            "rollout/format": 0.5 + steps / 100,
            "reward/mean": steps / 40,
            "reward/std": 0.3,
            "rollout/completion_length": 20.0 + steps,
            "rollout/reasoning_length": 5.0 + steps,
            "loss/kl": 0.001 * steps,
            "loss/entropy": 1.0 / steps,
            "loss/clip_fraction": 0.0,
            "advantage/zero_std_groups": 0.2,
            "validation/pass_at_1": np.where(steps % 10 == 0, steps / 50, np.nan),
            "validation/format": np.where(steps % 10 == 0, 0.9, np.nan),
        }
    )
    metrics["validation/pass_at_1_low"] = metrics["validation/pass_at_1"] - 0.05
    metrics["validation/pass_at_1_high"] = metrics["validation/pass_at_1"] + 0.05
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    score = {"pass_at_1": 0.1, "pass_at_1_low": 0.08, "pass_at_1_high": 0.12}
    summary = {"experiment": "r1zero", "seed": 3, "commit": "0a1b2c", "before": {"heldout": score}}
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"after": {"heldout": {"pass_at_1": 0.875}}}))
    return tmp_path


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title() == title)


def test_accuracy_and_length_share_the_large_panel(rl_run):
    figure = curves_figure(load_run(rl_run))
    large, lengths = [axes for axes in figure.axes if axes.get_title() == ""]
    assert large.get_ylabel() == "accuracy" and lengths.get_ylabel() == "tokens"
    assert large.get_position().bounds == lengths.get_position().bounds
    accuracy = next(line for line in large.lines if line.get_label() == "accuracy in training")
    np.testing.assert_allclose(accuracy.get_ydata()[-1], 0.8)  # 40 / 50
    assert [to_hex(c).upper() for c in (accuracy.get_color(), lengths.lines[0].get_color())] == [BLUE, ORANGE]
    np.testing.assert_array_equal(lengths.lines[1].get_ydata()[:2], [6, 7])
    # validation at steps 10, 20, 30, 40 with bars of 0.05 either way
    (bars,) = large.containers
    assert [list(s[:, 1].round(2)) for s in bars[2][0].get_segments()] == [
        [0.15, 0.25],
        [0.35, 0.45],
        [0.55, 0.65],
        [0.75, 0.85],
    ]


def test_small_panels_and_title(rl_run):
    figure = curves_figure(load_run(rl_run))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    expected = [
        "format",
        "reward",
        "KL to the reference, nats a token",
        "entropy, nats a token",
        "clip fraction",
        "zero-variance groups",
    ]
    assert titles == expected
    np.testing.assert_allclose(panel(figure, "KL to the reference, nats a token").lines[0].get_ydata()[-1], 0.04)
    assert len(panel(figure, "format").lines[1].get_xdata()) == 4
    assert figure.get_suptitle() == ("r1zero, seed 3, commit 0a1b2c\nheld-out pass@1 0.10 [0.08, 0.12] → 0.88")


def test_metrics_that_were_not_logged_are_left_out(rl_run):
    metrics = pd.read_csv(rl_run / "metrics.csv")
    metrics.drop(columns=["loss/kl", "reward/std"]).to_csv(rl_run / "metrics.csv", index=False)
    figure = curves_figure(load_run(rl_run))
    assert "KL to the reference, nats a token" not in [axes.get_title() for axes in figure.axes]
    assert len(panel(figure, "reward").lines) == 1


def test_supervised_run(tmp_path):
    pd.DataFrame(
        {
            "step": [1, 2],
            "loss/total": [2.0, 1.5],
            "validation/pass_at_1": [np.nan, 0.1],
            "validation/format": [np.nan, 0.4],
        }
    ).to_csv(tmp_path / "metrics.csv", index=False)
    figure = curves_figure(load_run(tmp_path))
    assert [axes.get_ylabel() for axes in figure.axes[:2]] == ["loss (nats a token)", "accuracy"]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [2.0, 1.5])
    assert figure.axes[2].get_title() == "format"


def test_writes_a_picture_whole(rl_run):
    path = plot_curves(rl_run)
    assert path == rl_run / "curves.png"
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 400_000
    assert not list(rl_run.glob(".curves*"))
    assert plot_curves(rl_run, rl_run / "other.png").exists()


def test_a_run_without_steps(tmp_path):
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(ValueError, match="no logged step"):
        plot_curves(tmp_path)


def test_pyplot_stays_untouched():
    code = "import r1lab.analysis.curves, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
