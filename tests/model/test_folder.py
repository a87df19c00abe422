import builtins
import json
import os
import shutil

import pytest
from transformers import AutoModelForCausalLM

from r1lab.load import load
from r1lab.model import folder
from r1lab.model.folder import FolderError
from r1lab.model.policy import SHIPPED, load_policy, load_tokenizer
from r1lab.module.teacher import load_teacher
from r1lab.plan_inputs import folder_config
from r1lab.reward.model import load_classifier

WEIGHTS = "model.safetensors"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of the tiny base, to be broken; a question on the terminal is an error."""
    monkeypatch.setattr(builtins, "input", lambda text: pytest.fail(f"asked {text}"))
    return shutil.copytree(SHIPPED / "tiny_base", tmp_path / "base")


def write(place, file, **changes):
    content = json.loads((place / file).read_text()) | changes
    removed = [key for key in changes if changes[key] is None]
    (place / file).write_text(json.dumps({key: value for key, value in content.items() if key not in removed}))


def without(*patterns):
    return lambda place: [file.unlink() for pattern in patterns for file in place.glob(pattern)]


def cut(place, size):
    (place / WEIGHTS).write_bytes((place / WEIGHTS).read_bytes()[:size])


def split(place):
    (place / WEIGHTS).unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (place / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def pointer(place):
    (place / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n")


CODE = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
BROKEN = [
    (without("*"), "config.json is needed and is not there; the folder is empty"),
    (without("config.json"), "config.json is needed and is not there; give"),
    (lambda place: (place / "config.json").write_text("{ no"), "config.json cannot be read .*line 1 column 3"),
    (lambda place: (place / "config.json").write_text("[1]"), "config.json is not a JSON object"),
    (lambda place: write(place, "config.json", model_type=None), "config.json has no model_type"),
    (lambda place: write(place, "config.json", model_type="nosuch"), "model_type='nosuch', which transformers .* know"),
    (
        lambda place: write(place, "config.json", model_type="own", auto_map=CODE),
        r"custom code .*: own\.Model\), which",
    ),
    (lambda place: write(place, "config.json", hidden_size="x"), "config.json cannot be read .*hidden_size"),
]
BROKEN_MODEL = [
    (lambda place: write(place, "config.json", model_type="t5"), "architecture t5, which AutoModelForCausalLM"),
    (lambda place: write(place, "config.json", num_hidden_layers=3), "and 11 more are not in its weights.* at random"),
    (lambda place: write(place, "config.json", intermediate_size=64), "have another shape in its weights.* at random"),
    (without("*.safetensors"), "has no weights"),
    (lambda place: cut(place, 0), "model.safetensors is damaged"),
    (lambda place: cut(place, 100_000), "model.safetensors is damaged"),
    (pointer, "model.safetensors is a pointer of Git LFS: .*git lfs pull"),
    (split, "index.json names model-00001-of-00002.safetensors, which are not there"),
]
TOKENIZER_CODE = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}
BROKEN_TOKENIZER = [
    (without("tokenizer*"), "has no tokenizer"),
    (lambda place: (place / "tokenizer.json").write_text("{ no"), "tokenizer.json cannot be read .*line 1 column 3"),
    (lambda place: write(place, "tokenizer_config.json", **TOKENIZER_CODE), r"custom code .*own\.Tokenizer"),
]


@pytest.mark.parametrize(("breaks", "reason"), BROKEN + BROKEN_MODEL)
def test_a_policy_that_cannot_be_read(place, breaks, reason):
    breaks(place)
    with pytest.raises(FolderError, match=reason) as raised:
        load_policy(str(place), dtype="float32")
    assert str(raised.value).startswith(f"model.name={place}") and "\n" not in str(raised.value)


@pytest.mark.parametrize(("breaks", "reason"), BROKEN[2:] + BROKEN_TOKENIZER)
def test_a_tokenizer_that_cannot_be_read(place, breaks, reason):
    if "hidden_size" not in reason:
        breaks(place)
        with pytest.raises(FolderError, match=reason):
            load_tokenizer(str(place))


@pytest.mark.parametrize(("breaks", "reason"), BROKEN)
def test_a_config_that_cannot_be_planned_with(place, breaks, reason):
    breaks(place)
    with pytest.raises(FolderError, match=reason):
        folder_config(str(place))


def test_an_architecture_that_cannot_be_planned_with(place):
    write(place, "config.json", model_type="t5")
    with pytest.raises(FolderError, match="architecture t5, which AutoModelForCausalLM"):
        folder_config(str(place))


def test_code_beside_an_architecture_of_transformers_is_not_run(place):
    write(place, "config.json", auto_map=CODE)
    (place / "own.py").write_text("raise SystemExit")
    assert type(load_policy(str(place), dtype="float32")).__module__.startswith("transformers.")
    load_tokenizer(str(place))


@pytest.mark.parametrize("break_it", [without("*.safetensors"), BROKEN_TOKENIZER[2][0]])
def test_errors_name_the_setting_that_chose_the_folder(place, break_it):
    break_it(place)
    for setting, loads in (
        ("checkpoint", lambda: load(str(place))),
        ("module.teacher.name", lambda: load_teacher(str(place), None, None)),
    ):
        with pytest.raises(FolderError, match=f"^{setting}={place}"):
            loads()


def test_a_reward_model_without_a_trained_head(tmp_path):
    settings = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    policy = AutoModelForCausalLM.from_config(
        folder.CONFIG_MAPPING["llama"](**settings, num_attention_heads=1, num_labels=1)
    )
    policy.save_pretrained(tmp_path)
    with pytest.raises(FolderError, match=rf"^scorer.name={tmp_path}: score.weight are not in its weights"):
        load_classifier(str(tmp_path), "float32", 1, 8, None)


def test_folders_of_another_kind(place, tmp_path):
    (place / "config.json").unlink()
    (place / "adapter_config.json").touch()
    with pytest.raises(FolderError, match="an adapter alone; merge it into its base"):
        load_policy(str(place), dtype="float32")
    (place / "adapter_config.json").unlink()
    (place / "last.ckpt").touch()
    with pytest.raises(FolderError, match=f"a run's folder; python -m r1lab.export {place} OUT"):
        load_policy(str(place), dtype="float32")
    with pytest.raises(FolderError, match="is a file: .* python -m r1lab.export"):
        load_policy(str(place / "last.ckpt"), dtype="float32")


def test_a_folder_that_may_not_be_read(place, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(FolderError, match="may not be read: change its permissions"):
        load_policy(str(place), dtype="float32")


def test_a_name_that_is_empty():
    with pytest.raises(FolderError, match="model.name is empty: give a folder"):
        load_policy("", dtype="float32")


def test_a_hub_id_without_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing", "no body//nothing"):
        with pytest.raises(FolderError, match=f"model.name={name} is no folder here, .*check the name and the network"):
            load_policy(name, dtype="float32")


def test_weights_that_the_model_has_no_place_for_are_logged(place, caplog):
    write(place, "config.json", num_hidden_layers=1)
    load_policy(str(place), dtype="float32")
    assert "DeepseekV3ForCausalLM has no place for model.layers.1.input_layernorm.weight, " in caplog.text
