"""Whether a model's hidden states of a row depend on what else is in the batch: padded on the right, or packed."""

from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from r1lab.model.attention import packed_arguments
from r1lab.model.probe import (
    EXACT_HIDDEN,
    ROUNDED_BESIDE,
    ROUNDED_HIDDEN,
    disagreement,
    once,
    probe_rows,
    relative,
    rounds,
)


def check_rows(
    body: PreTrainedModel, packed: bool, *, sharded: bool = False, device: torch.device | None = None
) -> None:
    """Compare three rows of unequal length in one batch with each row alone.

    Args:
        body: a model without its head. packed: whether the rows lie behind one another in one row (`padding_free`), or
            are padded on the right. sharded: see `r1lab.model.probe.once`. device: where it computes; None: where
            its weights are.

    Raises:
        ValueError: for an architecture whose hidden states differ by more than rounding.
    """
    once(body, ("rows", packed), partial(_compare, body, packed, device), sharded=sharded)


def _compare(body: PreTrainedModel, packed: bool, device: torch.device | None) -> None:
    try:
        rows, device = probe_rows(body), device or body.get_input_embeddings().weight.device
        together_of = _packed if packed else _padded
        # The question is the architecture's, and float32 weights answer it without rounding.
        with torch.autocast(device.type, enabled=False):
            alone = [_hidden(body, [row], device)[0] for row in rows]
            noise = relative(_hidden(body, [rows[2]] * 3, device)[0], alone[2])
            together = together_of(body, rows, device)
            others = [row[::-1] for row in rows[:2]]
            beside = relative(together_of(body, [*others, rows[2]], device)[2], together[2])
            rounded = rounds(body, device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise _rejected(body, packed, reason, "take a model of another architecture") from error
    differences = [relative(*pair) for pair in zip(together, alone, strict=True)]
    off = disagreement(differences, noise, rounded, EXACT_HIDDEN, ROUNDED_HIDDEN)
    if off is not None:
        reason = f"hidden states differ by {off:.1e} of their norm from those of each row alone"
        raise _rejected(body, packed, reason)
    if rounded and float(beside.mean()) > ROUNDED_BESIDE:
        raise _rejected(
            body, packed, f"hidden states change by {float(beside.mean()):.1e} of their norm with other rows"
        )


def _padded(body: nn.Module, rows: list[list[int]], device: torch.device) -> list[Tensor]:
    longest, pad = max(map(len, rows)), getattr(body.config.get_text_config(), "pad_token_id", None)
    together = _hidden(body, [row + [row[0] if pad is None else pad] * (longest - len(row)) for row in rows], device)
    return [hidden[: len(row)] for hidden, row in zip(together, rows, strict=True)]


def _packed(body: nn.Module, rows: list[list[int]], device: torch.device) -> list[Tensor]:
    places = [place for row in rows for place in range(len(row))]
    return list(_hidden(body, [sum(rows, [])], device, places)[0].split([len(row) for row in rows]))


def _hidden(body: nn.Module, ids: list[list[int]], device: torch.device, places: list[int] | None = None) -> Tensor:
    places = None if places is None else torch.tensor([places], device=device)
    options = packed_arguments(body.config, places)
    return body(input_ids=torch.tensor(ids, device=device), use_cache=False, **options).last_hidden_state


_CAUSAL = "take a causal language model, whose tokens see only what is before them"


def _rejected(body: nn.Module, packed: bool, reason: str, remedy: str = _CAUSAL) -> ValueError:
    name = type(body).__name__
    if packed:
        return ValueError(
            f"module.padding_free=true: {name} cannot compute packed sequences ({reason}); set it to false"
        )
    return ValueError(f"{name} cannot compute sequences padded on the right ({reason}); {remedy}")
