"""Runs of a tiny untrained policy, as the commands start them."""

import os
from pathlib import Path

# The tests are the CPU's, also where there is a GPU; R1LAB_TEST_GPU=1 lets them see it.
if os.environ.get("R1LAB_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Without a GPU, Triton's interpreter runs the kernels; triton reads this when it is imported.
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from r1lab.entry import CONF, plain

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

# Two small steps of an untrained policy, without their picture; what it writes is nonsense.
SMALL = (
    "model=tiny_untrained",
    "debug=two_steps",
    "rollout.max_new_tokens=8",
    "callback.progress.plain_lines=0",
    "show=false",
)


def compose_run(folder: Path, *overrides: str) -> dict:
    """The resolved config of `python -m r1lab.train` with the overrides, in the given run folder."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*SMALL, *overrides], return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(config)
        del config["hydra"]
    return plain(config)


@pytest.fixture(scope="session")
def command():
    """command("evaluate", *overrides): the composed config of another command."""

    def composed(name: str, *overrides: str):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(name, list(overrides))

    return composed


@pytest.fixture(scope="session")
def small():
    """The overrides that make a run small."""
    return SMALL


@pytest.fixture(scope="session")
def train_small():
    """train_small(folder, *overrides): a run; returns its folder."""
    from r1lab.train import train_in

    def train(folder: Path, *overrides: str) -> Path:
        train_in(folder, compose_run(folder, *overrides))
        return folder

    return train


@pytest.fixture(scope="session")
def teacher_samples(tiny_run, command, tmp_path_factory):
    """The folder of 6 prompts' samples of `tiny_run`, two each, in shards of 2 prompts, with 4 logprobs a place."""
    from r1lab.generate import generate

    folder = tmp_path_factory.mktemp("samples") / "samples"
    numbers = ("num_prompts=6", "num_samples=2", "shard_size=2", "logprobs=top_k", "logprobs_k=4")
    generate(command("generate", f"checkpoint={tiny_run}", "split=train", *numbers, f"output={folder}"))
    return folder


@pytest.fixture(scope="session")
def tiny_run(train_small, tmp_path_factory):
    """The folder of a finished run of two steps; not to be changed."""
    return train_small(tmp_path_factory.mktemp("runs") / "tiny", "callback.samples.shown=0", "show=true")
