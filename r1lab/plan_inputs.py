"""What a plan reads of a run's config and its data: models' shapes and dtypes, the lengths of prompts and documents."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from r1lab.build import build_task, make, make_documents
from r1lab.data.documents import in_microbatches
from r1lab.dtype import dtype_of
from r1lab.model.folder import FolderError, check_architecture, read_config
from r1lab.model.policy import NAMED, model_folder
from r1lab.model.smollm2 import find_gguf
from r1lab.module.checkpoint import checkpoint_file, load_state, read_checkpoint
from r1lab.module.dry_run import Microbatch
from r1lab.rollout.collate import microbatches
from r1lab.task.protocol import Task

ASSUMED_PROMPT = 512  # tokens, where no tokenizer is at hand
LOOKED_AT = 256  # prompts, for the longest
MOST_DOCUMENTS = 1024  # that are looked at


def weight_dtype(name: str, precision: str) -> torch.dtype:
    """Of the weights: with a precision such as bf16-true the trainer's, else the model's own."""
    kinds = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
    return kinds.get(precision) or dtype_of(name, "model.policy.dtype")


def transformers_config(policy: Mapping[str, Any]) -> PreTrainedConfig:
    """Of a `model.policy` of the config: its own `config`, or that of the folder that it names.

    Raises ValueError where there is no config.json to read.
    """
    if policy.get("config") and not policy.get("name"):
        own = dict(policy["config"])
        return AutoConfig.for_model(own.pop("model_type"), **own)
    return folder_config(policy["name"])


def folder_config(name: str) -> PreTrainedConfig:
    if name == "smollm2":
        gguf = find_gguf()
        return AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    place = model_folder(name)
    try:
        config = read_config(place, f"model.name={name}", local_files_only=True)
        check_architecture(AutoModelForCausalLM, config, f"model.name={name}")
    except FolderError as error:
        if Path(place).is_dir():
            raise
        raise ValueError(
            f"model.name={name}: its config.json is needed, and is neither in such a folder nor in the hub's cache: "
            f"`hf download {name} config.json` fetches it alone ({' '.join(str(error).split())[:120]})"
        ) from None
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of the weights on disk; training has them in its own dtype
    return config


def teacher_config(name: str, dtype: str | None) -> tuple[PreTrainedConfig, torch.dtype]:
    """Of a checkpoint, a run folder or a Hugging Face folder: the config and the dtype of its weights."""
    file = None if name in NAMED else checkpoint_file(name)
    if file is None:
        return folder_config(name), dtype_of(dtype or "float32", "module.teacher.dtype")
    checkpoint = read_checkpoint(file)
    own = next(x.dtype for key, x in checkpoint["state_dict"].items() if key.startswith("policy."))
    packed = load_state(checkpoint)["model"]["config"]
    return AutoConfig.for_model(**packed), dtype_of(dtype, "module.teacher.dtype") if dtype else own


def documents_of(config: Mapping[str, Any]) -> list[tuple[int, int]] | None:
    """Tokens of the first documents of supervised data, and how many of them count; None where they are not at hand."""
    data, own = config["data"], config["model"]["tokenizer"]
    if not data["_target_"].endswith("DocumentData"):
        return None
    try:
        tokenizer = make(own)
        documents = make_documents(data["documents"], build_task(config, tokenizer))
    except (OSError, ValueError):
        return None
    (batch,) = in_microbatches(documents, range(min(data["batch_size"], MOST_DOCUMENTS)), tokenizer, 0, False)
    return [(int(n), int(m)) for n, m in zip((batch.sequences >= 0).sum(1), batch.completion_mask.sum(1), strict=True)]


def largest_of(documents: Sequence[tuple[int, int]], rows: int, tokens: int) -> Microbatch:
    """The one with most tokens, padding included, of so many documents in microbatches of at most so many tokens."""
    own = [documents[i % len(documents)] for i in range(rows)]
    parts = microbatches([length for length, _ in own], tokens)
    found = [
        Microbatch(len(part), max(own[i][0] for i in part), sum(own[i][1] for i in part)) for part in parts if part
    ]
    return max(found, key=lambda part: part.rows * part.width)


def longest_prompt(config: Mapping[str, Any], given: int | None) -> tuple[int, bool]:
    """Tokens of the longest of the task's first prompts, and whether they are only assumed."""
    if given is not None:
        return given, False
    own = config["model"]["tokenizer"]
    name = own.get("name")
    if own["_target_"].endswith("load_tokenizer") and name not in NAMED and not Path(str(name)).expanduser().is_dir():
        return ASSUMED_PROMPT, True
    task: Task = build_task(config, make(own))
    return max(len(task.sample("train", i).ids) for i in range(LOOKED_AT)), False
