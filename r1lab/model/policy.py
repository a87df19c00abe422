"""The policy: any causal language model of transformers, from a folder, the hub, or a fresh config."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from r1lab.model.attention import check_attention, use_attention
from r1lab.model.smollm2 import smollm2_folder

SHIPPED = Path(__file__).parent
NAMED = ("tiny", "tiny_bilingual", "smollm2")  # what `model_folder` knows by name


def model_folder(name: str) -> str:
    """Where a model lies: the tiny ones are shipped, `smollm2` unpacked from its package, others folders or hub ids.

    Raises:
        FileNotFoundError: for what looks like a folder and is none.
    """
    if name in ("tiny", "tiny_bilingual"):
        return str(SHIPPED / f"{name}_base")
    if name == "smollm2":
        return str(smollm2_folder())
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise FileNotFoundError(f"model.name={name}: there is no such folder")
    return str(Path(name).expanduser())


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, with a pad token (the end-of-sequence token where it has none).

    Padding is told apart by length and never by id, so that the two may be the same.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder(name))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(name: str, *, dtype: str, attention: str | None = None, experts: str | None = None) -> PreTrainedModel:
    """Pretrained weights of a folder or hub id in `dtype` (`float32`, `bfloat16`, ...).

    `attention` (see `r1lab.model.attention`) and `experts` choose implementations; None leaves the model's own choice.

    Raises ValueError or ImportError for an attention that is unknown, or that machine or model do not have.
    """
    check_attention(attention, getattr(torch, dtype))
    model = AutoModelForCausalLM.from_pretrained(model_folder(name), dtype=getattr(torch, dtype))
    return _implemented(model, attention, experts)


def new_policy(
    config: dict[str, Any], *, seed: int, attention: str | None = None, experts: str | None = None, **_: Any
) -> PreTrainedModel:
    """Untrained float32 weights of a transformers config, given as a dict with its `model_type`.

    What `load_policy` takes beside `attention` and `experts` is ignored.
    """
    config = dict(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    return _implemented(model, attention, experts)


def new_or_loaded(config: dict[str, Any], *, name: str | None, seed: int, **options: Any) -> PreTrainedModel:
    """`new_policy` of the config where `name` is None, else `load_policy` of that folder or hub id.

    So a base is trained and then trained on under one config: with `model.name` it is the one that lies there.
    """
    if name is None:
        return new_policy(config, seed=seed, **options)
    return load_policy(name, **options)


def _implemented(model: PreTrainedModel, attention: str | None, experts: str | None) -> PreTrainedModel:
    use_attention(model, attention)
    if experts:
        model.set_experts_implementation(experts)
    # Dropout and the like stay off: the policy that is trained must be the one that sampled.
    return model.eval()


def pack_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The tokenizer as {file name: text}: what a self-contained checkpoint holds."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {file.name: file.read_text() for file in sorted(Path(folder).iterdir()) if file.is_file()}


def unpack_tokenizer(files: dict[str, str]) -> PreTrainedTokenizerBase:
    """The inverse of `pack_tokenizer`."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
        return AutoTokenizer.from_pretrained(folder)


def pack_model(model: PreTrainedModel) -> dict[str, Any]:
    """All of a model but its weights as plain data; `rebuild` makes a model of both.

    config: with its `model_type`. generation: what ends a completion, above all. attention, experts: the
    implementations in use, which transformers leaves out of the config.
    """
    return {
        "config": json.loads(model.config.to_json_string(use_diff=False)),
        "generation": json.loads(model.generation_config.to_json_string(use_diff=False)),
        "attention": getattr(model.config, "_attn_implementation", None),
        "experts": getattr(model.config, "_experts_implementation", None),
    }


def rebuild(packed: dict[str, Any], weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A model from `pack_model` and its state dict, in the dtype of the weights.

    An attention that this machine lacks gives way to transformers' own choice.
    """
    dtype = next(w.dtype for w in weights.values() if w.is_floating_point())

    def make(**options: Any) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**packed["config"]), dtype=dtype, **options)

    try:
        model = make(attn_implementation=packed["attention"])
    except ImportError:
        model = make()
    model.generation_config = GenerationConfig.from_dict(packed["generation"])
    model.load_state_dict(weights)
    return _implemented(model, None, packed["experts"])
