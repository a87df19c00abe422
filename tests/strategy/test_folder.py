import datetime
from pathlib import Path

import pytest
import torch

from r1lab.strategy.folder import META, WholeFolder, discard, restore_old


class Writes:
    """A strategy of one rank."""

    is_global_zero = True
    dies = False

    def broadcast(self, value):
        return value

    def barrier(self):
        pass

    def save_checkpoint(self, checkpoint, path, storage_options):
        Path(path).mkdir()
        Path(path, "shard").write_text(checkpoint["text"])
        if self.dies:
            raise KeyboardInterrupt


class Strategy(WholeFolder, Writes):
    is_folder = True


def test_a_write_that_dies_leaves_the_old_one(tmp_path):
    strategy, path = Strategy(), tmp_path / "checkpoints" / "last.ckpt"
    strategy.save_checkpoint({"text": "one"}, path)
    strategy.dies = True
    with pytest.raises(KeyboardInterrupt):
        strategy.save_checkpoint({"text": "two"}, path)
    assert (path / "shard").read_text() == "one"
    strategy.dies = False
    strategy.save_checkpoint({"text": "three"}, path)
    assert (path / "shard").read_text() == "three"
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_folder_takes_the_place_of_a_file(tmp_path):
    (tmp_path / "last.ckpt").write_text("a file")
    Strategy().save_checkpoint({"text": "new"}, tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt" / "shard").read_text() == "new"


def test_what_was_taken_away_is_put_back(tmp_path):
    path = tmp_path / "last.ckpt"
    (tmp_path / ".last.ckpt.old").mkdir()
    restore_old(path)
    assert path.is_dir() and not (tmp_path / ".last.ckpt.old").exists()
    (tmp_path / ".last.ckpt.old").write_text("older")
    restore_old(path)
    assert path.is_dir()  # the newer one stays
    for each in (tmp_path / ".last.ckpt.old", path, path):
        discard(each)
    assert not list(tmp_path.iterdir())


def test_the_first_folder_is_loaded_before_it_replaces_another(tmp_path, monkeypatch):
    def write(self, checkpoint, path, storage_options):
        path.mkdir()
        torch.save(checkpoint, path / META)

    monkeypatch.setattr(Writes, "save_checkpoint", write)
    path = tmp_path / "last.ckpt"
    Strategy().save_checkpoint({"x": 1}, path)
    with pytest.raises(ValueError, match=r"was not written, .* holds checkpoint.x \(datetime.date\)"):
        Strategy().save_checkpoint({"x": datetime.date(2026, 1, 1)}, path)
    assert torch.load(path / META, weights_only=True) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
