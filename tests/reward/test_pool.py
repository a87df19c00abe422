import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1lab.reward.pool import Pool, Pooled
from r1lab.types import Prompt


def act(what: str):
    """What a checker might do with text that is out for harm."""
    if what == "spin":
        while True:
            pass
    if what == "spin in C":
        return 9**9**9
    if what == "sleep":
        time.sleep(1000)
    if what == "exit":
        os._exit(0)
    if what == "recurse":
        return act(what)
    if what == "memory":
        return len(bytearray(2**40))
    if what == "little by little":
        return [bytearray(2**20) for _ in range(2**20)]
    if what == "write":
        Path("left_behind").write_text("x" * 100)
    if what == "raise":
        raise KeyError(what)
    return what.upper()


def long_answers_are_right(prompt, answer):
    return len(answer) > 3


@pytest.fixture(scope="module")
def pool():
    pool = Pool(act, workers=2, seconds=0.1, memory_mib=64)
    yield pool
    pool.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_results_in_order(pool):
    words = [f"word {n}" for n in range(50)]
    assert pool.map([(word,) for word in words]) == [word.upper() for word in words]
    assert pool.map([]) == []


def test_what_is_stuck_costs_itself_alone(pool):
    pool.killed = 0
    hostile = ["spin", "spin in C", "sleep", "exit", "recurse", "memory", "little by little"]
    words = [word for pair in zip(hostile, "abcdefg", strict=True) for word in pair]
    assert pool.map([(word,) for word in words]) == [None if word in hostile else word.upper() for word in words]
    assert pool.killed == len(hostile)


def test_an_error_is_told_and_the_pool_goes_on(pool):
    with pytest.raises(RuntimeError, match="KeyError: 'raise'"):
        pool.map([("raise",), ("a",)])
    with pytest.raises(RuntimeError, match="OSError"):
        pool.map([("write",)])
    assert Path("left_behind").read_text() == ""  # a file may be made, and nothing be written into it
    Path("left_behind").unlink()
    assert pool.map([("a",)]) == ["A"]


def test_a_keeper_that_dies_is_replaced(pool):
    assert pool.map([("a",), ("b",)]) == ["A", "B"]
    for keeper in pool._keepers:
        os.kill(keeper.process.pid, signal.SIGKILL)
        keeper.process.wait()
    # The first calls fall to those that are gone.
    assert pool.map([("a",)] * 4)[2:] == ["A", "A"]


def test_closing_leaves_no_process():
    pool = Pool(act, workers=2, seconds=1, memory_mib=64)
    assert not pool._keepers  # lazily
    pool.map([("a",), ("b",)])
    pids = [keeper.process.pid for keeper in pool._keepers]
    assert len(pids) == 2
    pool.close()
    assert not any(alive(pid) for pid in pids)
    assert pool.map([("a",)]) == ["A"]
    pids = [keeper.process.pid for keeper in pool._keepers]
    del pool
    assert not any(alive(pid) for pid in pids)


SOURCE = """
import os, sys
from r1lab.reward.pool import Pool
pool = Pool(len, workers=1, seconds=1, memory_mib=64)
assert pool.map([("abc",)]) == [3]
print(pool._keepers[0].process.pid, flush=True)
os.kill(os.getpid(), 9) if sys.argv[1] == "killed" else None
"""


@pytest.mark.parametrize("end", ["killed", "exit"])
def test_workers_end_with_the_process(end):
    run = subprocess.run([sys.executable, "-c", SOURCE, end], capture_output=True, text=True)
    deadline = time.monotonic() + 5
    while alive(int(run.stdout)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(int(run.stdout))


def test_a_function_that_the_worker_cannot_load(monkeypatch):
    monkeypatch.setitem(sys.modules, "only_here", sys.modules[__name__])
    monkeypatch.setattr(act, "__module__", "only_here")
    pool = Pool(act, workers=1, seconds=1, memory_mib=64)
    with pytest.raises(
        RuntimeError, match="cannot load its function: ModuleNotFoundError: No module named 'only_here'"
    ):
        pool.map([("a",)])


@pytest.mark.parametrize("limit", ["workers", "seconds", "memory_mib"])
def test_limits_are_above_zero(limit):
    with pytest.raises(ValueError, match=f"{limit} of a pool must be above 0, got 0"):
        Pool(act, **{"workers": 1, "seconds": 1, "memory_mib": 1, limit: 0})


def test_a_checker_in_a_pool():
    checker = Pooled(long_answers_are_right, workers=1, seconds=1, memory_mib=64)
    prompt = Prompt((1,), "q", "7")
    assert checker(prompt, "long") == 1.0
    assert checker.batch([prompt] * 2, ["a", "long"]) == [0.0, 1.0]
    checker.pool.close()
