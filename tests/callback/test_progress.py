import io

import pytest
from rich.console import Console

from r1lab.callback.progress import (
    Progress,
    describe_seconds,
    describe_training,
    describe_validation,
    is_plain_due,
    time_left,
)

RL = {"reward/accuracy": 0.416, "rollout/format": 0.93, "rollout/completion_length": 51.4, "loss/kl": 0.00314}


def test_training_line():
    assert describe_training(RL) == "accuracy 0.42  format 0.93  length 51  KL 0.0031"
    assert describe_training({k: v for k, v in RL.items() if k != "loss/kl"}).endswith("length 51")  # no reference
    assert describe_training({"loss/total": 1.23456}) == "loss 1.2346"


def test_validation_part():
    scores = {"validation/pass_at_1": 0.454, "validation/pass_at_1_low": 0.4, "validation/pass_at_1_high": 0.5}
    assert describe_validation(scores | RL | {"validation/format": 0.3}) == "validation 0.45 [0.40, 0.50]"
    assert describe_validation(scores | {"validation/format": 0.3}).endswith("format 0.30")
    pairs = {"validation/accuracy": 0.8, "validation/accuracy_low": 0.7, "validation/accuracy_high": 0.9}
    assert describe_validation(pairs) == "validation 0.80 [0.70, 0.90]"
    assert describe_validation(RL) == ""


def test_seconds_are_means_over_recent_steps():
    steps = [{"step": 3.0, "rollout": 2.0, "update": 1.0}, {"step": 1.0, "rollout": 0.0, "update": 1.0}]
    assert describe_seconds(steps) == "2.00 s/step (rollout 1.00, update 1.00)"
    assert describe_seconds([{"step": 0.5}]) == "0.50 s/step"
    assert describe_seconds([]) == ""


@pytest.mark.parametrize(
    "elapsed, done, remaining, text",
    [(10, 5, 60, "2:00 left"), (10, 1, 400, "1:06:40 left"), (0, 0, 9, ""), (9, 9, float("inf"), "")],
)
def test_time_left(elapsed, done, remaining, text):
    assert time_left(elapsed, done, remaining) == text


def test_plain_lines_are_a_tenth_of_the_run_apart():
    assert [s for s in range(1, 101) if is_plain_due(s, 0, 100, 10)] == [1, *range(10, 101, 10)]
    assert [s for s in range(1, 5) if is_plain_due(s, 0, 4, 10)] == [1, 2, 3, 4]
    assert [s for s in range(43, 101) if is_plain_due(s, 42, 100, 2)] == [43, 50, 100]
    assert not any(is_plain_due(s, 0, 100, 0) for s in range(1, 101))


def test_no_control_characters_without_a_terminal(tmp_path, fit, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    fit(tmp_path, callbacks=[Progress(plain_lines=3)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert "\x1b" not in "".join(lines) and "\r" not in "".join(lines)
    # a line each third of 12 steps and for the first, and one for each validation
    assert [line.split()[1] for line in lines] == ["1/12", "4/12", "4/12", "8/12", "8/12", "12/12", "12/12"]
    assert lines[1].startswith("step 4/12  accuracy 0.17  length 4") and lines[1].endswith("left")  # 3.5 / 20
    assert lines[2] == "step 4/12  validation 0.25"
    assert "validation 0.75" in lines[5]


@pytest.mark.parametrize("width", [60, 200])
def test_one_line_on_a_terminal(tmp_path, fit, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm"})
    fit(tmp_path, callbacks=[Progress(plain_lines=3, console=console)])
    output = console.file.getvalue()
    assert "12/12" in output and "accuracy" in output
    assert "\x1b[1A" not in output  # the cursor never goes up: there is one line
    assert ("validation 0.50" in output) == (width == 200)


def test_the_bar_stops_on_an_error(tmp_path, fit):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, _environ={"TERM": "xterm"})
    progress = Progress(plain_lines=3, console=console)

    def fail(step):
        if step == 3:
            raise ArithmeticError("no")

    with pytest.raises(ArithmeticError):
        fit(tmp_path, callbacks=[progress], events={"step begins": fail})
    assert progress.bar is None
    assert console.file.getvalue().endswith("\x1b[?25h")  # the cursor is shown again
