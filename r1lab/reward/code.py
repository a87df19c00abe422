"""The code reward: compile the program in the answer and run hidden tests (DeepSeek-R1, arXiv 2501.12948, section 2.1).

The verdict is formed where the program cannot reach. A test of input and output compares, in this process, what the
program wrote; the program never sees what is expected. An assert-style test runs in another sandbox than the program,
and calls it from there: see `r1lab.reward.guest_tester`.
"""

import pickle
import re
import signal
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from r1lab.reward.format import parts_of
from r1lab.reward.sandbox import Sandbox
from r1lab.types import Completion, Prompt

_FENCE = re.compile(r"^ {0,3}```[^`\n]*$", re.MULTILINE)
_MAX_LENGTH = 100_000
# Exit statuses of a program that the limit of processor time ended, in a sandbox or without.
_KILLED = (-signal.SIGKILL, -signal.SIGXCPU, 128 + signal.SIGKILL, 128 + signal.SIGXCPU)
_CHANNEL, _PROGRAM, _TESTER = (
    Path(__file__).with_name(f"guest_{name}.py").read_text(encoding="utf-8")
    for name in ("channel", "program", "tester")
)
_PROGRAM, _TESTER = f"{_CHANNEL}\n\n{_PROGRAM}", f"{_CHANNEL}\n\n{_TESTER}"

Test = str | Mapping[str, str]


class Code:
    """The share of a prompt's hidden tests that the program in the answer passes, or 1.0 for all and else 0.0.

    Tests are the prompt's column `tests`, a list of two kinds. `{stdin: ..., stdout: ...}` is a run of the program
    whose output must be the same but for white space at the ends of lines. A Python source raises where it fails
    (`assert add(1, 2) == 3`) and calls what the program defines: `r1lab.reward.guest_channel` says which values
    cross. Sources share one run, in which the program is imported under the name `program`; where it ends, the rest
    fail. A source that uses nothing of the program fails. All runs of a completion share the `wall_seconds`, and
    after one that runs out of time the rest fail. The term does not apply to prompts without tests. The program has
    Python's standard library; it is the last fenced block of the answer.

    Args:
        partial: the share of tests, or all of them.
        workers: programs at a time.
        sandbox: the limits, see `r1lab.reward.sandbox.Sandbox`.
    """

    def __init__(self, partial: bool, workers: int, **sandbox):
        if workers < 1:
            raise ValueError(f"reward.code.workers must be at least 1, got {workers}")
        self.partial, self.workers = partial, workers
        self.sandbox = Sandbox(**sandbox)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raise ValueError for a prompt whose column `tests` holds no tests."""
        for prompt in prompts:
            if prompt.columns.get("tests"):
                check_tests(prompt.columns["tests"], prompt.text)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float | None]:
        """B prompts and their B completions -> B rewards."""
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(self._score, prompts, completions))

    def _score(self, prompt: Prompt, completion: Completion) -> float | None:
        tests = prompt.columns.get("tests")
        if not tests:
            return None
        check_tests(tests, prompt.text)
        answer = None if completion.truncated else parts_of(prompt, completion).answer
        program = program_of(answer or "")
        if not program:
            return 0.0
        passed = self.share_passed(program, tests)
        return passed if self.partial else float(passed == 1)

    def share_passed(self, program: str, tests: Sequence[Test]) -> float:
        """The share of tests that a program passes; without `partial` some number below 1 where one fails."""
        deadline = time.monotonic() + self.sandbox.wall_seconds
        sources = [test for test in tests if isinstance(test, str)]
        passed = self._passed_sources(program, sources) if sources else 0
        if passed < len(sources) and not self.partial:
            return 0.0
        for test in tests:
            if isinstance(test, str):
                continue
            try:
                right = same_output(self._output(program, test["stdin"], deadline), test["stdout"])
            except TimeoutError:
                break
            if not right and not self.partial:
                return 0.0
            passed += right
        return passed / len(tests)

    def _output(self, program: str, stdin: str, deadline: float) -> str | None:
        """What the program writes, None where it fails. Raises TimeoutError where it takes too long."""
        with _file(program) as source, _file(stdin) as given, tempfile.TemporaryFile() as written:
            arguments = ("script", str(source.fileno()))
            options = {"stdin": given, "stdout": written, "pass_fds": [source.fileno()]}
            with self.sandbox.start(_PROGRAM, arguments, **options) as run:
                status = run.wait(max(0.0, deadline - time.monotonic()))
            if status is None or status in _KILLED:
                raise TimeoutError
            written.seek(0)
            return written.read().decode(errors="replace") if status == 0 else None

    def _passed_sources(self, program: str, tests: list[str]) -> int:
        """How many assert-style tests pass."""
        with ExitStack() as stack:
            source, hidden = (stack.enter_context(_file(content)) for content in (program, pickle.dumps(tests)))
            verdicts = stack.enter_context(tempfile.TemporaryFile())
            here, there = (stack.enter_context(end) for end in socket.socketpair())
            fds = [source.fileno(), there.fileno()]
            run = self.sandbox.start(_PROGRAM, ["serve", *map(str, fds)], pass_fds=fds)
            stack.enter_context(run)
            fds = [hidden.fileno(), verdicts.fileno(), here.fileno()]
            tester = stack.enter_context(self.sandbox.start(_TESTER, list(map(str, fds)), pass_fds=fds))
            # Each end is now the other side's alone, so that one sees the other go.
            here.close()
            there.close()
            tester.wait(self.sandbox.wall_seconds)
            verdicts.seek(0)
            return verdicts.read().count(b"1")


def check_tests(tests: Any, question: str) -> None:
    """Raises ValueError for what are no tests: nothing would pass them, or anything would."""
    where = f"the column tests of the prompt {question[-100:]!r}"
    if not isinstance(tests, (list, tuple)):
        raise ValueError(f"{where} must be a list of Python sources or of {{stdin, stdout}}, got {tests!r:.100}")
    for test in tests:
        if isinstance(test, str):
            try:
                compile(test, "<test>", "exec")
            except (SyntaxError, ValueError) as error:
                raise ValueError(f"{where} has one that is no Python ({error}): {test!r:.100}") from error
        elif not isinstance(test, Mapping) or any(not isinstance(test.get(key), str) for key in ("stdin", "stdout")):
            raise ValueError(
                f"{where} has one that is no Python source and no {{stdin, stdout}} of texts: {test!r:.100}"
            )


def program_of(answer: str) -> str | None:
    """The content of the last fenced block of an answer, None where there is none or it is too long."""
    fences = list(_FENCE.finditer(answer))
    # Fences open and close in turn; one that is left open at the end has no program yet.
    pairs = list(zip(fences[::2], fences[1::2], strict=False))
    if not pairs:
        return None
    start, end = pairs[-1]
    program = answer[start.end() + 1 : end.start()]
    return program if program.strip() and len(program) <= _MAX_LENGTH else None


def same_output(written: str | None, expected: str) -> bool:
    """Whether two outputs have the same lines, but for white space at the end of each and empty ones at the end."""
    return written is not None and _lines(written) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _file(content: str | bytes) -> IO[bytes]:
    """A nameless file with that content, to be read from its start by whoever is given it."""
    file = tempfile.TemporaryFile()
    # The policy may write lone surrogates, which no encoding has.
    file.write(content.encode(errors="replace") if isinstance(content, str) else content)
    file.seek(0)
    return file
