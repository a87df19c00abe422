import optuna
import pytest

from r1lab.analysis.study import SweepError, open_study


def test_reading_writes_nothing(beta_sweep):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in beta_sweep.folder.iterdir()}
    assert open_study(beta_sweep.folder).study_name == "beta"
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in beta_sweep.folder.iterdir()} == before


def test_a_database_is_opened_read_only(tmp_path):
    url = f"sqlite:///{tmp_path}/sweeps.db"
    for name in ("one", "two"):
        optuna.create_study(study_name=name, storage=url).set_user_attr("sweep", name)
    study = open_study(url, "two")
    assert study.user_attrs["sweep"] == "two"
    with pytest.raises(Exception, match="readonly|An exception is raised"):
        study.set_user_attr("sweep", "changed")
    with pytest.raises(SweepError, match="which study of .* there are one, two"):
        open_study(url)
    with pytest.raises(SweepError, match="there is no study three in .*: there are one, two"):
        open_study(url, "three")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "there is no folder"),
        (".", "has no journal.log"),
        ("sqlite:///nowhere.db", "there is no database nowhere.db"),
        ("nodialect://me:secret@host/db", "is no URL of a database|cannot be read"),
    ],
)
def test_nothing_there(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SweepError, match=message) as error:
        open_study(source)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_torn_last_line_is_passed_over_and_a_broken_one_told(beta_sweep):
    journal = beta_sweep.folder / "journal.log"
    text = journal.read_text()
    journal.write_text(text + '{"op_code": 4, "wor')
    assert len(open_study(beta_sweep.folder).trials) == 3
    journal.write_text("no json\n" + text)
    with pytest.raises(SweepError, match="cannot be read as an Optuna storage"):
        open_study(beta_sweep.folder)
