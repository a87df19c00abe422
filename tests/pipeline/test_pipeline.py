import itertools
import json
import logging
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

import r1lab.generate
from r1lab.module.grpo import GRPO
from r1lab.module.sft import SFT
from r1lab.pipeline.record import read_record
from r1lab.pipeline.run import KINDS, Train

STAGES = [
    "zero",
    "cold_start",
    "dev1",
    "dev2",
    "dev2_without",
    "rejection",
    "general",
    "dev3",
    "helpful",
    "safety",
    "r1_reasoning",
    "r1",
]


@pytest.fixture
def copied(whole, tmp_path):
    """copied(stage): the finished pipeline elsewhere, without that stage and what follows."""

    def copy(stage=None):
        shutil.copytree(whole, tmp_path / "r1")
        for name in STAGES[STAGES.index(stage) :] if stage else []:
            shutil.rmtree(tmp_path / "r1" / "seed_1" / name)
        return tmp_path / "r1"

    return copy


def products(folder):
    return {name: read_record(folder / "seed_1" / name).product for name in STAGES}


def work_of(pipeline, name):
    stage = pipeline.stages[STAGES.index(name)]
    return KINDS[stage.run](stage, pipeline.contexts[0])


def made(folder):
    """When each stage was last made."""
    return {name: (folder / "seed_1" / name / "stage.json").stat().st_mtime_ns for name in STAGES}


def assert_same(folder, whole):
    assert products(folder) == products(whole)
    assert (folder / "table.csv").read_text() == (whole / "table.csv").read_text()


def test_from_the_base_to_the_table(whole):
    records = {name: read_record(whole / "seed_1" / name) for name in STAGES}
    assert all(record.status == "done" for record in records.values())
    # Each consumed what the one before it made.
    made = {name: record.product for name, record in records.items()}
    base = records["zero"].inputs["base"]
    assert records["cold_start"].inputs == {"zero": made["zero"]}
    assert records["dev1"].inputs == {"base": base, "cold_start": made["cold_start"]}
    assert records["dev2"].inputs == {"dev1": made["dev1"]}
    assert records["rejection"].inputs == {"dev2": made["dev2"]}
    assert records["dev3"].inputs == {"base": base, "rejection": made["rejection"], "general": made["general"]}
    assert records["r1"].inputs == {name: made[name] for name in ("r1_reasoning", "helpful", "safety")}
    # Without a reward nothing moves: Dev2 is the same without that for its language, and R1 is what it started from.
    assert made["dev2_without"] == made["dev2"] and len(set(made.values())) >= len(STAGES) - 2
    assert [name for name in STAGES if records[name].people] == ["general", "dev3", "safety", "r1_reasoning", "r1"]
    frame = pd.read_csv(whole / "table.csv")
    seeds = pd.read_csv(whole / "seeds.csv")
    assert set(seeds["stage"]) == set(frame["stage"]) and {"pass_at_1", "greedy"} <= set(seeds["metric"])
    assert list(dict.fromkeys(frame["stage"])) == ["Zero", "Dev1", "Dev2", "Dev2 without", "Dev3", "R1"]
    assert {"pass_at_1", "greedy", "format", "language_consistency", "reasoning_length", "general_score"} <= set(
        frame["metric"]
    )
    text = (whole / "table.md").read_text()
    assert text.startswith("| stage | pass@1 |") and "\nDev2 minus Dev2 without: pass@1 " in text
    assert (whole / "stages.png").exists()


@pytest.mark.slow
def test_what_stands_is_skipped(copied, pipeline, caplog):
    folder = copied()
    before = made(folder)
    with caplog.at_level(logging.INFO, "r1lab.pipeline"):
        pipeline(folder).run()
    assert made(folder) == before
    assert caplog.text.count(" stands") == len(STAGES)


class PowerCut(RuntimeError):
    pass


def break_at(monkeypatch, owner, name, number):
    """Make a function fail at its call of that number, from 0."""
    calls, original = [], getattr(owner, name)

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == number + 1:
            raise PowerCut
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, fails)


@pytest.mark.parametrize(
    "stage, owner, name, number",
    [
        pytest.param("dev1", SFT, "training_step", 0, marks=pytest.mark.slow),  # before its first checkpoint
        pytest.param("dev2", GRPO, "training_step", 1, marks=pytest.mark.slow),
        pytest.param("rejection", r1lab.generate, "write_shard", 1, marks=pytest.mark.slow),
        # trained, and not yet a folder for others
        pytest.param("dev3", Train, "export", 0, marks=pytest.mark.slow),
    ],
)
def test_stopped_in_a_stage_it_goes_on_to_the_same(
    stage, owner, name, number, copied, pipeline, whole, monkeypatch, caplog
):
    folder = copied(stage)
    with monkeypatch.context() as patch:
        break_at(patch, owner, name, number)
        with pytest.raises(PowerCut):
            pipeline(folder).run()
    assert read_record(folder / "seed_1" / stage).status == "running"
    with caplog.at_level(logging.INFO, "r1lab.pipeline"):
        pipeline(folder).run()
    assert f"{stage:<12} runs: it was interrupted; it goes on" in caplog.text
    assert not (folder / "superseded").exists()
    assert_same(folder, whole)


def test_a_changed_setting_runs_its_stage_and_what_follows(copied, pipeline, capsys):
    folder = copied()
    before = made(folder)
    pipeline(folder, "pipeline.steps.dev2=3").dry_run()
    told = {line.split()[2]: line for line in capsys.readouterr().out.splitlines() if line.startswith("seed")}
    assert [name for name in STAGES if "stands" in told[name]] == [
        "zero", "cold_start", "dev1", "general", "helpful", "safety"
    ]  # fmt: skip
    assert "runs: " in told["dev2"] and "trainer.max_steps 2 -> 3" in told["dev2"]
    assert "runs after dev2" in told["rejection"] and "runs after rejection" in told["dev3"]
    assert made(folder) == before  # said, not done


@pytest.mark.slow
def test_other_filters_take_the_samples_that_are_there(copied, pipeline, whole, caplog):
    folder = copied()
    shard = next((folder / "seed_1" / "rejection" / "samples").glob("*.parquet"))
    before, sampled = made(folder), shard.stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "r1lab.pipeline"):
        pipeline(folder, "pipeline.stages.rejection.filters.length.most=98").run()
    assert "rejection    runs: filters.length.most 512 -> 98" in caplog.text
    assert shard.stat().st_mtime_ns == sampled and not (folder / "superseded").exists()
    # They keep the same documents, so what was made from those stands.
    assert {name for name in STAGES if made(folder)[name] != before[name]} == {"rejection"}
    assert products(folder) == products(whole)


@pytest.mark.slow
def test_what_a_refused_setting_displaced_is_there_again(copied, pipeline, whole):
    folder = copied()
    before = made(folder)
    with pytest.raises(ValueError, match="stage zero: .*group_size"):
        pipeline(folder, "pipeline.batch_size=7").run()
    with pytest.raises(ValueError, match="stage cold_start: num_prompts must be at least 1"):
        pipeline(folder, "pipeline.stages.cold_start.overrides=['num_prompts=0']").run()
    assert made(folder) == before and not list((folder / "superseded").iterdir())


@pytest.mark.slow
def test_filters_that_leave_nothing_are_told(copied, pipeline):
    with pytest.raises(ValueError, match=r"none of 24 completions is left \(length took 24\); sample more"):
        pipeline(copied(), "pipeline.stages.rejection.filters.length.least=100").run()


def test_what_was_made_otherwise_is_put_aside(copied, pipeline):
    folder = copied()
    old = read_record(folder / "seed_1" / "general").product
    found = pipeline(folder, "pipeline.prompts.general=5")
    found.step(work_of(found, "general"), "")
    assert read_record(folder / "superseded" / "seed_1_general_1").product == old
    assert read_record(folder / "seed_1" / "general").facts["kept"] == 5


@pytest.mark.slow
def test_what_was_damaged_or_changed_is_made_again(copied, pipeline):
    folder = copied()
    found = pipeline(folder)

    def reason(name):
        work = work_of(found, name)
        return found.reason(work, found.inputs(work))

    assert reason("dev1") is None
    shutil.rmtree(folder / "seed_1" / "dev1" / "policy")
    assert "cannot be read" in reason("dev1")
    (folder / "seed_1" / "dev2" / "checkpoints" / "last.ckpt").write_bytes(b"half")
    assert "cannot be read" in reason("dev2")
    shutil.copy(folder / "seed_1" / "cold_start" / "documents.parquet", folder / "seed_1" / "rejection")
    assert reason("rejection") == "what it made was changed since"
    (folder / "seed_1" / "general" / "stage.json").write_text("{")
    assert reason("general") == "it was not run yet"


def test_what_a_late_stage_cannot_be_is_said_before_the_first(pipeline, tmp_path):
    pipeline(tmp_path).check()
    with pytest.raises(ValueError, match="stage dev2: trainer.max_steps must be at least 0, got -5"):
        pipeline(tmp_path, "pipeline.steps.dev2=-5").check()
    with pytest.raises(ValueError, match="stage r1: there is no task=none"):
        pipeline(tmp_path, "pipeline.tasks.both=none").check()
    with pytest.raises(ValueError, match=r"pipeline.evaluation.temperature must be 0 \(greedy\) or from 0.001"):
        pipeline(tmp_path, "pipeline.evaluation.temperature=1e-40").check()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_other_prompts_to_score_on_train_nothing(copied, pipeline):
    folder = copied()
    before = made(folder)
    pipeline(folder, "pipeline.evaluation.num_prompts=2").run()
    assert made(folder) == before
    assert json.loads((folder / "seed_1" / "r1" / "scores.json").read_text())["scores"]["greedy"]["prompts"] == 2


@pytest.mark.slow
def test_killed_in_each_stage_it_ends_in_the_same_table(small, untrained, whole, tmp_path):
    folder = tmp_path / "r1"
    command = [sys.executable, "-m", "r1lab.pipeline", *small, f"folder={folder}", f"model.name={untrained}"]
    for stage, begins in itertools.product(STAGES, (True, False)):  # at its begin, and once there is something of it
        own, made = folder / "seed_1" / stage, (".ckpt", ".parquet")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (own / "stage.json").exists() or not (begins or any(x.suffix in made for x in own.rglob("*"))):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert_same(folder, whole)
