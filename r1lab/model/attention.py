"""Which attention a model computes with: names of `model.attention` against what the machine and the model can do."""

from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids
from transformers.utils import is_flash_attn_2_available, is_flash_attn_4_available, is_torch_flex_attn_available

import r1lab.model.packed_attention  # noqa: F401  registers varlen and flex
from r1lab.packages import needed

# name: its package, whether transformers finds that, and the least major compute capability of a GPU for it
FLASH = {
    "flash_attention_4": ("flash-attn-4", is_flash_attn_4_available, 9),
    "flash_attention_2": ("flash-attn", is_flash_attn_2_available, 8),
}
_OTHER = "reinstall it, or set model.attention=auto"
FLEX_WIDTH = 16  # of the narrowest head that torch's flex attention compiles for
NAMES = ("auto", "sdpa", "eager", *reversed(FLASH), "flex", "varlen")


def use_attention(model: PreTrainedModel, name: str | None) -> None:
    """Set the attention of a model: one of `NAMES`; None leaves its own.

    auto: the flash attention that is installed and fits, else varlen, which is sdpa but for packed rows; a model that
    has no sdpa keeps its own.

    Raises:
        ValueError: for an unknown name, or what this machine or model cannot do.
        ImportError: for a package that is not installed.
    """
    if name is None:
        return
    check_attention(name, model.dtype)
    if name == "auto":
        own = model.config._attn_implementation
        packed = "varlen" if own == "sdpa" and not _unfit("varlen", model) else own
        fits = (flash for flash in FLASH if not _lacking(flash, model.dtype) and not _unfit(flash, model))
        name = next(fits, packed)
    elif reason := _unfit(name, model):
        raise ValueError(f"model.attention={name}: {reason}")
    # transformers imports flash attention here.
    imports = needed(f"model.attention={name}", FLASH[name][0], _OTHER) if name in FLASH else nullcontext()
    with imports:
        model.set_attn_implementation(name)


def check_attention(name: str | None, dtype: torch.dtype) -> None:
    """Raise what `use_attention` would that can be known before a model with weights of `dtype` is loaded."""
    if name is None or name == "auto":
        return
    if name not in NAMES:
        raise ValueError(f"model.attention={name!r} is not one of {', '.join(NAMES)}")
    if reason := _lacking(name, dtype):
        kind = ImportError if "package" in reason else ValueError
        raise kind(f"model.attention={name}: {reason}")


def head_sizes(config: PreTrainedConfig) -> tuple[int, int]:
    """Widths of a head's keys and of its values; they differ in latent attention (DeepSeek-V3: 192 and 128)."""
    config = config.get_text_config()
    if hasattr(config, "kv_lora_rank"):
        return config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width, width


def packed_arguments(config: PreTrainedConfig, position_ids: Tensor | None) -> dict[str, Tensor | int]:
    """What a model's body is called with beside the ids of a packed row, by its position ids int64 [1,N]; None: padded.

    Flash attention would look for the sequences in every layer; it is told where they begin.
    """
    if position_ids is None:
        return {}
    if config._attn_implementation not in FLASH:
        return {"position_ids": position_ids}
    (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(position_ids)
    lengths = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": int(longest)}
    return {"position_ids": position_ids, **lengths, "max_length_k": lengths["max_length_q"]}


def _lacking(name: str, dtype: torch.dtype) -> str | None:
    """What keeps this machine from an attention over weights of `dtype`, and what to change; None: nothing."""
    if name not in FLASH and name != "flex":
        return None
    if not torch.cuda.is_available():
        return "it needs a CUDA GPU, and there is none; set model.attention=auto"
    if name == "flex":
        return None if is_torch_flex_attn_available() else "this torch has no flex attention; set model.attention=auto"
    package, is_available, major = FLASH[name]
    if torch.cuda.get_device_capability()[0] < major:
        return f"it needs a GPU of compute capability {major}.0 or later; set model.attention=auto"
    if not is_available():
        return f"its package is not installed; pip install {package}, or set model.attention=auto"
    if dtype not in (torch.float16, torch.bfloat16):
        # Such weights hardly train, so they are no remedy; adapters train on a base that has them.
        named = str(dtype).removeprefix("torch.")
        return (
            f"it needs weights in half precision, not {named}; set model.attention=auto, which computes in bfloat16 "
            "under trainer.precision=bf16-mixed"
        )
    return None


def _unfit(name: str, model: PreTrainedModel) -> str | None:
    """What keeps a model from an attention, and what to change; None: nothing."""
    supports = {
        "sdpa": model._supports_sdpa,
        "varlen": model._supports_sdpa and model._supports_attention_backend,
        "flex": model._supports_flex_attn and model._supports_sdpa and model._supports_attention_backend,
        **dict.fromkeys(FLASH, model._supports_flash_attn),
    }
    if not supports.get(name, True):
        return f"{type(model).__name__} does not have it; set model.attention=auto or eager"
    # transformers pads values to the width of keys.
    if name in FLASH and not _takes_width(name, width := max(head_sizes(model.config))):
        return f"it does not take heads of width {width} on this GPU; set model.attention=auto"
    if name == "flex" and (width := min(head_sizes(model.config))) < FLEX_WIDTH:
        return f"it does not take heads of width {width}, below {FLEX_WIDTH}; set model.attention=auto"
    return None


def _takes_width(name: str, width: int) -> bool:
    if name == "flash_attention_2":
        return width <= 256
    # flash-attn-4 4.0.0b36, `_validate_head_dims`: Hopper, and what came after it
    hopper = torch.cuda.get_device_capability()[0] == 9
    return width % 8 == 0 and (8 <= width <= (256 if hopper else 128) or width == 256)
