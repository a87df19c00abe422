import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1lab.export import export, main
from r1lab.module.checkpoint import CheckpointError, load_checkpoint

IDS = torch.tensor([[2, 9, 17, 30, 5]])


def test_the_exported_policy_has_equal_logits(tiny_run, tmp_path, capsys):
    main([str(tiny_run), str(tmp_path / "out")])
    assert "beside the model=" in capsys.readouterr().out
    ours, tokenizer, config = load_checkpoint(tiny_run / "checkpoints" / "last.ckpt")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(ours(IDS).logits, theirs(IDS).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == tokenizer.get_vocab()
    origin = json.loads((tmp_path / "out" / "r1lab.json").read_text())
    assert origin["experiment"] == config["name"] and origin["step"] == 2


def test_a_trained_routing_bias_is_exported_in_float32(train_small, tmp_path):
    balanced = ("experiment=tiny_base", "callback=default", "data.batch_size=8", "routing.bias_rate=0.001")
    run = train_small(tmp_path / "run", *balanced)
    out = export(str(run), tmp_path / "out", dtype="bfloat16")
    theirs = AutoModelForCausalLM.from_pretrained(out)
    ours, _, _ = load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert theirs.dtype == torch.bfloat16
    bias = [model.model.layers[1].mlp.gate.e_score_correction_bias for model in (ours, theirs)]
    assert torch.equal(*bias) and bias[0].abs().max() > 0


def test_what_cannot_be_is_told(tiny_run, tmp_path, capsys):
    with pytest.raises(FileExistsError, match="give a folder that is empty"):
        export(str(tiny_run), tiny_run)
    with pytest.raises(CheckpointError, match="Hugging Face model already"):
        export("tiny", tmp_path / "out")
    with pytest.raises(ValueError, match="dtype 'int8' is not one of"):
        export(str(tiny_run), tmp_path / "out", dtype="int8")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none"), str(tmp_path / "out")])
    assert capsys.readouterr().err.startswith("error: there is no checkpoint at")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_checkpoint_is_read(tiny_run, tmp_path, monkeypatch):
    def read(file):
        raise AssertionError("read all the same")

    monkeypatch.setattr("r1lab.export.read_checkpoint", read)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="policy cannot be made, since .*file is a file: give another place"):
        export(str(tiny_run), tmp_path / "file" / "far" / "policy")
    with pytest.raises(FileExistsError, match="is there already"):
        export(str(tiny_run), tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="link is a link to .*nowhere, which is not there"):
        export(str(tiny_run), tmp_path / "link")
    monkeypatch.setattr("os.access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(PermissionError, match="policy cannot be written, since .* may not be: give another place"):
        export(str(tiny_run), tmp_path / "new" / "policy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssertionError, match="read all the same"):
        export(str(tiny_run), tmp_path / "empty")
    assert not (tmp_path / "new").exists()
