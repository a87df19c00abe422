import io
import json

import pytest
from rich.console import Console

from r1lab.callback.samples import Samples, best_and_worst


def test_records_of_the_rollouts_that_are_due(tmp_path, fit):
    console = Console(file=io.StringIO(), width=100)
    samples = Samples(5, tmp_path / "samples.jsonl", groups=1, shown=1, console=console)
    fit(tmp_path, callbacks=[samples])
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    # rollouts serve steps 1-2, 3-4, 5-6, 7-8, 9-10, 11-12: the first, and those of 5 and 10; one group of two each
    assert [r["step"] for r in records] == [1, 1, 5, 5, 9, 9]
    assert records[3] == {
        "step": 5,
        "prompt": "what is 4?",
        "prompt_index": 4,
        "kind": "",
        "answer": "4",
        "number": 1,
        "completion": "text 1",
        "length": 2,
        "truncated": False,
        "rewards": {"accuracy": 5.0, "format": 1.0},
        "reward": 5.0,
        "kl_penalty": 0.0,
        "advantage": 1.0,
    }
    assert records[2]["rewards"]["format"] is None
    printed = console.file.getvalue()
    # rewards of the last rollout are 10, 11, 12, 13
    assert "text 3" in printed and "text 0" in printed and "13" in printed and "text 1" not in printed


@pytest.mark.parametrize("updates, due", [(1, [1, 4, 8]), (4, [1, 5]), (8, [1])])
def test_due_depends_on_the_step_alone(tmp_path, updates, due):
    samples = Samples(4, tmp_path / "s", groups=1, shown=0)
    assert [step for step in range(1, 9, updates) if samples.is_due(step, updates)] == due


def test_resume_drops_later_and_torn_lines(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text('{"step": 1}\n{"step": 9}\n{"st')
    trainer = type("Trainer", (), {"is_global_zero": True})
    Samples(1, path, groups=1, shown=0).on_train_start(trainer, type("Module", (), {"step": 5}))
    assert path.read_text() == '{"step": 1}\n'


def record(reward, prompt_index, text="text", length=1):
    keys = {"prompt": "p", "answer": "a", "truncated": False}
    return {**keys, "reward": reward, "prompt_index": prompt_index, "completion": text, "length": length}


def test_best_and_worst_are_of_different_prompts_and_never_the_same():
    records = [record(1.0, 0, "A"), record(1.0, 0, "B", 9), record(0.5, 1, "C"), record(0.0, 2, "D")]
    records.append(record(None, 3, "E"))  # without a reward it is neither
    console = Console(file=io.StringIO(), width=80)
    console.print(best_and_worst(records, 2))
    text = console.file.getvalue()
    # best: B (longer than A) and C, of another prompt; worst of the rest: D, A
    order = [text.index(f" {letter} ") for letter in "BCDA"]
    assert order == sorted(order) and " E " not in text


def test_markup_in_completions_is_shown_as_it_is():
    console = Console(file=io.StringIO(), width=80)
    console.print(best_and_worst([record(1.0, 0, "[red]2[/red] [/oops]")], 1))
    assert "[red]2[/red] [/oops]" in console.file.getvalue()


def test_supervised_modules_have_no_rollout(tmp_path):
    samples = Samples(1, tmp_path / "samples.jsonl", groups=1, shown=1)
    trainer, module = type("Trainer", (), {"is_global_zero": True}), type("Module", (), {"step": 1})
    samples.on_train_batch_end(trainer, module, None, object(), 0)
    samples.on_train_end(trainer, module)
    assert not (tmp_path / "samples.jsonl").exists()


def test_every_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="callback.samples.every=0"):
        Samples(0, tmp_path / "s", groups=1, shown=0)
