"""Python that nobody has read, run by bubblewrap: no network, nothing of the file system but a read-only interpreter,
a private /tmp, its own process numbers, and limits of memory, processor time, processes and output.

A process of root's becomes one of nobody's first, since the kernel does not count root's processes.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_NOBODY = 65534
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_LIMIT = "import resource\nfor which, value in {limits!r}:\n    resource.setrlimit(which, (value, value))\n"
# Bubblewrap 0.8 brought --disable-userns, 0.7 --size.
_NEEDED = "bubblewrap 0.8 or newer (apt-get install bubblewrap), on a system that allows unprivileged user namespaces"


class SandboxError(RuntimeError):
    """Programs cannot be run safely here."""


class Sandbox:
    """Starts interpreters, each in a sandbox of its own.

    Args:
        cpu_seconds, wall_seconds: of processor time and by the clock, of one run.
        memory_mib: address space of each process, and the size of /tmp.
        output_mib: the largest file that can be written, standard output included.
        processes: how many there may be, threads included; without bubblewrap one.
        allow_unsandboxed: where bubblewrap does not work, run with the limits alone: programs then see the file
            system, the network, and what the processes of their user do, the tests among it.

    Raises:
        SandboxError: bubblewrap does not work, and `allow_unsandboxed` is false.
    """

    def __init__(
        self,
        *,
        cpu_seconds: int,
        wall_seconds: float,
        memory_mib: int,
        output_mib: int,
        processes: int,
        allow_unsandboxed: bool,
    ):
        self.wall_seconds, self.memory_mib = wall_seconds, memory_mib
        self._as_nobody = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self._limits = [
            (resource.RLIMIT_CPU, cpu_seconds),
            (resource.RLIMIT_AS, memory_mib * 2**20),
            (resource.RLIMIT_FSIZE, output_mib * 2**20),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, 64),
        ]
        self.sandboxed, reason = True, ""
        self._processes = processes
        for self.python in _interpreters():
            reason = self._failure()
            if not reason:
                return
        if not allow_unsandboxed:
            raise SandboxError(
                f"programs cannot be sandboxed here: {reason}. The code reward needs {_NEEDED}; "
                "reward.code.allow_unsandboxed=true runs them with limits alone, which lets them read your files and "
                "use the network"
            )
        self.sandboxed, self._processes = False, 0  # more than there are: none can be added
        for self.python in _interpreters():
            if not (reason := self._failure()):
                return
        raise SandboxError(f"programs cannot be run here, not even without a sandbox: {reason}")

    def start(
        self,
        source: str,
        arguments: Sequence[str] = (),
        *,
        stdin: int | IO = subprocess.DEVNULL,
        stdout: int | IO = subprocess.DEVNULL,
        stderr: int | IO = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> "Run":
        """An interpreter that runs `source`, which is trusted, after it has put itself under the limits."""
        limits = [*self._limits, (resource.RLIMIT_NPROC, self._processes)]
        command = [self.python, "-I", "-S", "-c", _LIMIT.format(limits=limits) + source, *arguments]
        return Run(
            self._wrapper() + command if self.sandboxed else command,
            folder=None if self.sandboxed else self._folder(),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            env=_ENVIRONMENT,
            start_new_session=True,
            **self._as_nobody,
        )

    def _wrapper(self) -> list[str]:
        installed = Path(self.python).resolve().parents[1]
        own = [] if installed.is_relative_to("/usr") else ["--ro-bind", str(installed), str(installed)]
        system = [word for path in ("/lib", "/lib64", "/etc/ld.so.cache") for word in ("--ro-bind-try", path, path)]
        return [
            "bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session",
            "--cap-drop", "ALL", "--hostname", "sandbox", "--ro-bind", "/usr", "/usr", *system, *own, "--proc", "/proc",
            "--dev", "/dev", "--size", str(self.memory_mib * 2**20), "--tmpfs", "/tmp", "--remount-ro", "/dev",
            "--remount-ro", "/", "--chdir", "/tmp", "--",
        ]  # fmt: skip

    def _folder(self) -> tempfile.TemporaryDirectory:
        folder = tempfile.TemporaryDirectory()
        if self._as_nobody:
            os.chown(folder.name, _NOBODY, _NOBODY)
        return folder

    def _failure(self) -> str:
        """Why a program that does nothing fails; empty where it does not."""
        if self.sandboxed and shutil.which("bwrap") is None:
            return "bubblewrap (the command bwrap) is not installed"
        with tempfile.TemporaryFile() as errors:
            try:
                with self.start("", stderr=errors) as run:
                    status = run.wait(10 + self.wall_seconds)
            except OSError as error:
                return f"{self.python} cannot be started: {error}"
            errors.seek(0)
            said = errors.read(2000).decode(errors="replace").strip().splitlines()
        if status == 0:
            return ""
        return said[-1] if said else f"a program that does nothing ended with {status}"


class Run:
    """A started program. Leaving its context kills what is left of it, and its folder."""

    def __init__(self, command: Sequence[str], folder: tempfile.TemporaryDirectory | None, **options):
        self.folder = folder
        try:
            self.process = subprocess.Popen(command, cwd=folder.name if folder else "/", **options)
        except BaseException:
            self._clean()
            raise

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._clean()

    def wait(self, seconds: float) -> int | None:
        """The exit status; None where it goes on for longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _clean(self) -> None:
        if self.folder is not None:
            self.folder.cleanup()


def _interpreters() -> list[str]:
    """This one without its virtual environment; the system's, for a user who may not read this one."""
    own = str(Path(getattr(sys, "_base_executable", None) or sys.executable).resolve())
    return [own, *(path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path))]
