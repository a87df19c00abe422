"""Attention over rows that are packed behind one another in one, for transformers under the names `varlen` and `flex`.

A packed row is known by position ids that begin anew with each sequence in it; a token sees what is before it in its
own sequence. transformers' `sdpa` and `eager` compute such a row with a dense mask, whose cost grows with the square of
the whole row; these two compute the pairs that are seen:

    varlen   torch's variable-length flash attention (`torch.nn.attention.varlen`) on a CUDA GPU in half precision;
             elsewhere sdpa over the sequences, set apart again, so that attention alone is padded
    flex     torch's flex attention, compiled, with a mask of blocks; on a CUDA GPU, as it has no backward on a CPU

All else is sdpa: padded rows, sliding windows, sampling with a key-value cache and padding on the left. So a model is
trained and sampled from under one setting, and flex compiles nothing for the lengths of a growing cache. cuDNN's
attention, which torch takes for rows with a mask, is left out: it makes a plan for every shape it has not met, and in a
rollout nearly every pass is one, as the cache grows and rows finish (GRPO of 2.15 billion parameters on an H200 is 1.4
times as fast without it: README, Several GPUs).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flex_attention_mask, sdpa_mask

_LARGEST_HEAD = 256  # of torch's flash attention


class Packing(NamedTuple):
    """The sequences of a packed row of N tokens, in the place of a mask.

    starts: int32 [B+1], where each begins, and N. longest: tokens, L. places: int64 [N], the place of each token where
    the sequences lie apart, [B*L].
    """

    starts: Tensor
    longest: int
    places: Tensor


def packing(starts: Tensor) -> Packing:
    """The packing of sequences that begin at `starts`, int [B+1], its last entry N."""
    lengths = starts.diff()
    longest = int(lengths.max())
    tokens = torch.arange(longest, device=starts.device)
    apart = torch.arange(len(lengths), device=starts.device)[:, None] * longest + tokens
    return Packing(starts.int(), longest, apart[tokens < lengths[:, None]])


def mask_of(packed: str, **asked: Any) -> Tensor | Packing | BlockMask | None:
    """What transformers hands to each layer as the mask, made once a forward pass from what it asks (`sdpa_mask`)."""
    # Packed is what cannot be left to `is_causal` for no other reason.
    is_packed = (
        asked["batch_size"] == 1
        and not asked.get("allow_is_causal_skip", True)
        and asked.get("attention_mask") is None
        and asked.get("local_size") is None
        and not asked.get("use_vmap", False)
        and asked["q_length"] == asked["kv_length"]
    )
    if not is_packed:
        return sdpa_mask(**asked)
    if packed == "flex":
        return flex_attention_mask(**asked)
    # A sequence begins where a token does not see the one before it.
    tokens = torch.arange(asked["q_length"], device=asked["device"])
    sees = asked["mask_function"](tokens.new_zeros(()), tokens.new_zeros(()), tokens[1:], tokens[:-1])
    begins = (~sees).nonzero()[:, 0] + 1
    if not len(begins):  # one sequence: the model itself asked for a mask to compute with (Doge)
        return sdpa_mask(**asked)
    begins = nn.functional.pad(begins, (1, 1))
    begins[-1] = len(tokens)
    return packing(begins)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Packing | BlockMask | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """query [B,h,S,d], key [B,h',S',d], value [B,h',S',d'] -> [B,S,h,d'], as transformers' own; the mask says how."""
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, **options)
    if not isinstance(attention_mask, Packing):
        with _without_cudnn():
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    device = query.device.type
    # Queries and keys come in float32 from a rotation under autocast, which knows of sdpa and not of this kernel.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    if _kernel_takes(query, value, dtype, options):
        return _varlen(query, key, value, attention_mask, dtype, options.get("scaling")), None
    apart = (_apart(x, attention_mask) for x in (query, key, value))
    with _without_cudnn():
        out, _ = sdpa_attention_forward(module, *apart, None, **options)
    return out.flatten(0, 1)[attention_mask.places][None], None


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """Torch chooses in the forward pass; backward follows. The flag is the process's, so it is put back each time."""
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(allowed)


def _apart(x: Tensor, packed: Packing) -> Tensor:
    """[1,h,N,d] -> [B,h,L,d], zeros behind the shorter sequences."""
    count, (_, heads, _, width) = len(packed.starts) - 1, x.shape
    grid = x.new_zeros(count * packed.longest, heads, width).index_copy(0, packed.places, x[0].transpose(0, 1))
    return grid.view(count, packed.longest, heads, width).transpose(1, 2)


def _varlen(query: Tensor, key: Tensor, value: Tensor, packed: Packing, dtype: torch.dtype, scale: float | None):
    """[1,h,N,d], [1,h',N,d], [1,h',N,d'] -> [1,N,h,d']. The kernel knows one width, a multiple of 8: zeros fill it."""
    width = -(-max(query.shape[-1], value.shape[-1]) // 8) * 8
    q, k, v = (nn.functional.pad(x[0].transpose(0, 1), (0, width - x.shape[-1])).to(dtype) for x in (query, key, value))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    lengths = packed.starts, packed.starts, packed.longest, packed.longest
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return varlen_attn(q, k, v, *lengths, scale=scale, window_size=(-1, 0))[None, ..., : value.shape[-1]]


def _kernel_takes(query: Tensor, value: Tensor, dtype: torch.dtype, options: dict[str, Any]) -> bool:
    return (
        query.is_cuda
        and dtype in (torch.float16, torch.bfloat16)
        and max(query.shape[-1], value.shape[-1]) <= _LARGEST_HEAD
        and not options.get("dropout")
        and options.get("softcap") is None
        and options.get("position_bias") is None
        and _has_flash(query.device.index)
    )


@cache
def _has_flash(index: int) -> bool:
    """Whether torch's flash attention was built, and runs on this GPU: from Ampere on."""
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(index) >= (8, 0)


for _name in ("varlen", "flex"):
    AttentionInterface.register(_name, attention)
    AttentionMaskInterface.register(_name, partial(mask_of, _name))
