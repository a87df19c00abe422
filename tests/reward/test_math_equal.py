import sys

import pytest

from r1lab.reward.math_equal import MathEqual, expression
from r1lab.types import Prompt

pytest.importorskip("math_verify")


def equal(right: str, answer: str) -> float:
    return MathEqual()(Prompt((1,), "q", right), answer)


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("7", "7"),
        ("7", "7.0"),
        ("7", "$7$"),
        ("7", r"\[ 7 \]"),
        ("7", r"the answer is \boxed{7}"),
        ("7", "x = 7"),
        ("7", "14/2"),
        ("7", r"\sqrt{49}."),
        ("7", "7 apples"),
        ("1/2", r"\frac{1}{2}"),
        (r"\frac12", "0.5"),
        ("1/2", "50%"),
        ("3/2", "1 1/2"),
        ("1234", "1,234"),
        ("-3", "- 3"),
        ("2^{10}", "2**10"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("(x+1)^2", "x^2+2x+1"),
        ("(1,2)", "(1, 2)"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("1 < x < 2", "(1,2)"),
        # What math-verify cannot read is right as it stands alone.
        ("blue & green", "blue & green"),
    ],
)
def test_equal(right, answer):
    assert equal(right, answer) == 1.0


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("7", "8"),
        ("7", "-7"),
        ("7", ""),
        ("7", "seven"),
        ("7", "The answer is 7"),
        # Several values.
        ("7", "7 or 8"),
        ("7", "7, 8"),
        ("7", "$7$ or $8$"),
        ("7", r"\boxed{7} \boxed{8}"),
        ("7", r"\boxed{8} so 7"),
        ("7", "8 = 7"),
        ("7", "7 = 8"),
        ("1", "1 1/2"),
        ("7", "8 7"),
        ("14", "7 7"),
        ("7", r"7 \pm 1"),
        ("7", "x < 8"),
        # Not LaTeX.
        ("7", r"\boxed{7"),
        ("3", "7//2"),
        ("7", "７"),
        ("7", "7\u200b"),
        ("0", r"\frac{0}{0}"),
        ("1/3", "0.33"),
        ("(1,2)", "[1,2]"),
        ("blue & green", "green & blue"),
    ],
)
def test_different(right, answer):
    assert equal(right, answer) == 0.0


def test_one_expression():
    assert expression(r"so \boxed{\frac{1}{2}} it is") == r"\frac{1}{2}"
    assert expression(r"\boxed{$7$}") == "7"
    assert expression("$$ x $$") == "x"
    assert expression("$5") == ""
    assert expression(r"\$5") == r"\$5"
    assert expression("1" * 1001) == ""


def test_absent_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'r1lab\[math\]'"):
        MathEqual()
    assert "math_verify" in sys.modules
