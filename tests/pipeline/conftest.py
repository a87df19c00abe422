"""A pipeline of two-step stages on an untrained policy: what it writes is nonsense, so its filters let it pass."""

import copy
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from r1lab.build import make
from r1lab.entry import CONF, plain
from r1lab.pipeline.pipeline import Pipeline

OVERRIDES = (
    "pipeline.steps={zero:2,dev2:2,r1:2}",
    "pipeline.prompts={cold_start:6,rejection:6,general:6}",
    "pipeline.batch_size=8",
    "pipeline.sft_batch_size=4",
    "pipeline.evaluation.num_prompts=3",
    "overrides=['rollout.max_new_tokens=6','rollout.group_size=4','data.validation_prompts=2','trainer.val_check_interval=2',"
    "'callback.checkpoint.every_n_train_steps=1']",
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
def small(untrained):
    """small(folder, *overrides, **values): a pipeline there; values are set in its config."""

    def made(folder: Path, *overrides: str, change=lambda config: None) -> Pipeline:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = plain(compose("pipeline", [*OVERRIDES, f"folder={folder}", *overrides]))
        config = copy.deepcopy(config)
        for name in ("cold_start", "rejection"):
            config["pipeline"]["stages"][name] |= {"filters": {"length": {"least": 1, "most": 99}}, "per_prompt": 4}
        for name in ("dev1", "dev3"):
            config["pipeline"]["stages"][name]["epochs"] = 0.25
        change(config)
        return Pipeline(config, ["model=tiny_bilingual", f"model.name={untrained}"])

    return made


@pytest.fixture(scope="session")
def whole(small, tmp_path_factory) -> Path:
    """The folder of a finished pipeline; not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "r1"
    small(folder).run()
    return folder
