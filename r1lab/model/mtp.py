"""Multi-token prediction: a module that predicts the token after the next, trained beside the base and then dropped.

DeepSeek-V3 (2412.19437, section 2.2), with one further token (D = 1): h' = M [RMSNorm(h_i) ; RMSNorm(Emb(t_i+1))], a
transformer block over h', and the model's own output head. transformers' model has no such module in training.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class MultiTokenPrediction(nn.Module):
    """One further token beside a model, whose embedding and head it shares and does not hold.

    Args:
        model: a causal language model of transformers; the block is of its kind, with experts where it has them.
        seed: of the fresh weights.
    """

    def __init__(self, model: PreTrainedModel, *, seed: int):
        super().__init__()
        config = copy.deepcopy(model.config)
        config.num_hidden_layers = 1
        if hasattr(config, "first_k_dense_replace"):
            config.first_k_dense_replace = 0
        width = config.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # A body of one layer: it makes masks and positions as the model's own does, and ends in a norm.
            self.body = type(model.base_model)(config)
            self.projection = nn.Linear(2 * width, width, bias=False)
            nn.init.normal_(self.projection.weight, std=config.initializer_range)
        self.body.embed_tokens = None
        norm = type(self.body.norm)
        self.hidden_norm, self.embedding_norm = (norm(width, eps=config.rms_norm_eps) for _ in range(2))
        self.to(model.dtype)

    def forward(self, hidden: Tensor, embeddings: Tensor, **packed: Any) -> Tensor:
        """Hidden states that predict the token after the next, [B,S,H].

        Args:
            hidden: of the model, [B,S,H]. embeddings: of the next token at each place, [B,S,H]; anything where there
                is none. packed: what tells the rows of a packed batch apart, as the model's own body is told.
        """
        joined = torch.cat([self.hidden_norm(hidden), self.embedding_norm(embeddings)], -1)
        return self.body(inputs_embeds=self.projection(joined), use_cache=False, **packed).last_hidden_state
