import os
import signal
import time

import optuna
import pytest
from optuna.trial import TrialState

import r1lab.sweeper.work as work
from r1lab.sweeper.study import open_storage
from r1lab.sweeper.work import ABANDONED, BEAT, SLOT, WORKER, Queue, is_live, slot_of

SLOTS = {str(n): {"x": n / 10} for n in range(1, 5)}


def queue_in(folder, storage="journal.log"):
    storage = open_storage(storage if "://" in storage else str(folder / storage))
    study = optuna.create_study(storage=storage, study_name="study", load_if_exists=True)
    return Queue(study, storage)


def another_process(act):
    """Start `act` in a process that is gone afterwards; its number. Not from a thread: the child would give up what
    the others hold, and torch's process groups hang in that."""
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        except BaseException as error:
            print(repr(error))
            os._exit(1)
    return child


def in_another_process(act):
    """Run `act` in a process that is gone afterwards; its exit code."""
    return exit_code(another_process(act))


def exit_code(process, seconds=60):
    """Of a process of `another_process`, which is killed where it takes longer."""
    end = time.monotonic() + seconds
    while (done := os.waitpid(process, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(done[1])


def claimed(queue, name="x"):
    """The value of the next point, None where there is none."""
    trial = queue.claim()
    return trial and trial.suggest_float(name, 0, 1)


def test_slots_are_queued_once_and_claimed_once(tmp_path):
    queue = queue_in(tmp_path)
    queue.fill(SLOTS)
    queue.fill(SLOTS)
    assert [claimed(queue) for _ in range(5)] == [0.1, 0.2, 0.3, 0.4, None]
    assert [t.user_attrs[SLOT] for t in queue.trials()] == list(SLOTS)


def test_more_slots_later(tmp_path):
    queue = queue_in(tmp_path)
    queue.fill(SLOTS)
    queue.fill(SLOTS | {"5": {}})
    assert [t.user_attrs[SLOT] for t in queue.trials()] == ["1", "2", "3", "4", "5"]


def test_a_slot_is_told_by_its_parameters_in_any_order():
    assert slot_of({"a": 1, "b": None}) == slot_of({"b": None, "a": 1}) != slot_of({"a": 1, "b": "None"})


@pytest.mark.parametrize("storage", ["journal.log", "sqlite:///{}/study.db"])
def test_two_that_begin_at_the_same_moment(tmp_path, storage):
    """Both found nothing queued and queued it all; each point runs once."""
    first, second = (queue_in(tmp_path, storage.format(tmp_path)) for _ in range(2))
    for queue in (first, second):
        for slot, point in SLOTS.items():
            queue._queue(slot, point)
    got = [claimed(queue) for _ in range(5) for queue in (second, first)]
    assert sorted(x for x in got if x) == [0.1, 0.2, 0.3, 0.4]
    doubles = [t for t in first.trials() if t.state == TrialState.FAIL]
    assert len(doubles) == 4 and not any(is_live(t) for t in doubles)
    first.fill(SLOTS)
    assert first.claim() is None


def test_the_running_trial_of_a_dead_process_is_run_again_with_its_parameters(tmp_path):
    queue = queue_in(tmp_path)
    queue.fill({"1": {}})

    def die():
        queue_in(tmp_path).claim().suggest_float("x", 0, 1)

    assert in_another_process(die) == 0
    (dead,) = queue.trials()
    assert dead.state == TrialState.RUNNING
    assert queue.recover() == 1 and queue.recover() == 0
    assert claimed(queue) == dead.params["x"]
    assert [(t.state.name, t.user_attrs.get(ABANDONED), t.user_attrs[SLOT]) for t in queue.trials()] == [
        ("FAIL", True, "1"),
        ("RUNNING", None, "1"),
    ]


def test_the_living_keep_theirs(tmp_path):
    queue, other = queue_in(tmp_path), queue_in(tmp_path)
    queue.fill(SLOTS)
    queue.claim()
    assert other.recover() == 0 and queue.recover() == 0


def test_a_process_that_was_killed_as_it_claimed(tmp_path, monkeypatch):
    """Before it wrote whose the trial is."""
    queue = queue_in(tmp_path)
    queue.fill({"1": {"x": 0.1}})
    (waiting,) = queue.trials()
    queue.storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
    assert queue.recover() == 0 and queue.has_nameless()  # it may be writing it
    monkeypatch.setattr(work, "_CLAIM_SECONDS", 0)
    assert queue.recover() == 1 and not queue.has_nameless()
    assert claimed(queue) == 0.1 and not queue.has_nameless()


@pytest.mark.parametrize("ago, recovered", [(0, 0), (60, 0), (3600, 1), (None, 1)])
def test_a_process_of_another_machine_is_known_by_its_signs_of_life(tmp_path, ago, recovered):
    queue = queue_in(tmp_path, f"sqlite:///{tmp_path}/study.db")
    queue.fill({"1": {"x": 0.1}})
    trial = queue.claim()
    trial.set_user_attr(WORKER, {"host": "elsewhere", "pid": os.getpid(), "started": "1"})
    if ago is not None:
        queue.study.set_user_attr(f"{BEAT}elsewhere/{os.getpid()}", time.time() - ago)
    assert queue.recover() == recovered


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_LOOK_SECONDS", 0.01)
    queue = queue_in(tmp_path, f"sqlite:///{tmp_path}/study.db")
    ended = queue.show_life()
    until = time.monotonic() + 10
    while not (beats := [k for k in queue.study.user_attrs if k.startswith(BEAT)]) and time.monotonic() < until:
        time.sleep(0.02)
    ended.set()
    assert beats == [f"{BEAT}{queue.worker['host']}/{os.getpid()}"]
    assert time.time() - queue.study.user_attrs[beats[0]] < 10


def test_a_journal_does_not_grow_by_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(work, "BEAT_SECONDS", 0.02)
    queue = queue_in(tmp_path)
    before = (tmp_path / "journal.log").read_bytes()
    ended = queue.show_life()
    time.sleep(0.2)
    ended.set()
    assert (tmp_path / "journal.log").read_bytes() == before


def test_released_points_wait_again_and_finished_ones_do_not(tmp_path):
    queue = queue_in(tmp_path)
    queue.fill({"1": {"x": 0.1}, "2": {"x": 0.2}})
    first, second = queue.claim(), queue.claim()
    assert (first.suggest_float("x", 0, 1), second.suggest_float("x", 0, 1)) == (0.1, 0.2)
    queue.study.tell(second, 1.0)
    queue_in(tmp_path).release(queue.trials())
    assert [claimed(queue), claimed(queue)] == [0.1, None]


def test_a_process_that_ends_gives_back_its_own(tmp_path):
    queue, other = queue_in(tmp_path), queue_in(tmp_path)
    other.worker = other.worker | {"pid": 1}
    queue.fill({"1": {"x": 0.1}, "2": {"x": 0.2}})
    assert (claimed(queue), claimed(other)) == (0.1, 0.2)
    queue.release_own()
    assert [claimed(queue), claimed(queue)] == [0.1, None]


def test_two_processes_on_one_journal(tmp_path):
    """Both start at once, each claims until nothing is left; every point is done once."""
    slots = {str(n): {"x": n / 100} for n in range(1, 31)}
    started = tmp_path / "go"

    def part():
        queue = queue_in(tmp_path)
        while not started.exists():
            time.sleep(0.001)
        queue.fill(slots)
        while (trial := queue.claim()) is not None:
            x = trial.suggest_float("x", 0, 1)
            (tmp_path / f"{os.getpid()}.part").touch()
            while len(list(tmp_path.glob("*.part"))) < 2:  # both have one
                time.sleep(0.001)
            queue.study.tell(trial, x)

    processes = [another_process(part) for _ in range(2)]
    time.sleep(0.2)
    started.touch()
    assert [exit_code(process) for process in processes] == [0, 0]
    live = [t for t in queue_in(tmp_path).trials() if is_live(t)]
    assert {t.state for t in live} == {TrialState.COMPLETE}
    assert sorted(t.value for t in live) == [point["x"] for point in slots.values()]
    pids = {t.user_attrs[WORKER]["pid"] for t in live}
    assert len(pids) == 2 and os.getpid() not in pids


def test_killed_at_any_moment(tmp_path, monkeypatch):
    """Processes that claim and finish points are killed again and again; in the end each point is done once."""
    monkeypatch.setattr("r1lab.sweeper.study._LOCK_SECONDS", 3)  # one may hold the journal's lock as it dies
    monkeypatch.setattr(work, "_CLAIM_SECONDS", 0)  # or before it wrote its name; here none lives beside it
    slots = {str(n): {"x": n / 100} for n in range(1, 21)}

    def part():
        queue = queue_in(tmp_path)
        queue.recover()
        queue.fill(slots)
        while (trial := queue.claim()) is not None:
            x = trial.suggest_float("x", 0, 1)
            time.sleep(0.02)
            queue.study.tell(trial, x)

    for n in range(8):
        child = os.fork()
        if not child:
            part()
            os._exit(0)
        time.sleep(0.03 + 0.02 * n)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    part()
    live = [t for t in queue_in(tmp_path).trials() if is_live(t)]
    assert {t.state for t in live} == {TrialState.COMPLETE}
    assert sorted(t.value for t in live) == [point["x"] for point in slots.values()]
