"""A causal language model of an embedding and an output head alone."""

from types import SimpleNamespace

import torch
from torch import nn
from transformers import PreTrainedConfig


class Body(nn.Module):
    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(last_hidden_state=self.embedding(input_ids))


class HeadModel(nn.Module):
    """head: its output embeddings. config: of a model, such as `final_logit_softcapping`."""

    def __init__(self, head, **config):
        super().__init__()
        self.head = head
        self.base_model = Body(nn.Embedding(*head.weight.shape))
        self.config = PreTrainedConfig(vocab_size=len(head.weight), **config)

    def get_input_embeddings(self):
        return self.base_model.embedding

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache=False):
        logits = self.head(self.base_model(input_ids).last_hidden_state)
        if cap := getattr(self.config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        return SimpleNamespace(logits=logits)
