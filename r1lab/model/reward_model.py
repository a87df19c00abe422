"""A reward model: a transformer's trunk, and a scalar head on the hidden state of the last token.

DeepSeek-R1's reward models are its own architecture with such a head (arXiv 2501.12948v2, section 3.1); the head is the
one of PPO's value model.
"""

import torch
from torch import Tensor, nn

from r1lab.model.value import ValueModel


def last_token_scores(body: nn.Module, head: ValueModel, input_ids: Tensor, lengths: Tensor) -> Tensor:
    """input_ids int64 [B, S], padded on the right, of `lengths` int64 [B] -> scores float32 [B]."""
    # No attention mask: a causal model's last token never sees the padding behind it.
    hidden = body(input_ids=input_ids, use_cache=False).last_hidden_state
    return head(hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1])
