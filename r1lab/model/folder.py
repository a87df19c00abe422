"""Reading a model folder of transformers: weights, config or tokenizer, without running code that it brings.

A folder that cannot be read is rejected with its place, what is wrong with it and one remedy.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils import logging as transformers_logging

log = logging.getLogger("r1lab.model")

_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZER = ("*token*.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
_SHOWN = 160  # characters of an error of transformers


class FolderError(ValueError):
    """A model folder that is missing, incomplete, damaged or of an unknown architecture."""


@contextmanager
def as_setting(setting: str) -> Iterator[None]:
    """Inside, errors of a folder name this setting in place of `model.name`."""
    try:
        yield
    except FolderError as error:
        raise FolderError(str(error).replace("model.name=", f"{setting}=", 1)) from error


def read_model(kind: Any, place: str, told: str, **options: Any) -> PreTrainedModel:
    """Pretrained weights, each of which the folder holds in the shape that its config asks for.

    Args:
        kind: `AutoModelForCausalLM` or another class of the kind. place: a folder, or a hub id. told: the setting and
            its value, for errors.

    Raises FolderError.
    """
    config = read_config(place, told)
    check_architecture(kind, config, told)
    if Path(place).is_dir():
        _check_weights(Path(place), told)
    with _rejected(place, told, "weights"), _quiet():
        model, info = kind.from_pretrained(
            place, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    wrong = [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
    for keys, what in ((info["missing_keys"], "are not in its weights"), (wrong, "have another shape in its weights")):
        if keys:
            raise FolderError(
                f"{told}: {_some(keys)} {what}, and would start at random: give the folder of a whole "
                f"{type(model).__name__}, whose config.json belongs to its weights"
            )
    if info["unexpected_keys"]:
        log.warning(f"{told}: {type(model).__name__} has no place for {_some(info['unexpected_keys'])}; left out")
    return model


def check_architecture(kind: Any, config: PreTrainedConfig, told: str) -> None:
    """Raise FolderError where `kind`, such as `AutoModelForCausalLM`, has no model of the config."""
    if type(config) not in kind._model_mapping:
        raise FolderError(
            f"{told} is of the architecture {config.model_type}, which {kind.__name__} of transformers lacks: give a "
            "model that it has"
        )


def read_config(place: str, told: str, **options: Any) -> PreTrainedConfig:
    """The config of a folder or hub id. Raises FolderError."""
    if Path(place).is_dir():
        _check_config(Path(place), told)
    with _rejected(place, told, "config.json"), _quiet():
        return AutoConfig.from_pretrained(place, trust_remote_code=False, **options)


def read_tokenizer(place: str, told: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id. Raises FolderError."""
    folder = Path(place)
    if folder.is_dir():
        if (folder / "config.json").is_file():  # not needed by every tokenizer
            _check_config(folder, told)
        if not any(file for pattern in _TOKENIZER for file in folder.glob(pattern)):
            raise FolderError(
                f"{told} has no tokenizer (such as tokenizer.json): copy the tokenizer's files of its base model there"
            )
        _check_tokenizer(folder / "tokenizer_config.json", told)
    with _rejected(place, told, "tokenizer"), _quiet():
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)


def _check_config(folder: Path, told: str) -> None:
    if not os.access(folder, os.R_OK | os.X_OK):
        raise FolderError(f"{told} may not be read: change its permissions")
    if not (folder / "config.json").is_file():
        raise FolderError(f"{told}: config.json is needed and is not there; {_other_folder(folder)}")
    config = _json(folder / "config.json", told)
    model_type = config.get("model_type")
    if model_type in CONFIG_MAPPING:
        return
    if config.get("auto_map"):
        raise _needs_code(told, "config.json", config["auto_map"])
    if model_type is None:
        raise FolderError(f"{told}: config.json has no model_type: add it, as in the config.json of its base model")
    raise FolderError(
        f"{told}: config.json has model_type={model_type!r}, which transformers {transformers.__version__} does not "
        "know: install a version that does, or give another model"
    )


def _check_tokenizer(file: Path, told: str) -> None:
    """Raise FolderError for a class that transformers lacks: its older releases would read another one silently."""
    config = _json(file, told) if file.is_file() else {}
    name, auto_map = config.get("tokenizer_class"), config.get("auto_map") or {}
    if "AutoTokenizer" in auto_map and (name is None or tokenizer_class_from_name(name) is None):
        raise _needs_code(told, file.name, auto_map)


def _other_folder(folder: Path) -> str:
    """What a folder without config.json is, and what to do about that."""
    if (folder / "adapter_config.json").is_file():
        return "it holds an adapter alone; merge it into its base model (merge_and_unload of peft) and save that"
    if any((folder / place).exists() for place in ("checkpoints/last.ckpt", "last.ckpt")):
        return f"it is a run's folder; python -m r1lab.export {folder} OUT writes a model folder"
    if not any(folder.iterdir()):
        return "the folder is empty: give one that save_pretrained or `hf download` wrote"
    return "give a folder that save_pretrained or `hf download` wrote"


def _check_weights(folder: Path, told: str) -> None:
    """Whether all files of weights are there and whole, as far as their headers say."""
    for index in folder.glob("*.index.json"):
        named = set(_json(index, told).get("weight_map", {}).values())
        if absent := sorted(name for name in named if not (folder / name).is_file()):
            raise FolderError(f"{told}: {index.name} names {_some(absent)}, which are not there: copy the folder again")
    if not any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        raise FolderError(f"{told} has no weights (such as model.safetensors): copy them there, beside config.json")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            pointer = file.stat().st_size < 1024 and file.read_bytes().startswith(b"version https://git-lfs")
            reason = "is a pointer of Git LFS" if pointer else f"is damaged ({error})"
            raise FolderError(f"{told}: {file.name} {reason}: copy it again (git lfs pull, or hf download)") from error


def _json(file: Path, told: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{told}: {file.name} cannot be read ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise FolderError(f"{told}: {file.name} is not a JSON object: copy it again")
    return content


def _needs_code(told: str, file: str, auto_map: Any) -> FolderError:
    names = auto_map if isinstance(auto_map, dict) else {}
    asked = ", ".join(f"{name}: {value}" for name, value in names.items()) or "auto_map"
    return FolderError(
        f"{told}: its {file} asks for custom code ({asked}), which r1lab does not run: give a model whose "
        "architecture and tokenizer are in transformers"
    )


@contextmanager
def _rejected(place: str, told: str, what: str) -> Iterator[None]:
    """Raise FolderError for what transformers and its parsers raise inside."""
    try:
        yield
    except (ImportError, MemoryError, FolderError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
        if not Path(place).is_dir():
            raise FolderError(
                f"{told} is no folder here, and its {what} did not come from the hub ({reason}): give a folder, or "
                "check the name and the network"
            ) from error
        if "trust_remote_code" in str(error):
            auto_map = next((_json(file, told).get("auto_map") for file in _with_auto_map(Path(place))), None)
            raise _needs_code(told, what, auto_map) from error
        for name in _CONFIGS:
            if (file := Path(place, name)).is_file():
                _json(file, told)  # a better reason, if it is one of these
        raise FolderError(f"{told}: its {what} cannot be read ({reason}): copy the folder again") from error


def _with_auto_map(folder: Path) -> list[Path]:
    files = [folder / name for name in ("tokenizer_config.json", "config.json")]
    return [file for file in files if file.is_file() and "auto_map" in file.read_text(encoding="utf-8")]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the reports and progress bars of transformers: what matters in them is raised or logged here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _some(names: Any) -> str:
    """The first three names, and how many there are."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
