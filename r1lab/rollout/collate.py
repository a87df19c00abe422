"""From ragged rows to tensors for the update: microbatches by a budget of tokens, completions beside prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows ready for one forward pass: padded on the right, so that causal attention needs no mask; or packed, behind
    one another in a single row without padding, so that nothing but tokens is computed.

    input_ids: int64 [B,S+T], prompt and completion side by side; packed [1,N].
    completion_ids: int64 [B,T].
    completion_mask: bool [B,T], True where a token counts in the loss.
    positions: int64 [B,T], the column of `input_ids` whose hidden state predicts the completion's token.
    sequences: int64 as `input_ids`, the number of the row that each token is of, -1 where it is padding.
    position_ids: packed: int64 [1,N], the place of each token in its own row; padded: None, as they are the columns.
    experts: int64 [...,L,K] over `input_ids`, those that a mixture of experts is to route to; -1: it chooses. None:
        it chooses everywhere.
    """

    input_ids: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    positions: Tensor
    sequences: Tensor
    position_ids: Tensor | None = None
    experts: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        tensors = (getattr(self, field.name) for field in fields(self))
        return Batch(*(tensor if tensor is None else tensor.to(device) for tensor in tensors))


def collate(
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    pad_id: int,
    experts: Sequence[Tensor] | None = None,
    *,
    packed: bool = False,
) -> Batch:
    """Rows of prompt and completion ids as one `Batch`, padded or packed.

    experts: [S+T-1,L,K] a row, of all but its last token.

    Raises ValueError where there is no pad token.
    """
    if pad_id is None:
        raise ValueError("the tokenizer has no pad_token to fill rows with: set its pad_token, or its eos_token")
    rows = [[*prompt, *completion] for prompt, completion in zip(prompt_ids, completion_ids, strict=True)]
    length = max(map(len, completion_ids))
    starts = torch.tensor([[len(prompt)] for prompt in prompt_ids])
    lengths = torch.tensor([[len(completion)] for completion in completion_ids])
    columns = torch.arange(length)[None, :]
    completions = {
        "completion_ids": torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in completion_ids]),
        "completion_mask": (columns < lengths),
    }
    if packed:
        ends = list(accumulate(map(len, rows)))
        before = torch.tensor([[end - len(row)] for end, row in zip(ends, rows, strict=True)])
        sequences = torch.tensor([[i for i, row in enumerate(rows) for _ in row]])
        return Batch(
            input_ids=torch.tensor([[token for row in rows for token in row]]),
            positions=(before + starts - 1 + columns).clamp(max=ends[-1] - 1),
            sequences=sequences,
            position_ids=torch.tensor([[place for row in rows for place in range(len(row))]]),
            experts=None if experts is None else _beside(sequences, experts),
            **completions,
        )
    width = max(map(len, rows))
    sequences = torch.tensor([[i] * len(row) + [-1] * (width - len(row)) for i, row in enumerate(rows)])
    return Batch(
        input_ids=torch.tensor([row + [pad_id] * (width - len(row)) for row in rows]),
        positions=(starts - 1 + columns).clamp(max=width - 1),
        sequences=sequences,
        experts=None if experts is None else _beside(sequences, experts),
        **completions,
    )


def _beside(sequences: Tensor, experts: Sequence[Tensor]) -> Tensor:
    """[...,L,K] over the tokens of rows [S+T-1,L,K]."""
    out = torch.full((*sequences.shape, *experts[0].shape[1:]), -1)
    rows = [torch.nn.functional.pad(row, (0, 0, 0, 0, 0, 1), value=-1) for row in experts]
    out[sequences >= 0] = torch.cat(rows).long()
    return out


def microbatches(lengths: Sequence[int], max_tokens: int, *, packed: bool = False) -> list[list[int]]:
    """Split row numbers into microbatches of at most `max_tokens` tokens each (0: all rows in one), padding included;
    packed rows have none.

    Rows of like length come together, longest first: the least padding, and a set-up that runs out of memory
    does so at once. A single row may exceed the budget.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    parts: list[list[int]] = []
    held = 0  # tokens of the last part
    for i in order:
        size = lengths[i] if packed or not parts else lengths[parts[-1][0]]
        if parts and (not max_tokens or held + size <= max_tokens):
            parts[-1].append(i)
            held += size
        else:
            parts.append([i])
            held = lengths[i]
    return parts
