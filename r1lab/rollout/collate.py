"""From ragged rows to padded tensors for the update: microbatches by a budget of tokens, completions beside prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows ready for one forward pass, padded on the right, so that causal attention needs no mask.

    input_ids: int64 [B,S+T], prompt and completion side by side.
    completion_ids: int64 [B,T].
    completion_mask: bool [B,T], True where a token counts in the loss.
    positions: int64 [B,T], the column of `input_ids` whose hidden state predicts the completion's token.
    sequences: int64 [B,S+T], the number of the row that each token is of, -1 where it is padding.
    experts: int64 [B,S+T,L,K], those that a mixture of experts is to route to, -1 where it chooses; None: everywhere.
    """

    input_ids: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    positions: Tensor
    sequences: Tensor
    experts: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        parts = (getattr(self, field.name) for field in fields(self))
        return Batch(*(None if part is None else part.to(device) for part in parts))


def collate(
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    pad_id: int,
    experts: Sequence[Tensor] | None = None,
) -> Batch:
    """Pad rows of prompt and completion ids to one `Batch`; experts: [S+T-1,L,K] a row, of all but its last token."""
    rows = [[*prompt, *completion] for prompt, completion in zip(prompt_ids, completion_ids, strict=True)]
    width, length = max(map(len, rows)), max(map(len, completion_ids))
    starts = torch.tensor([[len(prompt)] for prompt in prompt_ids])
    lengths = torch.tensor([[len(completion)] for completion in completion_ids])
    columns = torch.arange(length)[None, :]
    sequences = torch.tensor([[i] * len(row) + [-1] * (width - len(row)) for i, row in enumerate(rows)])
    return Batch(
        input_ids=torch.tensor([row + [pad_id] * (width - len(row)) for row in rows]),
        completion_ids=torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in completion_ids]),
        completion_mask=(columns < lengths),
        positions=(starts - 1 + columns).clamp(max=width - 1),
        sequences=sequences,
        experts=None if experts is None else _beside(sequences, experts),
    )


def _beside(sequences: Tensor, experts: Sequence[Tensor]) -> Tensor:
    """[B,S+T,L,K] of rows [S+T-1,L,K]."""
    out = torch.full((*sequences.shape, *experts[0].shape[1:]), -1)
    out[sequences >= 0] = torch.cat(
        [torch.nn.functional.pad(row, (0, 0, 0, 0, 0, 1), value=-1) for row in experts]
    ).long()
    return out


def microbatches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Split row numbers into microbatches of at most `max_tokens` padded tokens each (0: all rows in one).

    Rows of like length come together, longest first: the least padding, and a set-up that runs out of memory
    does so at once. A single row may exceed the budget.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    parts: list[list[int]] = []
    for i in order:
        if parts and (not max_tokens or (len(parts[-1]) + 1) * lengths[parts[-1][0]] <= max_tokens):
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts
