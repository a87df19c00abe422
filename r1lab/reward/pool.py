"""Checkers in processes of their own, which are killed where they get stuck: a hostile completion costs its own
time-out and nothing else.

Each worker is a fresh interpreter behind a pipe of its own: nothing is forked from a process that uses CUDA, and
killing one cannot harm a queue that others share. Time is that of the processor, so that how busy the machine is
changes no reward.
"""

import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from r1lab.reward.worker import Limits
from r1lab.types import Prompt

_START = "import sys; sys.path[:] = {path!r}; from r1lab.reward.worker import keep; keep({fd})"


class Pool:
    """A function on many items at once, in order, each within limits.

    Args:
        function: to be called with each item's arguments; it and they are pickled.
        workers: processes, started when they are first needed; they end with this object or this process.
        seconds: of processor time a call may take; ten times as many by the clock.
        memory_mib: a call may take beyond what the function needs when it is loaded.

    `killed` counts the calls that were given up.
    """

    def __init__(self, function: Callable[..., Any], *, workers: int, seconds: float, memory_mib: int):
        for name, value in (("workers", workers), ("seconds", seconds), ("memory_mib", memory_mib)):
            if value <= 0:
                raise ValueError(f"{name} of a pool must be above 0, got {value}")
        self.first = pickle.dumps((function, Limits(seconds, memory_mib)))
        self.workers = workers
        self.killed = 0
        self._keepers: list[_Keeper] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._keepers)

    def map(self, items: Sequence[tuple]) -> list[Any | None]:
        """function(*item) of each item, None where it ran out of time or memory, or its process died.

        Raises RuntimeError where the function cannot be loaded in the worker or raises something else.
        """
        with self._lock:
            replies = self._replies([pickle.dumps(item) for item in items])
        self.killed += sum(kind == "killed" for kind, _ in replies)
        for kind, value in replies:
            if kind == "error":
                raise RuntimeError(value)
        return [value for _, value in replies]

    def close(self) -> None:
        """End the workers; they start again when they are needed."""
        _close_all(self._keepers)

    def _replies(self, calls: list[bytes]) -> list[tuple[str, Any]]:
        replies: list[tuple[str, Any]] = [("killed", None)] * len(calls)
        todo = deque(range(len(calls)))
        busy: dict[Connection, tuple[_Keeper, int]] = {}
        while len(self._keepers) < min(self.workers, len(calls)):
            self._keepers.append(_Keeper(self.first))
        idle = list(self._keepers)
        try:
            while todo or busy:
                while todo and idle:
                    keeper, number = idle.pop(), todo.popleft()
                    keeper.send(calls[number])
                    busy[keeper.connection] = (keeper, number)
                for connection in wait(list(busy)):
                    keeper, number = busy.pop(connection)
                    try:
                        replies[number] = pickle.loads(connection.recv_bytes())
                    except (EOFError, OSError):
                        keeper = self._replace(keeper)
                    idle.append(keeper)
        except BaseException:
            self.close()  # replies that nobody waits for must not be taken for those of the next call
            raise
        return replies

    def _replace(self, keeper: "_Keeper") -> "_Keeper":
        keeper.close()
        self._keepers[self._keepers.index(keeper)] = new = _Keeper(self.first)
        return new


class Pooled:
    """A checker whose every call is made in a pool; wrong is what takes too much of time or memory.

    Args:
        is_correct: (prompt, answer) -> score; it is pickled, with what it holds.
        workers, seconds, memory_mib: see `Pool`.
    """

    def __init__(self, is_correct: Callable[[Prompt, str], float], workers: int, seconds: float, memory_mib: int):
        self.pool = Pool(is_correct, workers=workers, seconds=seconds, memory_mib=memory_mib)

    def __call__(self, prompt: Prompt, answer: str) -> float:
        return self.batch([prompt], [answer])[0]

    def batch(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """N prompts and their N answers -> N scores."""
        scores = self.pool.map(list(zip(prompts, answers, strict=True)))
        return [0.0 if score is None else float(score) for score in scores]


class _Keeper:
    """The process of `r1lab.reward.worker.keep` and the pipe to it."""

    def __init__(self, first: bytes):
        self.connection, theirs = Pipe()
        with theirs:
            source = _START.format(path=[os.path.abspath(entry) for entry in sys.path], fd=theirs.fileno())
            # A session of its own: Ctrl-C is for this process, which then ends it.
            self.process = subprocess.Popen(
                [sys.executable, "-c", source],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.connection.send_bytes(first)
        self.loaded = False

    def send(self, call: bytes) -> None:
        if not self.loaded:
            try:
                error = self.connection.recv()
            except EOFError:
                error = f"the process ended with {self.process.wait()}"
            if error is not None:
                raise RuntimeError(f"a worker of the reward pool cannot load its function: {error}")
            self.loaded = True
        try:
            self.connection.send_bytes(call)
        except OSError:
            pass  # it is gone, which shows when its reply is waited for

    def close(self) -> None:
        self.connection.close()
        try:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass
        self.process.wait()


def _close_all(keepers: list[_Keeper]) -> None:
    while keepers:
        keepers.pop().close()
