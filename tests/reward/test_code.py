import shutil

import pytest

from r1lab.reward.code import Code, check_tests, program_of, same_output
from r1lab.types import Completion, Prompt

from .conftest import LIMITS
from .programs import CROSSING_PROGRAM, CROSSING_TESTS, FORGING_PROGRAM

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
    return share_in(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def unsandboxed_share(unsandboxed):
    """The same where the sandbox is not what is tested."""
    return share_in(unsandboxed)


def share_in(sandbox):
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


def test_values_of_every_kind_cross(share):
    failed = (
        []
        if share(CROSSING_PROGRAM, CROSSING_TESTS) == 1
        else [test for test in CROSSING_TESTS if share(CROSSING_PROGRAM, [test]) < 1]
    )
    assert failed == []


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print(1)\nexit()", "1"),
        ("print(1)\nquit()", "1"),
        ("import sys\nprint(1)\nsys.exit(0)", "1"),
        (
            "import sys\n\ndef main():\n    for line in sys.stdin: print(line.strip() + '  ')\n    print()\n\n"
            "if __name__ == '__main__':\n    main()\n    raise SystemExit",
            "5\né\n",
        ),
        ("print(*open(0).read().split(), sep='\\r\\n', end='')\nexit(0)\nprint(2)", "5\né"),
        (
            "import sys; sys.setrecursionlimit(10**5)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(5000))",
            "5000",
        ),
    ],
)
def test_scripts_that_exit_pass(unsandboxed_share, program, expected):
    assert unsandboxed_share(program, [{"stdin": "5\né\n", "stdout": expected}]) == 1.0


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        # It ends, and nothing passes from then on, whatever is expected.
        ("import os\ndef f(x): os._exit(0)", ["try:\n    f(1)\nexcept Exception:\n    pass\nelse:\n    assert False"]),
        ("import os\ndef f(x): os._exit(0)", ["try:\n    f(1)\nexcept:\n    pass"]),
        ("import os\nos._exit(0)", ["try:\n    f(1)\nexcept:\n    pass", "assert pow(2, 10) == 1024"]),
        ("raise SystemExit", ["assert pow(2, 10) == 1024"]),
        ("import sys\nsys.exit(0)\ndef add(a, b): return a + b", ADD),
        ("import sys\ndef add(a, b): return a + b\nsys.exit(1)", ADD),
        ("import sys\ndef f(x): sys.exit(0)", ["assert f(1) == 2", "f(1)"]),
        # Python's own names.
        ("pass", ["assert sorted([3, 1]) == [1, 3]", "assert True"]),
        ("def sum(x): return 0\ndef add(a, b): return 0", ["assert add(1, 2) == sum([1, 2])"]),
        ("def isinstance(*_): return True\ndef f(x): return None", ["assert isinstance(f(1), int)"]),
        ("def isinstance(*_): return True\ndef pow(*_): pass", ["assert isinstance(pow(2, 3), int)"]),
        ("class math: isclose = lambda *_: True\ndef root(x): pass", ["assert math.isclose(root(2), 1.41421356)"]),
        # It stops the loop that would have found it wrong.
        ("def add(a, b): raise StopIteration", ["assert all(map(lambda t: add(*t) == sum(t), [(1, 2), (3, 4)]))"]),
        ("class V(int):\n    def __eq__(self, x): return True\ndef f(x): return V(8)", ["assert f(1) == 7"]),
        ("class V(list):\n    def __eq__(self, x): return True\ndef f(x): return V()", ["assert f(1) == [7]"]),
        (
            "class V:\n    def __init__(self, *a): pass\n    def __add__(self, x): return self\n"
            "    __eq__ = lambda *_: True",
            ["assert V(1) + V(2) == V(3)"],
        ),
        (
            "class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, x): return self\n"
            "    __eq__ = lambda *_: True",
            ["assert V(1) + V(2) == V(3)", "assert V(1) == 1", "assert [V(1)] == [1]", "assert V(1) in [1, 2]"],
        ),
        *(
            (FORGING_PROGRAM, [test])
            for test in (
                "assert counts('aab') == {'a': 2, 'b': 1}",
                "assert number(3) == 7",
                "assert shell(3) == 0",
                "assert judged(lambda x: x + 1, 3) == 4",
                "class A:\n    def __init__(self): self._answer = 5\nassert hidden(A()) == 5",
                "class A:\n    def __init__(self): self._answer = 5\nassert looked(A()) == 5",
                "assert evaluated(lambda x: x + 1, 3) == 4",
                "assert flood(3) == 0",
            )
        ),
    ],
)
def test_programs_that_cheat_pass_nothing(unsandboxed_share, program, tests):
    assert unsandboxed_share(program, tests) == 0.0


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


@pytest.mark.parametrize("base", ["object", "int"])
def test_a_program_cannot_choose_the_difference_from_what_a_test_expects(unsandboxed_share, base):
    program = f"""
class Cheat({base}):
    def _(self, *_):
        return f()
    __add__ = __radd__ = __sub__ = __rsub__ = __mod__ = __xor__ = __mul__ = __neg__ = _
    __abs__ = __int__ = __len__ = __round__ = lambda *_: 0
    __float__ = lambda *_: 0.0
    __truediv__ = lambda *_: 1
    __bool__ = lambda *_: False
    __str__ = lambda *_: "0"
    __iter__ = lambda self: iter([self])
    days = 0

def f():
    return Cheat(8) if Cheat.__base__ is int else Cheat()
"""
    tests = """
assert abs(f() - 3) < 1e-6
assert abs(3 - f()) < 1e-6
assert f() - 3 == 0
assert not f() - 3
assert f() % 3 == 0
assert f() ^ 3 == 0
assert f() / 3 == 1
assert (f() - 3).days == 0
assert int(f() - 3) == 0
assert (f() - 3) * 1 == 0
assert round(f() - 3.14159, 5) == 0
assert len(f() - 3) == 0
assert str(f() - 3) == "0"
assert abs(f() - 3 + f()) == 0
assert -3 < f() - 3 < 1
assert sum(f()) == 3
assert sum([f(), -3]) == 0
assert abs(f() + -3) < 1e-6
import math; assert math.isclose(f() - 3, 0, abs_tol=1e-6)
assert sum(abs(a - b) for a, b in zip(f(), [3])) == 0
assert max(abs(f() - 3), 0) == 0
"""
    assert unsandboxed_share(program, tests.strip().splitlines()) == 0.0


def test_a_program_that_lies_about_its_objects_gains_nothing(unsandboxed_share):
    program = """
import sys
channel = sys.modules["__main__"]
asked = []

def data(value):
    asked.append(value)
    return (len(asked) > 1, 0)

channel.OPERATIONS["data"] = data

class Zero:
    __sub__ = lambda *_: Zero()

def f():
    return Zero()
"""
    assert unsandboxed_share(program, ["assert f() - 3 == 0"]) == 0.0


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
