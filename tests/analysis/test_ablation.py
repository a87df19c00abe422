import subprocess
import sys

import optuna
import pytest

from r1lab.analysis.ablation import main, sum_up


def test_writes_four_files_and_leaves_the_study(beta_sweep, capsys):
    journal = (beta_sweep.folder / "journal.log").read_bytes()
    assert main([str(beta_sweep.folder)]) == 0
    written = {path.name for path in beta_sweep.folder.iterdir()}
    assert written == {"journal.log", "table.md", "trials.csv", "figure.png", "verdict.md"}
    assert (beta_sweep.folder / "journal.log").read_bytes() == journal
    assert "keep the baseline" in capsys.readouterr().out
    first = {name: (beta_sweep.folder / name).read_bytes() for name in written}
    assert main([str(beta_sweep.folder)]) == 0
    assert {name: (beta_sweep.folder / name).read_bytes() for name in written} == first


def test_a_database_and_a_second_sweep(write_sweep, beta_sweep, tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/sweeps.db"
    for name in ("other", "beside"):
        writer = write_sweep(tmp_path / name, {"a": [1]}, storage=optuna.storages.RDBStorage(url))
        writer.trial({"a": 1}, {1: 0.5})
    arguments = ["--storage", url, "--study", "other", "--against", str(beta_sweep.folder)]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "89% of the steps saved" in (tmp_path / "out/verdict.md").read_text()  # 100 of 900
    assert main(["--storage", url, "--study", "other", "--against", "beside", "--output", str(tmp_path / "out")]) == 0
    assert " 0% of the steps saved" in (tmp_path / "out/verdict.md").read_text()
    capsys.readouterr()
    assert main(arguments) == 1
    assert capsys.readouterr().err == "error: --storage needs --output, the folder to write to\n"


def test_folders_are_summed_up_together_and_twins_compared(write_sweep, beta_sweep, tmp_path, capsys):
    lr = {"kind": "interval", "low": 0.0, "high": 1.0, "log": False}
    for name, pruner in (("full", None), ("cut", "MedianPruner")):
        writer = write_sweep(tmp_path / name, {"lr": lr}, seeds=[1], sampler="tpe", pruner=pruner)
        writer.trial({"lr": 0.5}, {1: 0.5})
    folders = [tmp_path / name for name in ("beta", "full", "cut")]
    assert main(list(map(str, folders))) == 0
    beta, full, cut = ((folder / "verdict.md").read_text() for folder in folders)
    assert "cut against full" in full and "cut against full" in cut and "against full" not in beta
    assert capsys.readouterr().out.count("wrote ") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the folder of a sweep, or a database with --storage"),
        (["nowhere"], "there is no folder nowhere"),
        (["beta", "beta", "--output", "x"], "--output takes one sweep, got 2 folders"),
        (["beta", "--study", "gamma"], "there is no study gamma in beta: there are beta"),
        (["beta", "--against", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_errors_of_one_line(beta_sweep, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(beta_sweep.folder.parent)
    assert main(arguments) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("error, does_it", [(OSError("the disk is full"), True), (ValueError("odd"), False)])
def test_the_command_is_promised_where_it_helps(monkeypatch, caplog, beta_sweep, error, does_it):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("r1lab.analysis.ablation.write_all", fail)
    sum_up(str(beta_sweep.folder / "journal.log"), "beta")
    (told,) = caplog.messages
    assert told.startswith(f"not summed up, {error}") and ("r1lab.analysis.ablation does it" in told) == does_it


@pytest.mark.slow
def test_help_and_no_pyplot():
    code = (
        "import r1lab.analysis.ablation as a, sys; print('pyplot', 'matplotlib.pyplot' in sys.modules); a.main(['-h'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.startswith("pyplot False") and "verdict.md" in out and "95 % interval" in out and "--against" in out
