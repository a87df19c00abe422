"""Checkpoints that are folders, to which every rank writes its part."""

import os
import shutil
from pathlib import Path
from typing import Any

from r1lab.plain_pickle import verify

META = "meta.pt"  # where Lightning writes what is no tensor of model or optimizer


class WholeFolder:
    """Over a Lightning strategy: a folder is written beside its target, then renamed, so that a run that dies
    meanwhile leaves the old one as it was.

    The first folder is verified before it is renamed, as files are.

    Attributes:
        is_folder: whether checkpoints are.
    """

    is_folder: bool
    verified = False

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
        self._verify(new, checkpoint)
        if self.is_global_zero:
            discard(old)
            if path.exists():
                os.rename(path, old)
            os.rename(new, path)
            discard(old)
        self.barrier()

    def _verify(self, folder: Path, checkpoint: dict[str, Any]) -> None:
        """Load what is no tensor of model or optimizer, once a run. Raises ValueError in all ranks alike."""
        if self.verified:
            return
        error = None
        if self.is_global_zero and (folder / META).is_file():
            try:
                verify(folder / META, checkpoint)
            except ValueError as told:
                error = str(told)
                discard(folder)
        if error := self.broadcast(error):
            raise ValueError(error)
        self.verified = True


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
