import time

import pytest

from r1lab.reward.math_dress import expression, unwrapped
from r1lab.reward.math_unit import split_unit


def test_one_expression():
    assert expression(r"so \boxed{\frac{1}{2}} it is") == r"\frac{1}{2}"
    assert expression(r"\boxed{$7$}") == "7"
    assert expression("$$ x $$") == "x"
    assert expression("$5") == ""
    assert expression(r"\$5") == r"\$5"
    assert expression("1" * 1001) == ""


@pytest.mark.parametrize(
    "answer",
    [
        "Answer: 7",
        "**Answer:** 7",
        "**Answer**: $7$",
        "**Answer: 7**",
        "The answer is **7**.",
        "So the final answer is $7$.",
        "Final Answer: The final answer is $7$",
        "### Final Answer\n\n7",
        "#### 7",
        r"\textbf{Answer:} $7$",
        "<b>7</b>",
        "<b>Answer:</b> <i>7</i>",
        r"\begin{equation} 7 \end{equation}",
        r"\[\begin{aligned} 7 \end{aligned}\]",
        r"\large 7",
        r"$\Huge 7$",
        "```latex\n7\n```",
        r"\text{Answer: }\boxed{7}",
        r"Therefore, the number of ways is $\boxed{7}$.",
    ],
)
def test_dress_is_taken_off(answer):
    assert expression(answer) == "7"


@pytest.mark.parametrize(
    "answer",
    [
        "> 7",
        "- 7",
        "#7",
        "Answer: 7 or 8",
        "The answer is not 7",
        "The wrong answer is 7",
        "One answer is 7",
        "Answer 7",
        "<b>7</b> <b>8</b>",
        r"\begin{align*} 8 \\ 7 \end{align*}",
        r"\begin{align*} 3+4 &= 7 \end{align*}",
        r"\begin{align*} 7 \end{align}",
        r"\boxed{7} or 8",
        r"at least \boxed{7}",
        r"x\boxed{7}",
        r"\boxed{7} and more",
        r"A, \boxed{7}",
    ],
)
def test_what_changes_the_value_stays(answer):
    assert expression(answer) != "7"


def test_name_before_a_box_and_unit_behind_it_are_kept():
    assert expression(r"$x = \boxed{7}$") == "x = 7"
    assert expression(r"$\boxed{7}\,\mathrm{cm}$.") == r"7 \text{cm}"
    assert expression(r"\boxed{7}\%") == r"7\%"


# Each repeats what one pattern matches, and misses its end.
@pytest.mark.parametrize(
    "part",
    ["<b>", "<b>7</b>", "**", "*", "#", "# ", " ", "\n", "so ", "there is ", "Answer: ", "**Answer:** ",
     "the answer to the ",
     "value of $x$ is ", r"\text{Answer: }", r"\text{", r"\begin{align*}", r"\begin{math}\end{math}", r"\end{align*}",
     r"& \\ ", r"\large ", r"\text{ to }", "7 to ", "to", "7^{1/2}", r"^{\frac13}", "^(", "^{", "7^o", "sec ", "sec^2",
     "5 million ", "million", "5 hundred thousand ", "$5 ", r"\$5", "7 $7$ ", "(A) ", "B. 7 ", "option (",
     r"m\angle A = ",
     r"\frac{m}{s}", r"7 \frac{", "7 m/", "no solutions ", r"\mathbb{", "MW ", "at least ", "n't ", "f(x)", "x = "],
)  # fmt: skip
def test_reading_takes_no_time(part):
    started = time.process_time()
    for before, behind in (
        ("", ""),
        ("7 ", "!"),
        (r"\boxed{7} ", ""),
        ("Answer: ", ""),
        ("<b>", "</b>"),
        (r"\$5 ", ""),
    ):
        text = before + part * ((1000 - len(before + behind)) // len(part)) + behind
        unwrapped(text)
        split_unit(expression(text))
    assert time.process_time() - started < 0.5
