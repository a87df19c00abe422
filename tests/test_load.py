import shutil

import pytest
import torch
from omegaconf import OmegaConf

from r1lab.load import load, policy_hash
from r1lab.model.policy import new_policy
from r1lab.module.checkpoint import CheckpointError

TEMPLATE = "User: {question} Assistant:"


@pytest.fixture(scope="module")
def loaded(tiny_run):
    return load(str(tiny_run))


def test_a_run_folder_means_its_last_checkpoint(tiny_run, loaded):
    last = tiny_run / "checkpoints" / "last.ckpt"
    assert loaded.file == last
    assert loaded.task.name == "arithmetic" and loaded.task.template.text == TEMPLATE
    assert loaded.task.tokenizer is loaded.tokenizer is loaded.engine.tokenizer
    assert not loaded.policy.training
    for path in (last, tiny_run / "checkpoints"):
        assert policy_hash(load(str(path)).policy) == policy_hash(loaded.policy)


def test_a_hugging_face_folder_with_the_template_of_a_model(loaded, tmp_path, command):
    loaded.policy.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    model = OmegaConf.to_container(command("evaluate", "model=tiny"))["model"]
    again = load(str(tmp_path), model=model)
    assert again.file is None
    assert policy_hash(again.policy) == policy_hash(loaded.policy)
    assert again.task.sample("heldout", 3) == loaded.task.sample("heldout", 3)
    assert again.config["model"]["name"] == str(tmp_path)
    with pytest.raises(ValueError, match="brings its own"):
        load(str(loaded.file), model=model)


def test_another_task_in_the_models_own_template(tiny_run, loaded, command):
    overrides = "task=arithmetic", "task.num_steps=[1]", "task.harder_num_steps=[2]"
    task = OmegaConf.to_container(command("evaluate", *overrides))["task"]
    other = load(str(tiny_run), task=task)
    assert {other.task.sample("heldout", i).difficulty for i in range(20)} == {1}
    assert other.task.sample("heldout", 0).text.startswith("User: ")
    assert other.config["task"]["num_steps"] == [1] and loaded.config["task"]["num_steps"] != [1]


def test_what_is_no_policy(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="give checkpoint=PATH"):
        load(None)
    with pytest.raises(CheckpointError, match="there is no checkpoint at .*nowhere"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="no run folder .* and no Hugging Face folder"):
        load(str(tmp_path))
    shutil.copy(tiny_run / "config.yaml", tmp_path / "text.ckpt")
    with pytest.raises(CheckpointError, match="damaged, or no checkpoint"):
        load(str(tmp_path / "text.ckpt"))


def test_hash_is_of_the_weights():
    config = {
        "model_type": "llama",
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    policy = new_policy(config, seed=0)
    before = policy_hash(policy)
    assert policy_hash(new_policy(config, seed=0)) == before
    assert policy_hash(policy.bfloat16()) != before
    policy = new_policy(config, seed=0)
    with torch.no_grad():
        policy.model.norm.weight[3] += 1e-6
    assert policy_hash(policy) != before
