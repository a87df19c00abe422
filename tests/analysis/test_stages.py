import pandas as pd
import pytest

from r1lab.analysis.stages import contrast_figure, contrasts, markdown, stage_figure, stage_frame, verdicts


def scores(pass_at_1, consistency=0.9):
    def measured(value):
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "prompts": 100}

    none = {"value": None, "low": None, "high": None, "prompts": 0}
    return {"pass_at_1": measured(pass_at_1), "language_consistency": measured(consistency) if consistency else none}


PEOPLE = {"Zero": False, "R1": True}


def test_one_seed_has_its_interval_over_prompts():
    frame = stage_frame({"Zero": [scores(0.5)], "R1": [scores(0.8, None)]}, PEOPLE)
    first = frame.iloc[0]
    assert (first["stage"], first["metric"], first["value"], first["low"], first["high"]) == (
        "Zero", "pass_at_1", 0.5, 0.4, 0.6
    )  # fmt: skip
    lines = markdown(frame).splitlines()
    assert lines[0] == "| stage | pass@1 | language consistency | people's data |"
    assert lines[2] == "| Zero | 0.500 [0.400, 0.600] | 0.900 [0.800, 1.000] | no |"
    assert lines[3] == "| R1 | 0.800 [0.700, 0.900] | – | yes |"
    assert lines[-1] == "95 % intervals over held-out prompts, one seed."


def test_several_seeds_have_students_interval_around_their_mean():
    frame = stage_frame({"Zero": [scores(0.4), scores(0.5), scores(0.6)]}, PEOPLE)
    first = frame.iloc[0]
    # t of 2 degrees of freedom at .975 is 4.3027; sd .1, standard error .1 / sqrt(3) = .0577
    assert first["value"] == pytest.approx(0.5) and first["seeds"] == 3
    assert first["low"] == pytest.approx(0.5 - 4.3027 * 0.05774, abs=1e-3)
    assert "over 3 seeds" in markdown(frame)


def test_the_figure_and_what_the_table_is_read_from(tmp_path):
    frame = stage_frame({"Zero": [scores(0.5)], "R1": [scores(0.8, None)]}, PEOPLE)
    frame.to_csv(tmp_path / "table.csv", index=False)
    assert markdown(pd.read_csv(tmp_path / "table.csv")) == markdown(frame)
    stage_figure(frame, tmp_path / "stages.png")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["stages.png", "table.csv"]


def test_a_difference_is_of_pairs_of_seeds():
    seeds = {"with": [scores(0.5), scores(0.7)], "without": [scores(0.4, None), scores(0.5, None)]}
    # +.1 and +.2: mean .15, sd .0707, standard error .05, t of 1 degree of freedom 12.706
    assert contrasts(seeds, [["with", "without"]]) == "with minus without: pass@1 +0.150 [-0.485, +0.785].\n"
    one = {name: each[:1] for name, each in seeds.items()}
    assert contrasts(one, [["with", "without"]]) == "with minus without: pass@1 +0.100.\n"


def test_a_verdict_is_what_the_interval_says(tmp_path):
    seeds = {
        "low": [scores(0.40), scores(0.41), scores(0.42)],
        "high": [scores(0.60), scores(0.62), scores(0.61)],
        "wide": [scores(0.30), scores(0.60), scores(0.45)],
    }
    pairs = [["high", "low"], ["low", "high"], ["wide", "low"]]
    *told, _, note = verdicts(seeds, pairs).splitlines()
    assert [line.split("**")[1] for line in told] == ["better", "worse", "not told apart"]
    assert note.endswith("unadjusted for there being 3.") and "unadjusted" not in verdicts(seeds, pairs[:1])
    one = {name: each[:1] for name, each in seeds.items()}
    assert "**no verdict, one value**, pass@1 +0.200" in verdicts(one, pairs)
    assert verdicts({"a": [{}], "b": [{}]}, [["a", "b"]]) == ""
    for each in (seeds, one):
        contrast_figure(each, pairs, tmp_path / "contrasts.png")
    assert [path.name for path in tmp_path.iterdir()] == ["contrasts.png"]


def test_a_verdict_has_greedy_beside_the_sampled_score():
    def both(sampled, greedy):
        return {"pass_at_1": {"value": sampled}, "greedy": {"value": greedy}}

    seeds = {"a": [both(0.9, 0.95), both(0.9, 0.96)], "b": [both(0.8, 0.97), both(0.8, 0.98)]}
    line, _, note = verdicts(seeds, [["a", "b"]]).splitlines()
    assert line.endswith("pass@1 +0.100; greedy -0.020") and note.startswith("The verdicts are on pass@1 of samples")
