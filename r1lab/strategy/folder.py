"""Checkpoints that are folders, to which every rank writes its part."""

import os
import shutil
from pathlib import Path
from typing import Any


class WholeFolder:
    """Over a Lightning strategy: a folder is written beside its target, then renamed, so that a run that dies
    meanwhile leaves the old one as it was.

    Attributes:
        is_folder: whether checkpoints are.
    """

    is_folder: bool

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        path = Path(self.broadcast(filepath))
        if not self.is_folder:
            return super().save_checkpoint(checkpoint, path, storage_options)
        new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
        if self.is_global_zero:
            shutil.rmtree(new, ignore_errors=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        self.barrier()
        super().save_checkpoint(checkpoint, new, storage_options)
        self.barrier()
        if self.is_global_zero:
            discard(old)
            if path.exists():
                os.rename(path, old)
            os.rename(new, path)
            discard(old)
        self.barrier()


def discard(path: Path) -> None:
    """Remove a checkpoint of either form."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def restore_old(path: Path) -> None:
    """Put back the old checkpoint where a run died between taking it away and putting the new one in its place."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        os.rename(old, path)
