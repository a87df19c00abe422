import sys
import time

import pytest

from r1lab.reward.math_equal import MathEqual
from r1lab.types import Prompt

from .math_cases import DIFFERENT, SAME

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
        ("7", "The answer is 7"),
        ("7", "x = 7"),
        ("7", "14/2"),
        ("7", r"\sqrt{49}."),
        ("7", "7 apples"),
        ("1/2", r"\frac{1}{2}"),
        (r"\frac12", "0.5"),
        ("1/2", "50%"),
        ("50\\%", r"\frac{1}{2}"),
        ("7", "700%"),
        ("7", r"7 \text{ cm}"),
        ("7", r"x = \boxed{7}"),
        ("45", r"45^{\circ}"),
        ("320000", r"3.2 \times 10^5"),
        (r"\frac{2\pi}{3}", r"\frac{2}{3}\pi"),
        (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2"),
        (r"1+\sqrt{2}", r"\sqrt{2}+1"),
        (r"(\frac12, 3)", r"\left(1/2, 3\right)"),
        ("(x+1)(x-1)", "x^2-1"),
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
        ("7", "The answer is not 7"),
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
        # Work that is left to do.
        ("7", "3+4"),
        ("7", "38*0+7"),
        ("7", "7!/720"),
        ("7", r"\lfloor 7.9 \rfloor"),
        ("7", r"\frac{10+4}{2}"),
        ("7", "(14)(0.5)"),
        ("7", "7x/x"),
        ("55", r"\sum_{n=1}^{10} n"),
        ("1/2", r"\int_0^1 x dx"),
        ("x^2/2", r"\int x dx"),
        ("2^{10}", "1000+24"),
        ("(1,2)", "(2-1,2)"),
        # Two values in one, or in other brackets.
        ("7", "x=8=7"),
        ("7", r"7 \approx 8"),
        ("7", "7_{8}"),
        ("7", "7%"),
        ("7", r"8 \boxed{7}"),
        ("7", r"-\boxed{7}"),
        ("77", r"7\,7"),
        ("14", r"7\,7"),
        ("(1,2)", r"\{1,2\}"),
        ("(a,b)", r"\{a,b\}"),
        ("(1,2)", "[1,2]"),
        ("blue & green", "green & blue"),
    ],
)
def test_different(right, answer):
    assert equal(right, answer) == 0.0


@pytest.mark.parametrize(
    ("right", "answer", "score"),
    [
        ("0.0000001", "0.0000004", 0.0),
        ("3.14159265", "3.14159312", 0.0),
        ("10^{-20}", "10^{-30}", 0.0),
        (r"\frac{1}{2^{99}}", r"\frac{1}{3^{70}}", 0.0),
        ("1101_2", "1101_3", 0.0),
        ("1101_2", "1101", 0.0),
        ("5 cm", "5 kg", 0.0),
        ("3 hours", "3 minutes", 0.0),
        ("13", r"\text{13}", 1.0),
        ("90", "90°", 1.0),
        ("28%", "28 percent", 1.0),
        ("1000", r"1\,000", 1.0),
        ("-1/2", r"\frac{1}{-2}", 1.0),
        ("$5", "5", 1.0),
        (r"2\pi", r"\pi \cdot 2", 1.0),
        (r"\emptyset", r"\varnothing", 1.0),
        ("73", "**73**", 1.0),
    ],
)
def test_exact_values_bases_units_and_dress(right, answer, score):
    assert equal(right, answer) == score


@pytest.mark.parametrize(
    ("right", "same", "different"),
    [
        ("x", ["x", "(x)"], ["X", "(X)"]),
        ("2X", ["X \\cdot 2"], ["2x"]),
        ("A", ["(a)", "(A)", "a", "Option A", "choice (A)"], ["B", "Option B", "Option A or B"]),
        ("b", ["(b)"], ["B", "(b) 2"]),
        ("B", ["B. 12", "(B) 12", "B) $12$"], ["B. or C", "B. C", "B) 12 C) 13", "B. not sure", "C. 12", "B. 1, 2"]),
        (r"\textbf{(B)}\ 12", ["B", "(B) 12"], ["(B) 13", "(C) 12"]),
        (r"(2,\infty)", [r"(2,+\infty)", "(2, +∞)"], [r"(2,-\infty)", r"[2,+\infty)"]),
        ("10 m/s", [r"10 \frac{m}{s}", r"10\ \mathrm{\frac{m}{s}}"], [r"10 \frac{s}{m}", r"10 \frac{m}{s^2}"]),
        ("3 seconds", ["3 sec", "3 s", "3 secs"], ["3 min", r"3 \sec x"]),
        ("3:2", ["3 to 2", r"3\text{ to }2"], ["2 to 3", "3 to 2 or 2 to 3"]),
        ("no solution", ["No solution", "No solutions.", "There is no solution"], ["one solution", "on solution"]),
        ("$5", ["5 $", "$5 dollars", r"$\$5$"], ["$5 euros", "$5 cents", "$5 per hour", "6 $"]),
        (r"360^\circ", ["360^o", "360^{o}", "360º"], ["361^o", "360^0"]),
        ("5000000", ["5 million", "5,000 thousand", r"\$5\text{ million}"], ["5", "5 thousand", "5 million or 6"]),
        ("5 million", ["5000000"], ["5", "5 billion"]),
        ("1/2", ["0.5"], ["1/2 million"]),
        (r"30^\circ", [r"m\angle A = 30^\circ", r"\angle ABC = 30"], [r"\angle A = \angle B = 30", r"\angle A = 60"]),
        (r"\sqrt[3]{2}", ["2^{1/3}", r"2^{\frac13}", "2^(1/3)"], ["2^{2/3}", "2^{1/2}"]),
        ("4", [r"\sqrt{16}", "16^{1/2}"], ["2^2", "2^{4/2}", r"\sqrt{4+12}"]),
        ("6", [r"\boxed{6} \text{ ways}"], [r"\boxed{6} or seven", r"\boxed{6} is wrong", r"not \boxed{6}"]),
        ("10 kg", [r"\boxed{10} kg"], [r"\boxed{10} cm"]),
        ("x+y=0", ["y+x=0"], ["x+y=0 or 8", "x+y=0 Answer: 8", r"x+y=0 \text{(D)}"]),
        ("5 MW", [r"5\text{ MW}"], ["5 mW"]),
    ],
)
def test_forms_of_language_models(right, same, different):
    assert [answer for answer in same if equal(right, answer) != 1.0] == []
    assert [answer for answer in different if equal(right, answer) != 0.0] == []


# Of each kind the first few in the default run.
@pytest.mark.parametrize("few", [3, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("table", "score"), [(SAME, 1.0), (DIFFERENT, 0.0)], ids=["same", "different"])
def test_tables_of_cases(table, score, few):
    check = MathEqual()
    cases = [(kind, *case) for kind, cases in table.items() for case in cases[:few]]
    assert [case for case in cases if check(Prompt((1,), "q", case[1]), case[2]) != score] == []


@pytest.mark.parametrize(
    "tower", ["10^{10^{10}}", "2^{2^{2^{50}}}", "x^{10^{10^{10}}}", "((10^{9})!)!", "10^{-10^{10}}"]
)
def test_numbers_that_cannot_be_worked_out_take_no_time(tower):
    check, started = MathEqual(), time.process_time()
    assert check(Prompt((1,), "q", tower), f"${tower}$") == 1.0
    for other in ("7", "x^2+7", "2^{64}", f"{tower}+1", f"2 {tower}", f"\\sqrt{{{tower}}}", f"({tower}, 1)"):
        assert check(Prompt((1,), "q", other), tower) == 0.0
        assert check(Prompt((1,), "q", tower), other) == 0.0
    assert time.process_time() - started < 5


def test_absent_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'r1lab\[math\]'"):
        MathEqual()
    assert "math_verify" in sys.modules
