"""A pipeline of two-step stages on an untrained policy: what it writes is nonsense, so its filters let it pass."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from r1lab.build import make
from r1lab.entry import CONF, plain
from r1lab.pipeline.pipeline import Pipeline

SAMPLED = ("cold_start", "rejection")
SMALL = (
    "pipeline.steps={zero:2,dev2:2,reward_models:2,r1_reasoning:2,r1:2}",
    "pipeline.pairs=4",
    "pipeline.prompts={cold_start:6,rejection:6,general:6}",
    "pipeline.batch_size=8",
    "pipeline.sft_batch_size=4",
    "pipeline.evaluation.num_prompts=3",
    "pipeline.stages.dev1.epochs=0.25",
    "pipeline.stages.dev3.epochs=0.25",
    *(
        f"~pipeline.stages.{stage}.filters.{name}"
        for stage in SAMPLED
        for name in ("correct", "wellformed", "one_language", "no_repetition")
    ),
    *(f"pipeline.stages.{stage}.filters.length.least=1" for stage in SAMPLED),
    *(f"pipeline.stages.{stage}.per_prompt=4" for stage in SAMPLED),
    *(f"pipeline.stages.{stage}.overrides=['num_prompts=6','num_samples=4','shard_size=2']" for stage in SAMPLED),
    "overrides=['rollout.max_new_tokens=6','rollout.group_size=4','data.validation_prompts=2',"
    "'trainer.val_check_interval=2','callback.checkpoint.every_n_train_steps=1']",
)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """An untrained bilingual base as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("base")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("train", ["model=tiny_bilingual_untrained", "task=bilingual"]).model)
    make(config["policy"], seed=1).save_pretrained(folder)
    make(config["tokenizer"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small():
    """The overrides that make a pipeline small."""
    return SMALL


@pytest.fixture(scope="session")
def pipeline(untrained):
    """pipeline(folder, *overrides): a small one there."""

    def made(folder: Path, *overrides: str) -> Pipeline:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = plain(compose("pipeline", [*SMALL, f"folder={folder}", *overrides]))
        return Pipeline(config, ["model=tiny_bilingual", f"model.name={untrained}"])

    return made


@pytest.fixture(scope="session")
def whole(pipeline, tmp_path_factory) -> Path:
    """The folder of a finished pipeline; not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "r1"
    pipeline(folder).run()
    return folder
