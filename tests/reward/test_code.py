import shutil

import pytest

from r1lab.reward.code import Code, check_tests, program_of, same_output
from r1lab.types import Completion, Prompt

from .conftest import LIMITS

DOUBLE = [{"stdin": "3\n", "stdout": "6\n"}, {"stdin": "-5", "stdout": "-10"}]
ADD = ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'", "assert add([1], [2]) == [1, 2]"]


def answer(program: str) -> str:
    return f"<think> easy </think> <answer> Here:\n```python\n{program}\n```\n</answer>"


def completion(program: str) -> Completion:
    return Completion((1,), answer(program), False)


def prompt(tests: list | None) -> Prompt:
    return Prompt((1,), "q", "", columns={} if tests is None else {"tests": tests})


@pytest.fixture(scope="module", params=["sandboxed", "unsandboxed"])
def share(request):
    """share(program, tests): what a program passes."""
    sandbox = request.getfixturevalue(request.param)
    code = Code.__new__(Code)  # with the sandbox that is there
    code.partial, code.workers, code.sandbox = True, 1, sandbox
    return code.share_passed


@pytest.mark.parametrize(
    ("program", "tests", "passed"),
    [
        ("print(2 * int(input()))", DOUBLE, 1.0),
        ("print(6)", DOUBLE, 0.5),
        ("print(2 * int(input())); raise SystemExit(1)", DOUBLE, 0.0),
        ("if __name__ == '__main__':\n    import math\n    print(2 * int(input()))", DOUBLE, 1.0),
        ("def add(a, b):\n    return a + b", ADD, 1.0),
        ("def add(a, b):\n    return 3", ADD, 1 / 3),
        ("def sub(a, b):\n    return a - b", ADD, 0.0),
        ("def add(a, b", ADD, 0.0),
    ],
)
def test_share_of_tests(share, program, tests, passed):
    assert share(program, tests) == pytest.approx(passed)


@pytest.mark.parametrize(
    ("tests", "told"),
    [
        ("assert f() == 1", "must be a list of Python sources or of {stdin, stdout}, got 'assert"),
        ({"stdin": "1"}, "must be a list"),
        ([{"input": "1", "output": "2"}], "no {stdin, stdout} of texts"),
        ([{"stdin": 1, "stdout": 1}], "no {stdin, stdout} of texts"),
        ([5], "no {stdin, stdout} of texts"),
        (["assert f(1"], "has one that is no Python"),
    ],
)
def test_what_are_no_tests(tests, told):
    with pytest.raises(ValueError, match=told):
        check_tests(tests, "What is 1 + 1?")


def test_what_tests_may_do(share):
    program = """
import collections
BASE = 10

class Stack:
    def __init__(self, *items):
        self.items, self.name = list(items), "stack"
    def push(self, item):
        self.items.append(item)
        return self
    def top(self):
        return self.items[-1]
    def __len__(self):
        return len(self.items)

def squares(n):
    yield from (i * i for i in range(n))

def root(x):
    if x < 0:
        raise ValueError("negative")
    return x ** 0.5

def stacks():
    return [Stack(1), Stack(2)]

def first(stack):
    return stack.items[0]

def counts(text):
    return collections.Counter(text)
"""
    tests = [
        "s = Stack(); s.push(3).push(4); assert s.top() == 4 and len(s) == 2 and s.name == 'stack'",
        "assert BASE == 10",
        "import math\nassert math.isclose(root(2), math.sqrt(2))",
        "assert list(squares(4)) == [0, 1, 4, 9] and sum(squares(3)) == 5",
        "try:\n    root(-1)\nexcept ValueError:\n    pass\nelse:\n    assert False",
        "assert [s.top() for s in stacks()] == [1, 2]",
        "assert first(Stack(7, 8)) == 7",
        "def check(candidate):\n    assert candidate(x=4) == 2.0\ncheck(root)",
        "assert counts('aab')['a'] == 2",
    ]
    assert share(program, tests) == 1.0


def test_objects_are_neither_compared_nor_true(share):
    program = """
class Yes:
    __eq__ = __ne__ = __lt__ = __gt__ = __bool__ = __contains__ = lambda *_: True
    def __hash__(self):
        return 7

class Seven(int):
    __eq__ = Yes.__eq__

def f(x):
    return Yes() if x else Seven(8)
"""
    tests = ["assert f(1) == 7", "assert f(1)", "assert not f(1)", "assert f(1) > 3", "assert f(0) == 7",
             "assert 7 == f(0)", "assert f(1) in [7]", "assert {f(1): 1}", "assert isinstance(f(0), int)",
             "assert 7 in f(1)", "assert f(1) != 8"]  # fmt: skip
    assert share(program, tests) == 0.0


def test_in_order_and_where_it_applies(sandboxed):
    for partial, half in ((True, 0.5), (False, 0.0)):
        code = Code(partial=partial, workers=2, **LIMITS, allow_unsandboxed=False)
        completions = [
            completion("print(2 * int(input()))"),
            completion("print(6)"),
            completion("print(6)"),
            Completion((1,), answer("print(2 * int(input()))"), True),
            Completion((1,), "print(2 * int(input()))", False),
        ]
        prompts = [prompt(DOUBLE), prompt(DOUBLE), prompt(None), prompt(DOUBLE), prompt(DOUBLE)]
        assert code(prompts, completions) == [1.0, half, None, 0.0, 0.0]


def test_the_first_run_out_of_time_is_the_last(unsandboxed, monkeypatch):
    code = Code.__new__(Code)
    code.partial, code.sandbox = True, unsandboxed
    started, start = [], unsandboxed.start
    monkeypatch.setattr(unsandboxed, "start", lambda *args, **options: started.append(args) or start(*args, **options))
    program = "n = int(input())\nwhile n == 3: pass\nprint(2 * n)"
    assert code.share_passed(program, [DOUBLE[1], DOUBLE[0], DOUBLE[1]]) == 1 / 3
    assert len(started) == 2
    monkeypatch.setattr(unsandboxed, "wall_seconds", 0)  # nothing is left of the completion's time
    assert code.share_passed(program, [DOUBLE[1]] * 3) == 0.0
    assert len(started) == 3


def test_refuses_without_a_sandbox(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="allow_unsandboxed"):
        Code(partial=True, workers=1, **LIMITS, allow_unsandboxed=False)
    with pytest.raises(ValueError, match="reward.code.workers"):
        Code(partial=True, workers=0, **LIMITS, allow_unsandboxed=True)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```", "a\n"),
        ("```\na\n```\nor\n```py\nb\nc\n```\ndone", "b\nc\n"),
        ("```python\na\n```\n```python\nb", "a\n"),
        ("   ```python\na\n  ```", "a\n"),
        ("a = '```'\n", None),
        ("print(1)", None),
        ("```python\n\n```", None),
        ("```python\n" + "a" * 100_001 + "\n```", None),
        ("", None),
    ],
)
def test_program(text, program):
    assert program_of(text) == program


def test_output():
    assert same_output("1 2 \n3\n\n", "1 2\n3")
    assert not same_output("1\n\n2", "1\n2") and not same_output(" 1", "1") and not same_output(None, "")
