import pandas as pd
import pytest
import yaml

from r1lab.analysis.reward_hacking import changes, curves_of, main, verdict


def write_run(folder, learned, gold, seed=1):
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed}))
    columns = {"step": range(1, len(learned) + 1), "reward/model": learned}
    pd.DataFrame(columns | ({"reward/accuracy": gold} if gold else {})).to_csv(folder / "metrics.csv", index=False)
    return folder


@pytest.fixture
def runs(tmp_path):
    # Ten steps: the middle fifth is steps 5 and 6, the last one 9 and 10.
    learned = [0, 0, 0, 0, 1, 1, 2, 2, 3, 5]
    return [
        write_run(tmp_path / "a", learned, [0, 0, 0, 0, 0.8, 0.6, 0.5, 0.5, 0.4, 0.2]),
        write_run(tmp_path / "b", learned, [0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.4, 0.4], seed=2),
    ]


def test_changes_are_of_windows_fixed_beforehand(runs):
    found = changes(curves_of(runs))
    assert found["learned"] == [3, 3]
    assert found["gold"] == pytest.approx([-0.4, -0.1])
    assert "gold reward, last fifth of the steps less the middle fifth: -0.250 [" in verdict(curves_of(runs))


def test_the_files(runs, tmp_path, capsys):
    output = tmp_path / "out"
    assert main([*map(str, runs), "--output", str(output)]) == 0
    table = pd.read_csv(output / "reward_hacking.csv")
    assert len(table) == 20 and table["seed"].unique().tolist() == [1, 2]
    assert (output / "reward_hacking.png").stat().st_size > 10_000
    assert (output / "reward_hacking.md").read_text() in capsys.readouterr().out


def test_a_run_without_both_rewards_is_told(tmp_path, capsys):
    folder = write_run(tmp_path / "a", [1, 2], None)
    assert main([str(folder)]) == 1
    assert "has no reward/accuracy; give runs of experiment=reward_hacking" in capsys.readouterr().err
