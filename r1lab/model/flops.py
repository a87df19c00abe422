"""What a forward pass of a model computes, from its shape alone."""

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from r1lab.model.attention import head_sizes


class ForwardCost(NamedTuple):
    """FLOP (a multiply and an add are two) of a forward pass.

    token: of the body, a token, without attention's scores. pair: of attention, a query and a key that it sees.
    head: of the output head, a token that it is applied to.
    """

    token: float
    pair: float
    head: float


def forward_cost(model: PreTrainedModel) -> ForwardCost:
    """Counted are products with weights, each two FLOP a weight and token, and attention's, as in Kaplan et al.
    (2001.08361, section 2.1); embeddings look up and cost nothing, norms and activations are left out.

    Of a mixture of experts those count that a token goes to, not those that are held: of E routed experts the
    `num_experts_per_tok`; shared experts and the router count whole. A sliding window is not seen.
    """
    config, body = model.config, model.base_model
    looked_up = {id(p) for m in body.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    weights = [(name, p) for name, p in body.named_parameters() if p.dim() >= 2 and id(p) not in looked_up]
    token = sum(2.0 * p.numel() * (_active_share(config) if ".experts." in name else 1.0) for name, p in weights)
    pair = 2.0 * config.num_hidden_layers * config.num_attention_heads * sum(head_sizes(config))
    return ForwardCost(token, pair, 2.0 * model.get_output_embeddings().weight.numel())


def _active_share(config) -> float:
    """The share of the routed experts that a token goes to."""
    names = ("n_routed_experts", "num_local_experts", "num_experts")
    number = next(getattr(config, name) for name in names if getattr(config, name, None))
    return config.num_experts_per_tok / number
