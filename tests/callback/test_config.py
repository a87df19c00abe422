"""The shipped choices of `callback` and `logger` build what they name."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from omegaconf import OmegaConf

from r1lab.callback.checkpoints import Checkpoints
from r1lab.callback.expert_load import ExpertLoad
from r1lab.callback.flops import Flops
from r1lab.callback.metrics_csv import MetricsCSV
from r1lab.callback.progress import Progress
from r1lab.callback.samples import Samples
from r1lab.model.flops import forward_cost

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def build(tmp_path):
    def build(choice):
        text = (CONF / f"{choice}.yaml").read_text().replace("${hydra:runtime.output_dir}", str(tmp_path))
        run = {"name": "r1zero", "ckpt_path": None, "budget": {"flops": 1e9}, "monitor": "validation/loss"}
        return instantiate(OmegaConf.create({"part": OmegaConf.create(text), **run}).part)

    return build


def test_callbacks(build, tmp_path):
    built = build("callback/default")
    assert [type(c) for c in built.values()] == [Progress, Flops, MetricsCSV, ExpertLoad, Samples, Checkpoints]
    assert built["flops"].budget == 1e9 and built["flops"].cost is forward_cost
    assert built["metrics"].path == tmp_path / "metrics.csv"
    assert built["expert_load"].path == tmp_path / "expert_load.csv"
    assert built["samples"].path == tmp_path / "samples.jsonl"
    assert built["checkpoint"].dirpath == str(tmp_path / "checkpoints")
    assert built["checkpoint"].monitor == "validation/loss"


def test_loggers(build, tmp_path):
    assert dict(build("logger/csv")) == {}
    assert isinstance(build("logger/tensorboard")["tensorboard"], TensorBoardLogger)
    pytest.importorskip("wandb")
    assert isinstance(build("logger/wandb")["wandb"], WandbLogger)
