"""Every experiment runs, and every preset takes effect and trains."""

import csv
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1lab.entry import CONF

EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
PRESETS = sorted(file.stem for file in (CONF / "preset").glob("*.yaml"))
# One step with nothing around it, at sizes that are for a test and not the preset's.
ONE_STEP = (
    "evaluate=false",
    "rollout.batch_size=16",
    "rollout.group_size=4",
    "rollout.max_new_tokens=8",
    "trainer.max_steps=1",
    "+trainer.limit_val_batches=0",
    "+trainer.enable_checkpointing=false",
    "+trainer.enable_progress_bar=false",
    "~callback.checkpoint",
    "~callback.progress",
    "~callback.samples",
    "+reward.first={_target_: tests.test_experiments.first_token, weight: 1.0}",
)


def first_token(prompts, completions):
    """A reward that differs within a group, so that an untrained policy has something to learn."""
    return [float(completion.ids[0] % 2) for completion in completions]


def read(folder: Path) -> tuple[dict, list[dict[str, str]]]:
    """The summary of a run and its metrics, a row a step."""
    with open(folder / "metrics.csv") as file:
        return json.loads((folder / "summary.json").read_text()), list(csv.DictReader(file))


def leaves(config: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """{path: value} of all values of a nested dict."""
    found = {}
    for key, value in config.items():
        found |= leaves(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


# The paper's distilled models: their data and their models are large, so that only their config is looked at.
PAPERS = [name for name in EXPERIMENTS if re.fullmatch(r"distill_\d+(_\d+)?b", name)]
# Alike to others, which the default tests have.
SLOW = {
    "distill",
    "distill_sft",
    "moe_base",
    "opd",
    "safety_model",
    "student_base",
    "student_base_bilingual",
    *PAPERS[1:],
}
# Those that need the words of two languages.
BILINGUAL = {
    "student_base_bilingual",
    "bilingual",
    "tiny_bilingual_base",
    "reward_model",
    "safety_model",
    "reward_hacking",
}


@pytest.fixture(scope="module")
def given(train_small, request, tmp_path_factory):
    """given(experiment): what it starts from."""

    def overrides(experiment):
        untrained = ("model=tiny_bilingual_untrained",) if experiment in BILINGUAL else ()
        if experiment == "sft":
            path = tmp_path_factory.mktemp("documents") / "documents.parquet"
            document = {"prompt": "User: 3 + 4 Assistant:", "completion": "<answer> 7 </answer>"}
            pq.write_table(pa.Table.from_pylist([document] * 8), path)
            return (f"data.documents.sources={{mine: {{path: '{path}', weight: 1}}}}", "data.batch_size=4")
        if experiment in ("distill", "opd"):
            return (f"module.teacher.name={request.getfixturevalue('tiny_run')}",)
        if experiment == "distill_sft":
            folder = request.getfixturevalue("teacher_samples")
            return (f"data.folder={folder}", "~data.filters.correct", "data.batch_size=4")
        if experiment != "reward_hacking":
            return untrained
        folder = tmp_path_factory.mktemp("reward_model")
        train_small(folder, "experiment=reward_model", "evaluate=false", "data.batch_size=8", *untrained)
        return (*untrained, f"reward.model.scorer.name={folder}")

    return overrides


def marked(experiments):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in experiments]


@pytest.mark.parametrize("experiment", marked(name for name in EXPERIMENTS if name not in PAPERS))
def test_two_steps(experiment, given, train_small, tmp_path):
    # Without its gate, which no base of two steps passes.
    options = ("callback=default", "callback.samples.shown=0")
    train_small(tmp_path, f"experiment={experiment}", *options, *given(experiment))
    summary, rows = read(tmp_path)
    assert (summary["status"], summary["experiment"], summary["steps"]) == ("finished", experiment, 2)
    assert summary["objective"] is not None
    assert [row["step"] for row in rows] == ["1", "2"]
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name not in PAPERS])
def test_an_experiment_may_be_watched_otherwise(experiment):
    """Another choice of callbacks leaves nothing of the experiment's own behind that is no callback."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}", "callback=trial"])
    assert all("_target_" in own for own in config.callback.values())


@pytest.mark.parametrize("experiment", marked(PAPERS))
def test_the_papers_distilled_models_compose(experiment):
    """With the learning rates of 2501.12948v2, Table 6, batch 64, cosine to a tenth."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}", "data.folder=samples", "logger=tensorboard"])
    rates = {"1_5b": 1e-4, "7b": 8e-5, "8b": 5e-5, "14b": 7e-5, "32b": 6e-5, "70b": 2e-5}
    assert config.optimizer.lr == rates[experiment.removeprefix("distill_")]
    assert (config.module.mode, config.data.batch_size) == ("sft", 64)
    assert config.optimizer.scheduler.scheduler_specific_kwargs.min_lr_rate == 0.1


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_takes_effect(preset):
    """Each value that the preset sets is in the config of a run with it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(compose("train", ["experiment=r1zero", f"preset={preset}"]))
    asked = OmegaConf.to_container(OmegaConf.load(CONF / "preset" / f"{preset}.yaml"))
    asked.pop("defaults", None)
    assert leaves(asked)
    assert leaves(asked).items() <= leaves(composed).items()


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_trains(preset, train_small, tmp_path):
    train_small(tmp_path, "experiment=r1zero", f"preset={preset}", *ONE_STEP)
    summary, rows = read(tmp_path)
    assert summary["steps"] == 1
    assert float(rows[0]["optimizer/gradient_norm"]) > 0
    assert float(rows[0]["optimizer/bad_steps"]) == 0
