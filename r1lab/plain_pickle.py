"""Verify that torch loads a file without running code (`weights_only=True`), or report the types that prevent it."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Types that load safely if what they hold does, or that hold nothing.
_SAFE = (dict, list, tuple, Tensor, bool, float, str, type(None))
_PLAIN = (bool, float, str, type(None))  # and integers, as long as they are of 64 bits


def refuse_unsafe(value: Any, place: str, remedy: str) -> None:
    """Raise ValueError where torch would not load a value that it saved; `remedy` ends the message."""
    if not is_plain(value) and not loads_safely(value):
        raise ValueError(
            f"{unsafe_part(value, place) or place} cannot be stored in a checkpoint, which must load without running "
            f"code: {remedy}"
        )


def is_plain(value: Any) -> bool:
    """Whether a value is plain data of known types, which load safely; False also where only `loads_safely` tells."""
    if type(value) is dict:
        return is_plain(list(value)) and is_plain(list(value.values()))
    if type(value) in (list, tuple):
        kinds = set(map(type, value))
        if kinds == {int}:  # token ids: no look at each
            return is_plain(min(value)) and is_plain(max(value))
        return all(map(is_plain, value))
    return type(value) in _PLAIN or (type(value) is int and value.bit_length() < 64)


def verify(file: Path, content: Any) -> None:
    """Load a file that `content` was saved to. Raises ValueError, with the part of the content that does not load."""
    try:
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises what its parsers come upon
        part = unsafe_part(content, "checkpoint") or " ".join(str(error).split())[:200]
        raise ValueError(
            f"the checkpoint was not written, because it would not load again: it must hold plain data and tensors, "
            f"and holds {part}; make that a number or text"
        ) from error


def loads_safely(value: Any) -> bool:
    """Whether torch loads a value with `weights_only=True` that it saved."""
    torch.save(value, file := io.BytesIO())
    file.seek(0)
    try:
        torch.load(file, weights_only=True)
    except Exception:
        return False
    return True


def unsafe_part(value: Any, place: str) -> str | None:
    """The innermost part that does not load safely, as `place.key[3] (module.Type)`; None: there is none."""
    for name, item in _items(value, place):
        if part := unsafe_part(item, name):
            return part
    if type(value) in _SAFE or loads_safely(value):
        return None
    return f"{place} ({type(value).__module__}.{type(value).__qualname__})"


def _items(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield f"a key of {place}", key
            yield f"{place}.{key}", item
    elif isinstance(value, (list, tuple)):
        yield from ((f"{place}[{i}]", item) for i, item in enumerate(value))


def unsafe_types(file: Path) -> list[str]:
    """Names of what a file of torch's asks for and `weights_only=True` rejects; none of a file that is damaged."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # torch raises what its parsers come upon
        return []
