import datetime
import errno
import os

import pytest
import torch

import r1lab
from r1lab.model.policy import load_policy, pack_model, pack_tokenizer
from r1lab.module import checkpoint
from r1lab.module.checkpoint import AtomicCheckpointIO, CheckpointError, load_checkpoint, note_prompt_start, slim
from tests.model.byte_tokenizer import tokenizer


@pytest.fixture(scope="module")
def last(tiny_run):
    return tiny_run / "checkpoints" / "last.ckpt"


def policy_weights(path):
    weights = torch.load(path, weights_only=True)["state_dict"]
    return {k.removeprefix("policy."): v for k, v in weights.items() if k.startswith("policy.")}


def test_a_file_alone_gives_policy_tokenizer_and_config(last, tmp_path, monkeypatch):
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(last.read_bytes())
    asked, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **options: asked.append(options) or load(*a, **options))
    policy, tokenizer, config = r1lab.load_checkpoint(alone)
    assert [options["weights_only"] for options in asked] == [True]
    expected = policy_weights(alone)
    assert policy.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in policy.state_dict().items())
    assert not policy.training
    assert tokenizer.encode("User: 7 + 5 Assistant:") == [6, 28, 8, 26, 7]
    assert config["model"]["name"] == "tiny" and config["trainer"]["max_steps"] == 2
    assert type(config) is dict and type(config["evaluation"]["splits"]) is list


def test_slim_holds_the_policy_alone(last, tmp_path):
    slim(last, tmp_path / "slim.ckpt")
    assert os.path.getsize(tmp_path / "slim.ckpt") < 0.3 * os.path.getsize(last)
    first, second = load_checkpoint(last), load_checkpoint(tmp_path / "slim.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True))
    assert first[2] == second[2]
    with pytest.raises(CheckpointError, match="without what it takes to go on"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "slim.ckpt")


class Foreign:
    pass


def test_missing_damaged_and_foreign_files(last, tmp_path):
    whole = last.read_bytes()
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"state_dict": {}, "code": Foreign()}, tmp_path / "code.ckpt")
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.ckpt").write_text("hello\n" * 100)
    expected = {
        "missing": "there is no checkpoint at",
        "other": "not one of r1lab's",
        "list": "not a Lightning checkpoint",
        # A file that is whole was called damaged.
        "code": "code.ckpt is not damaged, but holds .*Foreign, which torch loads only by running code",
        "half": "damaged, or no checkpoint",
        "empty": "damaged, or no checkpoint",
        "text": "damaged, or no checkpoint",
    }
    for name, reason in expected.items():
        path = tmp_path / f"{name}.ckpt"
        with pytest.raises(CheckpointError, match=reason) as raised:
            load_checkpoint(path)
        assert "\n" not in str(raised.value)
        # A run that is to go on with it says so too, before Lightning trips over it.
        with pytest.raises(CheckpointError, match="weights alone" if name == "other" else reason):
            AtomicCheckpointIO().load_checkpoint(path)


def test_the_first_file_is_loaded_before_it_replaces_another(tmp_path):
    writes, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": 1}, path)
    unsafe = {"r1lab": {"rollouts": [{"prompts": [{"columns": {"ok": 1, "day": datetime.date(2026, 1, 1)}}]}]}}
    with pytest.raises(
        ValueError, match=r"was not written, .* checkpoint.r1lab.rollouts\[0\].prompts\[0\].columns.day \(da"
    ):
        writes.save_checkpoint(unsafe, path)
    assert content(tmp_path) == {"last.ckpt": 1}
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "verify", lambda *given: loaded.append(given))
        for x in (2, 3):
            writes.save_checkpoint({"x": x}, path)
    assert len(loaded) == 1 and content(tmp_path) == {"last.ckpt": 3}


def test_a_run_from_before_prompts_had_a_bos_token_is_told(caplog):
    old, new = {"step": 3}, {"step": 3, "special_tokens": [0]}
    note_prompt_start(new, tokenizer("<bos> $A"))
    note_prompt_start(old, tokenizer("$A <eos>"))
    assert not caplog.messages
    note_prompt_start(old, tokenizer("<bos> $A <eos>"))
    assert "prompts lacked the BOS token '<bos>'" in caplog.text


def test_loading_a_policy_from_before_prompts_had_a_bos_token_warns_once(tmp_path, caplog):
    policy = load_policy("tiny", dtype="float32")
    state = {"config": {}, "model": pack_model(policy), "tokenizer": pack_tokenizer(tokenizer("<bos> $A")), "step": 1}
    weights = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    for known, warnings in ({}, 1), ({"special_tokens": [0]}, 0):
        torch.save({"state_dict": weights, "r1lab": state | known}, tmp_path / "a.ckpt")
        slim(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
        for name in "ab":
            caplog.clear()
            load_checkpoint(tmp_path / f"{name}.ckpt")
            assert caplog.text.count("prompts lacked the BOS token") == warnings


def content(folder):
    return {path.name: torch.load(path, weights_only=True)["x"] for path in folder.iterdir()}


def test_saving_replaces_the_file(tmp_path):
    for x in (1, 2):
        AtomicCheckpointIO().save_checkpoint({"x": x}, tmp_path / "a.ckpt")
        assert content(tmp_path) == {"a.ckpt": x}


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (RuntimeError("enforce fail at inline_container.cc"), "the disk is full"),  # how torch may tell the same
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error, reason):
    AtomicCheckpointIO().save_checkpoint({"x": 1}, tmp_path / "a.ckpt")

    def save(content, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", save)
    with pytest.raises(CheckpointError, match=reason) as raised:
        AtomicCheckpointIO().save_checkpoint({"x": 2}, tmp_path / "a.ckpt")
    assert "ckpt_path=last" in str(raised.value)
    assert content(tmp_path) == {"a.ckpt": 1}


def test_a_process_that_dies_while_it_saves_leaves_the_old_file(tmp_path, monkeypatch):
    AtomicCheckpointIO().save_checkpoint({"x": 1}, tmp_path / "a.ckpt")

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", die)  # all is written but the name
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"x": 2}, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True) == {"x": 1}
