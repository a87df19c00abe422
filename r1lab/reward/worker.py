"""The other side of `r1lab.reward.pool`: a keeper process, and the child of it that does the work.

The keeper loads the function once and forks a child with it, so that a child which was killed is replaced in
milliseconds. It passes on bytes that it does not look into, and so cannot be hung by them.
"""

import os
import pickle
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

# A busy machine may take this many times as long as the processor time that a call may use.
_PATIENCE = 10


@dataclass(frozen=True)
class Limits:
    """Of one call. seconds: of processor time. memory_mib: beyond what the process has when it starts."""

    seconds: float
    memory_mib: int


def keep(fd: int) -> None:
    """Serve the pool at the other end of `fd` until it closes it: the first message is the function, then calls."""
    pool = Connection(fd)
    child: _Child | None = None
    try:
        function, limits = pickle.loads(pool.recv_bytes())
        pool.send(None)
    except Exception as error:
        pool.send(f"{type(error).__name__}: {error}")
        return
    try:
        while True:
            call = pool.recv_bytes()
            child = child or _Child(function, limits)
            reply = child.ask(call)
            if reply is None:
                child.kill()
                child = None
            pool.send_bytes(reply if reply is not None else pickle.dumps(("killed", None)))
    except (EOFError, OSError):
        pass  # the pool is gone
    finally:
        if child is not None:
            child.kill()


class _Child:
    def __init__(self, function: Callable, limits: Limits):
        self.patience = limits.seconds * _PATIENCE
        self.connection, theirs = Pipe()
        self.pid = os.fork()
        if not self.pid:
            self.connection.close()
            try:
                _work(theirs, function, limits)
            finally:
                os._exit(1)
        theirs.close()

    def ask(self, call: bytes) -> bytes | None:
        """The reply; None where the child died or takes too long."""
        try:
            self.connection.send_bytes(call)
            return self.connection.recv_bytes() if self.connection.poll(self.patience) else None
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.connection.close()


def _work(keeper: Connection, function: Callable, limits: Limits) -> None:
    _limit(resource.RLIMIT_AS, _address_space() + limits.memory_mib * 2**20)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    # Its default is death, which comes inside calls of C too, where Python would not see a signal.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while True:
        arguments = pickle.loads(keeper.recv_bytes())
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        reply = _reply(function, arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        keeper.send_bytes(reply)


def _reply(function: Callable, arguments: tuple) -> bytes:
    try:
        return pickle.dumps(("value", function(*arguments)))
    except (MemoryError, RecursionError):
        return pickle.dumps(("killed", None))
    except Exception as error:
        return pickle.dumps(("error", f"{type(error).__name__}: {error}"[:500]))


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
