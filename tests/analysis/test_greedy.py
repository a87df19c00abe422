from pathlib import Path

import pytest
import yaml

import r1lab.analysis.ceiling as ceiling
from r1lab.analysis.effects import effects
from r1lab.analysis.expected import papers
from r1lab.analysis.greedy import beside, greedy_change, has_greedy, why_none
from r1lab.analysis.sweep import load_sweep
from r1lab.analysis.sweep_figure import sweep_figure
from r1lab.analysis.sweep_table import factor_tables, main_table, markdown, notes
from r1lab.analysis.verdict import finding, verdict

RESULTS = Path(__file__).parents[2] / "sweeps/results"
TASK = yaml.safe_load(Path(ceiling.__file__).with_name("ceiling.yaml").read_text())["settings"]
CONFIG = TASK | {
    "evaluation.temperature": 1.0,
    "evaluation.top_p": 1.0,
    "evaluation.top_k": 0,
    "model.name": "tiny",
}


@pytest.fixture
def sweep(write_sweep, tmp_path):
    """Two levels, at T 1 .5 and .8, greedy .985 and .990."""
    expected = [{"point": {"a": 2}, "direction": "higher", "source": "Some paper"}]
    record = {"config": CONFIG, "baseline": {"a": 1}, "expected": expected}
    writer = write_sweep(tmp_path / "greedy", {"a": [1, 2]}, seeds=[1, 2], **record)
    for a, sampled, greedy in ((1, 0.5, 0.985), (2, 0.8, 0.990)):
        scores = {"heldout": {"pass_at_1": sampled, "greedy": greedy}}
        writer.trial({"a": a}, {seed: writer.note(sampled, [0.1, sampled], after=scores) for seed in (1, 2)})
    return load_sweep(writer.folder)


def test_greedy_stands_beside_the_sampled_score(sweep):
    table = main_table(sweep, effects(sweep))
    headings = ["validation pass@1, T 1", "n", "difference", "p", "held-out greedy", "difference in greedy"]
    assert list(table)[1:7] == headings
    assert table["held-out greedy"].tolist() == ["0.985", "0.990"]
    assert table["difference in greedy"].tolist() == ["baseline", "+0.00500,\nsaturated"]
    assert greedy_change(sweep, 1) == "+0.00500, saturated" and greedy_change(sweep, 0) == ""
    assert any(line.startswith("Saturated: both arms are within 0.03") for line in notes(sweep, effects(sweep)))


def test_the_verdict_and_the_papers_have_both(sweep):
    text = finding(sweep, effects(sweep))
    assert "validation pass@1, T 1: baseline a=1 0.500 (n 2)" in text
    assert "Held-out greedy: baseline 0.985; against it a=2 +0.00500, saturated. Saturated: both arms" in text
    assert "Held-out pass@1, T 1 of a=2, the best point: +0.300 (held-out greedy +0.00500, saturated)" in text
    assert papers(sweep, effects(sweep)).endswith("(held-out greedy +0.00500, saturated).")


def test_the_figure_has_a_panel_of_greedy_on_the_same_scale(sweep):
    figure = sweep_figure(sweep, effects(sweep))
    panels = {axes.get_title("left"): axes for axes in figure.axes}
    sampled, greedy = (panels[f"{name}: mean, 95 % interval, every seed"] for name in ("T 1", "greedy"))
    assert sampled.get_xlim() == greedy.get_xlim() and sampled.get_xlabel() == "validation pass@1, T 1"
    assert greedy.get_xlabel() == "held-out greedy (dotted: highest measured, 0.994)"
    notes = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert ["baseline", "+0.00500\nsaturated"] in notes


def test_tables_of_factors_and_blocks_have_both(write_sweep, tmp_path):
    params = {"a": [1, 2], "b": [1, 2], "model.name": ["tiny", "sweeps/bases/2"]}
    record = {"config": CONFIG, "baseline": {"a": 1, "b": 1}, "blocks": ["model.name"]}
    writer = write_sweep(tmp_path / "grid", params, seeds=[1, 2], **record)
    for a in (1, 2):
        for b in (1, 2):
            for base in params["model.name"]:
                note = writer.note(0.5 + a / 10, after={"heldout": {"greedy": 0.99 - b / 100}})
                writer.trial({"a": a, "b": b, "model.name": base}, {1: note, 2: note})
    tables = dict(factor_tables(load_sweep(writer.folder)))
    blocks, effect, means = (table for name, table in tables.items() if "held-out greedy" in name)
    assert blocks["tiny"].tolist() == ["-0.010, saturated", "+0.000, saturated", "-0.010, saturated"]
    assert effect["difference"].tolist() == ["–", "+0.000", "–", "-0.010"]
    assert means["b=2"].tolist() == ["0.970", "0.970"]


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        ({"after": None}, "no run was scored on held-out prompts after training"),
        ({}, "the scores after training lack it"),  # older studies
    ],
)
def test_a_sweep_without_greedy_has_a_dash_and_the_reason(write_sweep, tmp_path, note, reason):
    writer = write_sweep(tmp_path / "none", {"a": [1, 2]}, baseline={"a": 1}, seeds=[1])
    for a in (1, 2):
        writer.trial({"a": a}, {1: writer.note(0.5, **note)})
    sweep = load_sweep(writer.folder)
    found = effects(sweep)
    assert not has_greedy(sweep) and why_none(sweep) == reason and beside(sweep, 1) == ""
    assert main_table(sweep, found)["held-out greedy"].tolist() == ["–", "–"]
    assert f"Held-out greedy: –, {reason}." in markdown(sweep, found)
    assert f"Held-out greedy: –, {reason}." in finding(sweep, found)
    assert sweep_figure(sweep, found).get_supxlabel() == f"held-out greedy: –, {reason}"


def assert_committed_files_follow_from_the_journal(name):
    sweep = load_sweep(RESULTS / name)
    found = effects(sweep)
    assert (RESULTS / name / "table.md").read_text() == markdown(sweep, found)
    other = {"tune": "tune_unpruned", "tune_unpruned": "tune"}.get(name)
    text = verdict(sweep, found, load_sweep(RESULTS / other) if other else None)
    assert (RESULTS / name / "verdict.md").read_text() == text


@pytest.mark.parametrize("name", ["reward_weights"])
def test_committed_files_follow_from_the_journal(name):
    assert_committed_files_follow_from_the_journal(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in RESULTS.iterdir()))
def test_all_committed_files_follow_from_their_journals(name):
    assert_committed_files_follow_from_the_journal(name)
