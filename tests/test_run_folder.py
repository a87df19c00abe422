import os
import re
from pathlib import Path

import pytest

from r1lab import run_folder
from r1lab.run_folder import check_writable, config_hash, read_summary, write_summary, write_whole


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "RUNS", tmp_path)
    return tmp_path


def make(runs, name, status, checkpoint=True):
    folder = runs / "r1zero" / name
    (folder / "checkpoints").mkdir(parents=True)
    if checkpoint:
        (folder / "checkpoints/last.ckpt").touch()
    if status:
        write_summary(folder, {"status": status})
    return str(folder)


def test_a_new_run_has_its_own_folder(runs):
    folder = run_folder.run_folder("r1zero", None)
    assert re.fullmatch(rf"{runs}/r1zero/\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d", folder)
    assert run_folder.run_folder("r1zero", "some/file.ckpt").startswith(f"{runs}/r1zero/")


def test_last_is_the_newest_unfinished_run_that_can_go_on(runs):
    make(runs, "2025-01-01_00-00-00", "interrupted")
    wanted = make(runs, "2025-01-02_00-00-00", "running")
    make(runs, "2025-01-03_00-00-00", "finished")
    make(runs, "2025-01-04_00-00-00", "failed", checkpoint=False)  # there is nothing of it to go on with
    assert run_folder.run_folder("r1zero", "last") == wanted
    killed = make(runs, "2025-01-04_12-00-00", "running", checkpoint=False)  # before its first checkpoint
    assert run_folder.run_folder("r1zero", "last") == killed
    newer = make(runs, "2025-01-05_00-00-00", None)  # killed before it could write a summary
    assert run_folder.run_folder("r1zero", "last") == newer


def test_runs_of_one_second_have_folders_of_their_own(runs):
    made = {run_folder.run_folder("r1zero", None) for _ in range(5)}
    assert len(made) == 5


def test_a_folder_where_no_run_began_is_removed(runs, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setattr(run_folder, "RUNS", Path("runs"))
    monkeypatch.setattr(run_folder, "_made", [])
    empty, logged = (Path(run_folder.run_folder(name, None)) for name in ("first", "first"))
    (logged / "train.log").write_text("a note")
    run_folder.remove_unbegun()
    assert not Path("runs").exists()

    Path("runs").mkdir()  # the user's own
    begun, unbegun = (Path(run_folder.run_folder(name, None)) for name in ("begun", "unbegun"))
    for name in ("train.log", "config.yaml"):
        (begun / name).touch()
    run_folder.remove_unbegun()
    assert begun.is_dir() and len(list(begun.iterdir())) == 2 and not unbegun.parent.exists()
    begun.joinpath("config.yaml").unlink()
    (Path("runs") / "train.log").touch()
    run_folder.remove_unbegun()  # not what it left before
    assert begun.is_dir() and len(list(Path("runs").iterdir())) == 2


def test_a_run_that_is_going_on_is_left_alone(runs):
    halted = make(runs, "2025-01-01_00-00-00", "interrupted")
    going = make(runs, "2025-01-02_00-00-00", "running")
    with run_folder.claim(Path(going), goes_on=True):
        assert run_folder.run_folder("r1zero", "last") == halted
        with pytest.raises(ValueError, match=rf"going on in .*process {os.getpid()}"):
            run_folder.claim(Path(going), goes_on=True).__enter__()
    assert run_folder.run_folder("r1zero", "last") == going


def test_a_folder_that_holds_a_run_is_not_begun_in_again(runs):
    folder = Path(make(runs, "2025-01-01_00-00-00", "finished"))
    with pytest.raises(ValueError, match="holds a run already.*ckpt_path=last"):
        run_folder.claim(folder, goes_on=False).__enter__()
    with run_folder.claim(runs / "new", goes_on=False):
        assert (runs / "new" / ".lock").read_text() == str(os.getpid())
    assert list((runs / "new").iterdir()) == []


def test_a_damaged_summary_does_not_hide_another_run(runs):
    halted = make(runs, "2025-01-01_00-00-00", "interrupted")
    Path(make(runs, "2025-01-02_00-00-00", "running"), "summary.json").write_text("{half")
    assert run_folder.run_folder("r1zero", "last") == halted


def test_last_of_nothing_says_what_to_do(runs):
    make(runs, "2025-01-03_00-00-00", "finished")
    with pytest.raises(FileNotFoundError, match="no unfinished run .* leave ckpt_path out"):
        run_folder.run_folder("r1zero", "last")


def test_summary_is_written_whole(tmp_path):
    assert read_summary(tmp_path) == {}
    write_summary(tmp_path, {"a": 1})
    with pytest.raises(TypeError):
        write_summary(tmp_path, {"a": object()})
    assert read_summary(tmp_path) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_config_hash_is_that_of_the_settings_but_not_of_a_resume():
    config = {"seed": 1, "loss": {"beta": 0.1}, "ckpt_path": None}
    assert re.fullmatch("[0-9a-f]{12}", config_hash(config))
    for how in ({"ckpt_path": "last"}, {"kernel": {"name": "torch"}}):
        assert config_hash(config | how) == config_hash(config)
    assert config_hash({"ckpt_path": None, "loss": {"beta": 0.1}, "seed": 1}) == config_hash(config)
    assert config_hash(config | {"loss": {"beta": 0.2}}) != config_hash(config)


def test_two_processes_that_write_one_file(tmp_path):
    """Each writes it whole again and again; a reader sees one text or the other."""
    path, texts = tmp_path / "scores.json", ["a" * 20_000, "b" * 30_000]
    children = []
    for text in texts:
        if not (child := os.fork()):
            try:
                for _ in range(150):
                    write_whole(path, text)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0] and path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, "under torchrun each rank .* give one to all, hydra.run.dir"),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, "under srun each rank"),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, None),  # in a batch script, without srun
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"WORLD_SIZE": "2"}, None),  # Lightning's own, whose ranks are given the folder
    ],
)
def test_ranks_started_from_outside_need_a_folder(environment, told, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if told is None:
        assert Path(run_folder.run_folder("name", None)).is_dir()
        return
    with pytest.raises(ValueError, match=told):
        run_folder.run_folder("name", None)
    assert not list(tmp_path.iterdir())


def test_a_file_that_can_be_written_is_left_as_it_was(tmp_path):
    file = tmp_path / "new" / "plan.csv"
    check_writable(file, "output")
    assert list(file.parent.iterdir()) == []
    file.write_text("x")
    check_writable(file, "output")
    assert file.read_text() == "x"
    for place, reason in (
        (tmp_path, "is a folder; name a file in it"),
        (file / "y.csv", "cannot be written .*another"),
    ):
        with pytest.raises(ValueError, match=f"output={place} {reason}"):
            check_writable(place, "output")
