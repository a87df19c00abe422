"""What a forward pass of a model computes, from its shape alone."""

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from r1lab.model.attention import head_sizes
from r1lab.model.mtp import MultiTokenPrediction
from r1lab.model.quantize import is_packed, quantized_weights


class ForwardCost(NamedTuple):
    """FLOP (a multiply and an add are two) of a forward pass.

    token: of the body, a token, without attention's scores. pair: of attention, a query and a key that it sees.
    head: of the output head, a token that it is applied to. trained: the share of `token` that is by weights which are
    trained; a backward pass computes gradients of all activations, and of these weights.
    """

    token: float
    pair: float
    head: float
    trained: float


def forward_cost(model: PreTrainedModel | MultiTokenPrediction) -> ForwardCost:
    """Counted are products with weights, each two FLOP a weight and token, and attention's, as in Kaplan et al.
    (2001.08361, section 2.1); embeddings look up and cost nothing, norms and activations are left out.

    Of a mixture of experts those count that a token goes to, not those that are held: of E routed experts the
    `num_experts_per_tok`; shared experts and the router count whole. A sliding window is not seen. Quantised weights
    count as what they stand for, adapters as weights beside them, also in a pass with adapters off. Multi-token
    prediction is its block and what joins its two inputs; it borrows the head, which counts where it is applied.
    """
    if (known := getattr(model, "forward_cost", None)) is not None:
        return known  # from before it was put in shards
    if isinstance(model, MultiTokenPrediction):
        token, trained = _products(model, model.body.config)
        return ForwardCost(token, _pair(model.body.config), 0.0, trained)
    config, body = model.config, model.base_model
    token, trained = _products(body, config)
    return ForwardCost(token, _pair(config), 2.0 * model.get_output_embeddings().weight.numel(), trained)


def _products(body: nn.Module, config: PreTrainedConfig) -> tuple[float, float]:
    """Of a token, of all products with weights, and the share of it that is by trained ones."""
    looked_up = {id(p) for m in body.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    sizes = {name: (q.shape.numel(), False) for name, q in quantized_weights(body).items()} | {
        name: (p.numel(), p.requires_grad)
        for name, p in body.named_parameters()
        if p.dim() >= 2 and id(p) not in looked_up and not is_packed(name)
    }
    costs = [
        (2.0 * size * (_active_share(config) if ".experts." in name else 1.0), trained)
        for name, (size, trained) in sizes.items()
    ]
    token = sum(cost for cost, _ in costs)
    return token, sum(cost for cost, trained in costs if trained) / token


def _pair(config: PreTrainedConfig) -> float:
    """FLOP of attention for each pair of tokens; 0 for a state-space model, whose config has no heads."""
    if not getattr(config, "num_attention_heads", None):
        return 0.0
    return 2.0 * config.num_hidden_layers * config.num_attention_heads * sum(head_sizes(config))


def _active_share(config) -> float:
    """The share of the routed experts that a token goes to."""
    names = ("n_routed_experts", "num_local_experts", "num_experts")
    number = next(getattr(config, name) for name in names if getattr(config, name, None))
    return config.num_experts_per_tok / number
