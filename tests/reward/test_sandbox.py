import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest

from r1lab.reward.sandbox import Sandbox, SandboxError

from .conftest import LIMITS


def run(sandbox: Sandbox, source: str, seconds: float = 20) -> tuple[int | None, str]:
    """Exit status (None: it goes on) and output of a program."""
    with tempfile.TemporaryFile() as written:
        with sandbox.start(source, stdout=written) as started:
            status = started.wait(seconds)
        written.seek(0)
        return status, written.read().decode()


def processes_with(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_a_program_runs(either):
    assert run(either, "print(6 * 7)") == (0, "42\n")
    assert run(either, "import sys; sys.exit(3)")[0] == 3


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "bytearray(2 ** 40)",
        "x = [bytearray(2 ** 20) for _ in range(2 ** 20)]",
        "import os\nfor _ in range(100): os.fork()",
        "import threading, time\nfor _ in range(50): threading.Thread(target=time.sleep, args=[4]).start()",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
        "import os\nos.setuid(0)",
    ],
)
def test_limits(either, source):
    # A busy machine takes long over a second of processor time.
    status, _ = run(either, source, seconds=200)
    assert status not in (0, None)


def test_time_by_the_clock(either):
    started = time.monotonic()
    assert run(either, "import time; time.sleep(1000)", seconds=0.5)[0] is None
    assert time.monotonic() - started < 30


def test_output(either):
    status, output = run(either, "while True: print('x' * 2 ** 16)")
    assert status != 0 and len(output) <= 2**20


def test_no_process_stays(either):
    mark = "mark_of_a_program_that_stays"
    source = (
        f"'{mark}'\nimport os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(60)"
    )
    run(either, source)
    run(either, f"'{mark}'\nimport time\ntime.sleep(60)", seconds=0.2)
    deadline = time.monotonic() + 5
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_with(mark)


def test_no_file_stays(either):
    before = set(os.listdir(tempfile.gettempdir()))
    status, output = run(either, "import os; open('mine', 'w').write('x'); print(os.listdir())")
    assert (status, output) == (0, "['mine']\n")
    assert not {name for name in set(os.listdir(tempfile.gettempdir())) - before if name == "mine"}


def test_the_file_system_is_out_of_sight(sandboxed):
    listed = run(sandboxed, "import os; print(sorted(os.listdir('/')))")[1]
    assert not {"'home'", "'root'", "'work'", "'var'"} & set(listed.strip("[]\n").split(", "))
    source = "for path in {paths!r}:\n    try: open(path, {mode!r}); print(path)\n    except OSError: pass"
    read = (__file__, "/etc/passwd", "/etc/shadow", "/proc/1/environ/../../../root")
    assert run(sandboxed, source.format(paths=read, mode="r")) == (0, "")
    written = ("/usr/mine", "/mine", "/dev/shm/mine", "/proc/sys/kernel/hostname", "/tmp/mine")
    assert run(sandboxed, source.format(paths=written, mode="w")) == (0, "/tmp/mine\n")
    # /tmp is the run's own and has an end.
    assert run(sandboxed, "import os; print(os.listdir('/tmp'))") == (0, "[]\n")
    many = "for n in range(1000): open(f'/tmp/{n}', 'wb').write(bytes(2 ** 20))"
    assert run(sandboxed, many)[0] == 1


def test_the_network_is_out_of_reach(sandboxed):
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=2)"
        assert run(sandboxed, source)[0] == 1
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_other_processes_are_out_of_sight(sandboxed):
    numbers = run(sandboxed, "import os; print([n for n in os.listdir('/proc') if n.isdigit()], os.getpid())")[1]
    assert str(os.getpid()) not in numbers.split("]")[0]
    assert run(sandboxed, f"import os; os.kill({os.getpid()}, 0)")[0] == 1
    # No namespace of its own, in which it would be root.
    assert run(sandboxed, "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))") == (0, "-1\n")


def test_without_bubblewrap_it_refuses(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    message = r"bwrap\) is not installed.*apt-get install bubblewrap.*reward.code.allow_unsandboxed=true"
    with pytest.raises(SandboxError, match=message):
        Sandbox(**LIMITS, allow_unsandboxed=False)
    assert not Sandbox(**LIMITS, allow_unsandboxed=True).sandboxed


def test_where_bubblewrap_does_not_work_it_says_why(monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    monkeypatch.setattr("r1lab.reward.sandbox._ENVIRONMENT", {"PATH": str(tmp_path)})
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / name))
    with pytest.raises(SandboxError, match="cannot be sandboxed here: .*No permissions to create new namespace"):
        Sandbox(**LIMITS, allow_unsandboxed=False)
