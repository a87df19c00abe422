import io

import pandas as pd
from rich.console import Console

from r1lab.analysis.effects import effects
from r1lab.analysis.sweep import load_sweep
from r1lab.analysis.sweep_table import factor_tables, main_table, markdown, notes, print_tables, states, trials_csv


def test_a_row_a_point(beta_sweep):
    sweep = load_sweep(beta_sweep.folder)
    table = main_table(sweep, effects(sweep))
    # .8 +- 4.302653 * .2 / sqrt(3) = .8 +- .496828; differences .2 +- .248414
    assert table.iloc[0].to_dict() == {
        "loss.beta": "0",
        "validation/pass_at_1": "0.800\n[0.303, 1.297]",
        "n": "3",
        "difference": "+0.200\n[-0.048, +0.448]",
        "p": "0.148",
        "held-out greedy": "–",
        "held-out pass@1": "0.800",
        "format": "0.900",
        "completion length": "20.0",
        "seconds": "60.0",
        "trials": "1",
    }
    assert table["difference"].tolist()[1:] == ["baseline", "-0.200"] and table["p"].tolist()[1:] == ["–", "0.250"]


def test_notes_say_what_is_undefined(beta_sweep):
    sweep = load_sweep(beta_sweep.folder)
    assert notes(sweep, effects(sweep)) == [
        "Brackets: 95 % t interval of the mean over seeds; unadjusted. n: runs that count.",
        "Differences: paired by seed; p: two-sided paired t test, after Holm over 2 comparisons.",
        "Exact sign-flip test beside it, unadjusted: smallest p 0.250; with 3 pairs it cannot fall below 0.250.",
        "Held-out greedy: –, the scores after training lack it.",
        "No interval of the difference, all 3 pairs are equal; p by the sign-flip test: 0.1.",
    ]


def test_without_a_baseline(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "none", {"loss.beta": [0.0, 0.1]}, baseline={"loss.beta": 0.5})
    writer.trial({"loss.beta": 0.0}, {1: 0.5})
    writer.trial({"loss.beta": 0.1}, {1: 0.5}, "PRUNED", pruned={"seed_index": 1, "step": 9})
    sweep = load_sweep(writer.folder)
    table = main_table(sweep, effects(sweep))
    assert "difference" not in table and table["validation/pass_at_1"].tolist() == ["0.500", "–"]
    assert [states(sweep, point) for point in (0, 1)] == ["1", "1 of 1 pruned"]
    text = markdown(sweep, effects(sweep))
    assert "No differences: the baseline loss.beta=0.5 is not among the trials." in text and "nan" not in text.lower()


def test_tables_of_two_factors(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "two", {"a": [1, 2], "b": ["x", "y|z"]}, baseline={"a": 1, "b": "x"})
    for a, b, value in ((1, "x", 0.1), (1, "y|z", 0.2), (2, "x", 0.3)):
        writer.trial({"a": a, "b": b}, {1: value, 2: value + 0.1})
    sweep = load_sweep(writer.folder)
    (_, main), (_, means) = factor_tables(sweep)
    assert main["difference"].tolist()[:2] == ["–", "+0.200"] and main["parameter"][0] == "a at b=x"
    assert means.to_numpy().tolist() == [["1", "0.150", "0.250"], ["2", "0.350", "–"]]
    text = markdown(sweep, effects(sweep))
    # A bar would end the cell.
    assert "| 1 | y¦z | 0.250" in text and "## Main effects on validation/pass_at_1" in text


def test_a_narrow_terminal_gets_more_tables(beta_sweep):
    sweep = load_sweep(beta_sweep.folder)
    for width, count in ((200, 1), (60, 3)):
        console = Console(file=io.StringIO(), width=width)
        print_tables(sweep, effects(sweep), console)
        text = console.file.getvalue()
        assert text.count("┏") == count and "…" not in text and "[+" not in text.split("Brackets")[1]
        assert max(len(line.rstrip()) for line in text.split("\n")) <= width


def test_trials_csv_reads_back(beta_sweep, tmp_path):
    trials_csv(load_sweep(beta_sweep.folder)).to_csv(tmp_path / "trials.csv", index=False)
    table = pd.read_csv(tmp_path / "trials.csv")
    assert table["validation/pass_at_1"].tolist() == [0.5, 0.6, 0.7, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
    assert table["loss.beta"].tolist() == [0.001] * 3 + [0.1] * 3 + [0.0] * 3
    assert table["seed"].tolist() == [1, 2, 3] * 3 and table["steps"].tolist() == [100] * 9


def test_differences_on_each_base(write_sweep, tmp_path):
    params = {"a": [1, 2], "model.name": ["x", "y"]}
    writer = write_sweep(tmp_path / "blocks", params, blocks=["model.name"], baseline={"a": 1})
    for a, base, values in ((1, "x", (0.1, 0.2)), (2, "x", (0.2, 0.4)), (1, "y", (0.5, 0.5)), (2, "y", (0.4, 0.2))):
        writer.trial({"a": a, "model.name": base}, {1: values[0], 2: values[1]})
    sweep = load_sweep(writer.folder)
    (title, table), *_ = factor_tables(sweep)
    assert title == "Differences in validation/pass_at_1 on each model.name"
    assert table.columns.tolist() == ["a", "x", "y", "over model.name"] and table["a"].tolist() == ["2"]
    # .1 and .2: .15 -+ 12.706205 x .0707107 / sqrt(2)
    assert table["x"].tolist() == ["+0.150 [-0.485, +0.785]"] and table["y"][0].startswith("-0.200 [")
    # Two bases: .15 and -.2: -.025 -+ 12.706205 x .247487 / sqrt(2)
    assert table["over model.name"].tolist() == ["-0.025 [-2.249, +2.199]"]
