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
from transformers.modeling_layers import GradientCheckpointingLayer

from r1lab.dtype import dtype_of
from r1lab.model.adapter import adapter_settings, merged, with_adapters
from r1lab.model.attention import check_attention, use_attention
from r1lab.model.folder import FolderError, read_model, read_tokenizer
from r1lab.model.moe import cast
from r1lab.model.smollm2 import smollm2_folder
from r1lab.model.tokenizer import with_padding

SHIPPED = Path(__file__).parent
NAMED = ("tiny", "tiny_bilingual", "smollm2")  # what `model_folder` knows by name


def model_folder(name: str) -> str:
    """Where a model lies: the tiny ones are shipped, `smollm2` unpacked from its package, others folders or hub ids.

    Raises:
        FileNotFoundError: for what looks like a folder and is none. FolderError: for a file or nothing.
    """
    if name in ("tiny", "tiny_bilingual"):
        return str(SHIPPED / f"{name}_base")
    if name == "smollm2":
        return str(smollm2_folder())
    if not name:
        raise FolderError("model.name is empty: give a folder, or a hub id")
    if Path(name).expanduser().is_file():
        raise FolderError(
            f"model.name={name} is a file: give a model folder; python -m r1lab.export {name} OUT writes that of a "
            "checkpoint"
        )
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise FileNotFoundError(f"model.name={name}: there is no such folder")
    return str(Path(name).expanduser())


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, with a pad token: see `with_padding`."""
    return with_padding(read_tokenizer(model_folder(name), f"model.name={name}"), f"model.name={name}")


def load_policy(
    name: str,
    *,
    dtype: str,
    attention: str | None = None,
    experts: str | None = None,
    activation_checkpointing: bool = False,
) -> PreTrainedModel:
    """Pretrained weights of a folder or hub id in `dtype` (`float32`, `bfloat16`, ...).

    `attention` (see `r1lab.model.attention`) and `experts` choose implementations; None leaves the model's own choice.
    For `activation_checkpointing` see `checkpoint_activations`.

    Raises ValueError for what is no dtype of weights; ValueError or ImportError for an attention that is unknown, or
    that machine or model do not have.
    """
    kind = dtype_of(dtype, "model.policy.dtype")
    check_attention(attention, kind)
    model = read_model(AutoModelForCausalLM, model_folder(name), f"model.name={name}", dtype=kind)
    return _implemented(model, attention, experts, activation_checkpointing)


def new_policy(
    config: dict[str, Any],
    *,
    seed: int,
    attention: str | None = None,
    experts: str | None = None,
    activation_checkpointing: bool = False,
    **_: Any,
) -> PreTrainedModel:
    """Untrained float32 weights of a transformers config, given as a dict with its `model_type`.

    What `load_policy` takes beside that is ignored.
    """
    config = dict(config)
    check_experts(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    return _implemented(model, attention, experts, activation_checkpointing)


def check_experts(config: dict[str, Any]) -> None:
    """Raise ValueError for a mixture of experts in groups that DeepSeek-V3's router cannot choose from."""
    if config.get("n_group") is None or config.get("n_routed_experts") is None:
        return
    experts, groups, chosen, top_k = (
        config.get(name, default)
        for name, default in (("n_routed_experts", 0), ("n_group", 1), ("topk_group", 1), ("num_experts_per_tok", 1))
    )
    where = "model.policy.config"
    if experts % groups:
        raise ValueError(f"{where}.n_routed_experts={experts} does not divide into {where}.n_group={groups} groups")
    size = experts // groups
    if size < 2:
        raise ValueError(f"{where}.n_group={groups} leaves {size} expert a group, and groups are told by two: lower it")
    if not 1 <= chosen <= groups:
        raise ValueError(f"{where}.topk_group={chosen} must be from 1 to n_group={groups}")
    if not 1 <= top_k <= chosen * size:
        raise ValueError(
            f"{where}.num_experts_per_tok={top_k} must be from 1 to the {chosen * size} experts of "
            f"topk_group={chosen} groups of {size}"
        )


def new_or_loaded(config: dict[str, Any], *, name: str | None, seed: int, **options: Any) -> PreTrainedModel:
    """`new_policy` of the config where `name` is None, else `load_policy` of that folder or hub id.

    So a base is trained and then trained on under one config: with `model.name` it is the one that lies there.
    """
    if name is None:
        return new_policy(config, seed=seed, **options)
    return load_policy(name, **options)


def _implemented(
    model: PreTrainedModel, attention: str | None, experts: str | None, activation_checkpointing: bool = False
) -> PreTrainedModel:
    use_attention(model, attention)
    if experts:
        model.set_experts_implementation(experts)
    # Dropout and the like stay off: the policy that is trained must be the one that sampled.
    model.eval()
    if activation_checkpointing:
        checkpoint_activations(model)
    return model


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep each layer's input alone for the backward pass, which computes the rest again."""
    # transformers 5.23 renames it.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # Layers do so in training mode; what is in them (dropout) stays in the other.
            layer.training = True


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
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def pack_model(model: PreTrainedModel) -> dict[str, Any]:
    """All of a model but its weights as plain data; `rebuild` makes a model of both.

    config: with its `model_type`. generation: what ends a completion, above all. attention, experts: the
    implementations in use, which transformers leaves out of the config. adapter: what adapters were made with, or None.
    """
    return {
        "config": json.loads(model.config.to_json_string(use_diff=False)),
        "generation": json.loads(model.generation_config.to_json_string(use_diff=False)),
        "attention": getattr(model.config, "_attn_implementation", None),
        "experts": getattr(model.config, "_experts_implementation", None),
        "adapter": adapter_settings(model),
    }


def rebuild(packed: dict[str, Any], weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A model from `pack_model` and its state dict, in the dtype of the weights; adapters are merged into them.

    An attention that this machine lacks gives way to transformers' own choice. A model with adapters is at least in
    float32: 16 bits would round away most of what the adapters add to a weight.
    """
    dtype = next(w.dtype for w in weights.values() if w.is_floating_point())
    if packed.get("adapter"):
        dtype = torch.promote_types(dtype, torch.float32)

    def make(**options: Any) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**packed["config"]), dtype=dtype, **options)

    try:
        model = make(attn_implementation=packed["attention"])
    except ImportError:
        model = make()
    model.generation_config = GenerationConfig.from_dict(packed["generation"])
    adapter = packed.get("adapter")
    if adapter:
        with_adapters(model, **adapter)
    cast(model, dtype).load_state_dict(weights)
    return _implemented(merged(model) if adapter else model, None, packed["experts"])
