import pytest

from r1lab.task.expression import FUNCTIONS, is_plain_formula


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "(3 + 4) * 12 / 5 - 1",
        "",
        "-2*x**3 + 4*x^12 - y",
        "(x + 1)**2",
        "0.5*x**(1/2)",
        "x**(-2) + x** - 3",
        "2x + C",
    ],
)
def test_plain(text):
    assert is_plain_formula(text)


@pytest.mark.parametrize(
    "text",
    [
        # Calls, names, attributes, strings.
        "open(x)", "exit()", "x.free_symbols", "x.y", "(1).y", "__import__", "'a'", "[1]", "x[0]", "1, 2", "a = 1",
        "sin(x)", "1\n2", "\u0663", "x!",
        # Numbers too large to write, or to compute.
        "1e999999", "9" * 21, "9**9**9", "9**100", "9^9^9", "9**(9**9)", "9**x", "9**(9*9)", "((9**99)**99)**99",
        "9**9.5e9", "1+" * 300 + "1",
    ],
)  # fmt: skip
def test_not_plain(text):
    assert not is_plain_formula(text)


def test_functions_that_are_named():
    assert is_plain_formula("exp(x)*sin(2*x) + log(x)", FUNCTIONS)
    assert not is_plain_formula("exec(x)", FUNCTIONS)
    assert not is_plain_formula("exp(x)", frozenset({"sin"}))
