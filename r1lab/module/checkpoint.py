"""Checkpoints: one self-contained file with policy, optimizer, loop state, config and tokenizer, never half written."""

import errno
import logging
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.model.policy import NAMED, pack_model, pack_tokenizer, rebuild, unpack_tokenizer
from r1lab.model.tokenizer import prompt_start
from r1lab.plain_pickle import unsafe_types, verify
from r1lab.strategy.folder import META

log = logging.getLogger("r1lab.module")

_KEY = "r1lab"
_NEEDED = {"config", "model", "tokenizer"}


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, foreign or damaged, or that could not be written."""


def save_state(module: L.LightningModule, checkpoint: dict[str, Any], state: dict[str, Any]) -> None:
    """Add to a Lightning checkpoint what makes it self-contained: configs, tokenizer, the module's own state."""
    checkpoint[_KEY] = {
        "config": module.run_config,
        "model": pack_model(module.policy),
        "tokenizer": pack_tokenizer(module.tokenizer),
        "special_tokens": prompt_start(module.tokenizer),
        **state,
    }


def load_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What `save_state` added."""
    if _KEY not in checkpoint:
        raise CheckpointError("this is a Lightning checkpoint, but not one of r1lab's: it holds no r1lab state")
    if missing := _NEEDED - checkpoint[_KEY].keys():
        raise CheckpointError(
            f"the checkpoint is of another version of r1lab: it holds no {', '.join(sorted(missing))}"
        )
    return checkpoint[_KEY]


def note_prompt_start(state: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn where a checkpoint was trained before prompts began with the tokenizer's BOS token, and now they do."""
    if "special_tokens" not in state and (start := prompt_start(tokenizer)):
        tokens = "".join(tokenizer.convert_ids_to_tokens(start))
        log.warning(
            f"the checkpoint is of a version of r1lab whose prompts lacked the BOS token {tokens!r} that the tokenizer "
            "puts first: from here on they have it. Train again for one kind of prompt"
        )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a Lightning checkpoint, its tensors on the CPU, read without running any code that it may hold.

    A folder of shards has an index that torch reads as a pickle, which may: only of those that are trusted.

    Raises:
        CheckpointError: if the file is missing, damaged, or something else, or holds what runs code.
    """
    path = Path(path)
    if not is_checkpoint(path):
        raise CheckpointError(f"there is no checkpoint at {path}; give the path of a .ckpt file")
    try:
        read = _read_shards if path.is_dir() else partial(torch.load, map_location="cpu", weights_only=True)
        checkpoint = read(path)
    except (Exception, CheckpointException) as error:  # torch raises what its parsers come upon
        file = path / META if path.is_dir() else path
        raise (unsafe(path, types) if (types := unsafe_types(file)) else damaged(path, error)) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} is not a Lightning checkpoint: it has no state_dict")
    return checkpoint


def damaged(path: Path, error: BaseException) -> CheckpointError:
    """What to raise where reading a checkpoint came upon `error`; of shards it is torch's CheckpointException, which is
    no Exception."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]  # a rank's
    first_sentence = str(error).split(". ")[0].split("\n")[0]
    told = f"{path} is damaged, or no checkpoint ({type(error).__name__}: {first_sentence})"
    return CheckpointError(told + _or_the_best(path))


def unsafe(path: Path, types: Sequence[str]) -> CheckpointError:
    """What to raise for a checkpoint that is whole and holds types that are not loaded."""
    return CheckpointError(
        f"{path} is not damaged, but holds {', '.join(types)}, which torch loads only by running code that the file "
        "names. torch.load(..., weights_only=False) reads a file whose origin you trust" + _or_the_best(path)
    )


def _or_the_best(path: Path) -> str:
    best = path.with_name("best.ckpt")
    return f"; resume from ckpt_path={best}, the best one" if best.exists() and best != path else ""


def is_checkpoint(path: Path) -> bool:
    """Whether a file is there, or a folder that the ranks of a run wrote."""
    return path.is_file() or (path / META).is_file()


def _read_shards(folder: Path) -> dict[str, Any]:
    """A folder of shards as the one file that it stands for, but for the optimizer's state. Torch's index of the shards
    is a pickle: of a folder from others, trust is asked."""
    checkpoint = torch.load(folder / META, map_location="cpu", weights_only=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        dcp_to_torch_save(folder, Path(place, "whole"))
        found = torch.load(Path(place, "whole"), map_location="cpu", weights_only=True)
    # Lightning's FSDP has another word for the weights.
    return checkpoint | {"state_dict": found["model"] if "model" in found else found["state_dict"]}


def checkpoint_file(checkpoint: str) -> Path | None:
    """The .ckpt file that is meant by a file, or a run folder (its last); None for a Hugging Face model.

    Raises:
        CheckpointError: if there is none of these.
    """
    path = Path(checkpoint).expanduser()
    if is_checkpoint(path):
        return path
    for last in (path / "checkpoints" / "last.ckpt", path / "last.ckpt"):
        if is_checkpoint(last):
            return last
    if (path / "config.json").is_file() or (checkpoint in NAMED and not path.exists()):
        return None
    if path.is_dir():
        raise CheckpointError(
            f"{path} is no run folder (no checkpoints/last.ckpt) and no Hugging Face folder "
            "(no config.json): give the folder that holds one of them"
        )
    raise CheckpointError(
        f"there is no checkpoint at {path}; give a .ckpt file, a run folder, a Hugging Face folder, or {NAMED[0]}"
    )


def load_checkpoint(path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """The policy, its tokenizer and the resolved config of the run, from a checkpoint alone, of a run folder its last.

    Raises:
        CheckpointError: if it is missing, damaged, or not a checkpoint of r1lab.
    """
    file = checkpoint_file(str(path))
    if file is None:
        raise CheckpointError(f"{path} is a Hugging Face model, which AutoModelForCausalLM loads")
    return unpack_checkpoint(read_checkpoint(file))


def unpack_checkpoint(checkpoint: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """`load_checkpoint` of what `read_checkpoint` gives."""
    state = load_state(checkpoint)
    prefix = "policy."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    tokenizer = unpack_tokenizer(state["tokenizer"])
    note_prompt_start(state, tokenizer)
    return rebuild(state["model"], weights), tokenizer, state["config"]


def slim(path: str | Path, out: str | Path) -> None:
    """Write the policy of a checkpoint alone: for sharing, not for going on. `load_checkpoint` reads it."""
    checkpoint = read_checkpoint(path)
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("policy.")}
    kept = "config", "model", "tokenizer", "special_tokens", "step"
    state = {key: value for key, value in load_state(checkpoint).items() if key in kept}
    AtomicCheckpointIO().save_checkpoint({"state_dict": weights, _KEY: state}, out)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, then renames: a process that dies meanwhile leaves the old file as it was.

    The first file is loaded before it is renamed, so that a run whose checkpoints would not load ends at the first.
    """

    verified = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if not self.verified:
                verify(temporary, checkpoint)
                self.verified = True
            os.replace(temporary, path)
        except ValueError:
            temporary.unlink(missing_ok=True)
            raise
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            # torch may report a failed write as a RuntimeError from its archive writer.
            full = "inline_container" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full" if full else str(error).splitlines()[0]
            raise CheckpointError(
                f"the checkpoint {path} was not written ({reason}); "
                + (
                    "the one before it is whole. Make room, then go on with ckpt_path=last"
                    if path.exists()
                    else "there is none before it. Make room, then start again"
                )
            ) from error

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        checkpoint = read_checkpoint(path)
        if "optimizer_states" not in checkpoint:
            if Path(path).is_dir():
                raise CheckpointError(
                    f"{path} is in shards, which only a strategy with shards goes on from: add strategy=fsdp2, with "
                    "trainer.devices=1 for one process"
                )
            raise CheckpointError(f"{path} holds weights alone, without what it takes to go on training them")
        return checkpoint
