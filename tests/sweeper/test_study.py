import os
import threading
import time

import optuna
import pytest

from r1lab.sweeper.study import RECORD, StudyError, has_study, open_storage, open_study

RECORDED = {
    "params": {"x": 1}, "blocks": [], "objectives": ["a"], "seeds": [1], "steps": 4,
    "config": {"loss.beta": 0.1, "old": 1},
    "question": "?", "command": "python -m r1lab.train", "commit": "1111",
}  # fmt: skip


def opened(path, directions=("maximize",), **record):
    storage = open_storage(str(path))
    return open_study(storage, name="study", directions=list(directions), record=RECORDED | record)


@pytest.mark.parametrize("storage", ["new/folder/journal.log", "sqlite:///study.db"])
def test_a_study_is_made_once_and_found_again(tmp_path, monkeypatch, storage):
    monkeypatch.chdir(tmp_path)
    assert not has_study(open_storage(storage), "study")
    first = open_study(open_storage(storage), name="study", directions=["minimize"], record=RECORDED)
    first.tell(first.ask(), 0.5)
    assert has_study(open_storage(storage), "study") and not has_study(open_storage(storage), "other")
    again = open_study(open_storage(storage), name="study", directions=["minimize"], record=RECORDED)
    assert again.best_value == 0.5
    assert again.user_attrs[RECORD] == RECORDED


@pytest.mark.parametrize("torn", ['{"op_code":4,"worker', '{"op_code":4,"worker_id":"a","study_id":0}', ""])
def test_half_a_last_line_is_dropped(tmp_path, torn):
    path = tmp_path / "journal.log"
    study = opened(path)
    study.tell(study.ask(), 0.5)
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    again = opened(path)
    assert path.read_bytes() == whole
    again.tell(again.ask(), 0.75)
    assert [t.value for t in opened(path).trials] == [0.5, 0.75]


def test_a_file_of_half_a_line_alone(tmp_path):
    path = tmp_path / "journal.log"
    path.write_text('{"op_code":0,"wor')
    assert opened(path).trials == []


def test_nobody_writes_while_a_torn_line_is_dropped(tmp_path):
    path = tmp_path / "journal.log"
    opened(path)
    lock = open_storage(str(path))._backend._lock
    lock.acquire()
    try:
        waiting = threading.Thread(target=open_storage, args=(str(path),), daemon=True)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    finally:
        lock.release()
    waiting.join(5)
    assert not waiting.is_alive()


def test_the_lock_of_a_process_that_was_killed_is_broken(tmp_path, monkeypatch):
    """Also where the journal's path is relative, as it is by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("r1lab.sweeper.study._LOCK_SECONDS", 3)
    opened("journal.log")
    if not os.fork():  # takes the lock, and is no more
        open_storage("journal.log")._backend._lock.acquire()
        os._exit(0)
    os.wait()
    assert list(tmp_path.glob("*.lock"))
    began = time.monotonic()
    monkeypatch.setattr(optuna.storages.journal._file._logger, "warning", lambda text: None)
    study = opened("journal.log")
    assert 0.5 < time.monotonic() - began < 10
    study.tell(study.ask(), 1.0)
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize(
    "record, told",
    [
        ({"params": {"x": 2}}, r"\(x was 1 and is now 2\); give this one another name"),
        ({"seeds": [2, 1]}, r"seeds was \[1\] and is now \[2, 1\]"),
        ({"seeds": []}, r"seeds was \[1\] and is now \[\]"),
        ({"steps": 5}, "steps was 4 and is now 5"),
        ({"objectives": ["b"]}, "objectives was"),
        (
            {"config": {"loss.beta": 0.2}, "shared": ["loss.beta=0.2"]},
            "another sweep \\(loss.beta was 0.1 and is now 0.2\\)",
        ),
    ],
)
def test_a_study_of_another_sweep_is_refused(tmp_path, record, told):
    path = tmp_path / "journal.log"
    study = opened(path)
    study.tell(study.ask(), 0.5)
    before = path.read_bytes()
    with pytest.raises(StudyError, match=told):
        opened(path, **record)
    assert path.read_bytes() == before


def test_settings_that_came_or_went_since_do_not_matter(tmp_path):
    """Nor are they written: a committed study stays as it is."""
    path = tmp_path / "journal.log"
    opened(path)
    before = path.read_bytes()
    opened(path, config={"loss.beta": 0.1, "new": None}, pruner_options={})
    assert path.read_bytes() == before


def test_settings_that_change_nothing_do_not_matter(tmp_path):
    """The file's own value said again, another kernel or logger: the resolved settings are what they were."""
    path = tmp_path / "journal.log"
    study = opened(path, shared=[])
    study.tell(study.ask(), 0.5)
    before = path.read_bytes()
    opened(path, shared=["loss.beta=0.1", "kernel=torch", "logger=tensorboard"])
    assert path.read_bytes() == before


def test_a_study_in_which_nothing_was_tried_is_made_anew(tmp_path):
    """A pre-flight that refused its points leaves nothing in the way of the settings that can run."""
    opened(tmp_path / "journal.log")
    study = opened(tmp_path / "journal.log", directions=["minimize"], params={"x": 2})
    assert study.user_attrs[RECORD]["params"] == {"x": 2} and study.direction.name == "MINIMIZE"


def test_a_damaged_journal_is_named(tmp_path):
    path = tmp_path / "journal.log"
    opened(path)
    path.write_bytes(b'{"op_code"\n' + path.read_bytes())
    with pytest.raises(StudyError, match="storage=.*journal.log cannot be read: .*; git may have it whole"):
        open_storage(str(path))
    with pytest.raises(StudyError, match="hydra.sweeper.storage=foo://bar cannot be read: "):
        open_storage("foo://bar")


def test_another_direction_is_refused(tmp_path):
    study = opened(tmp_path / "journal.log")
    study.tell(study.ask(), 0.5)
    with pytest.raises(StudyError, match="'study' was begun with direction maximize, not minimize; give this sweep an"):
        opened(tmp_path / "journal.log", directions=["minimize"])
    with pytest.raises(StudyError, match="direction maximize, not maximize, minimize"):
        opened(tmp_path / "journal.log", directions=["maximize", "minimize"])


def test_who_began_it_stays_and_what_it_asks_may_change(tmp_path):
    path = tmp_path / "journal.log"
    opened(path)
    study = opened(path, command="python -m r1lab.train workers=1", commit="2222", question="Why?")
    assert study.user_attrs[RECORD] == RECORDED | {"question": "Why?"}


def test_opening_again_writes_nothing(tmp_path):
    path = tmp_path / "journal.log"
    opened(path)
    before = path.read_bytes()
    opened(path, commit="2222")
    assert path.read_bytes() == before
