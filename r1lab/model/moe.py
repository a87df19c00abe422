"""The load of a DeepSeek-V3 mixture of experts and what evens it out, as functions of the router's numbers.

N tokens, E routed experts of which each token goes to K, L layers with a router. Sources: DeepSeek-V3 (2412.19437,
section 2.1.2) and Wang et al., auxiliary-loss-free balancing (2408.15664).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from r1lab.dtype import cast_weights


def routers(*models: nn.Module | None) -> dict[str, nn.Module]:
    """The routers of models by name: sigmoid affinities, of which a bias that takes no gradient chooses."""
    return {
        name: part
        for model in models
        if model is not None
        for name, part in model.named_modules()
        if hasattr(part, "e_score_correction_bias") and hasattr(part, "routed_scaling_factor")
    }


def biases(routers: Mapping[str, nn.Module]) -> Tensor:
    """A copy of the biases of routers, at least one, float32 [L,E]."""
    return torch.stack([router.e_score_correction_bias.float() for router in routers.values()])


def set_biases(bias: Tensor, routers: Mapping[str, nn.Module]) -> None:
    """Give the routers these biases [L,E], in float32 whatever the model is in, and where theirs were: a weight may
    lie in shards on the host, and be gathered elsewhere.

    In bfloat16 a step of 0.001 is lost on a bias of 0.5.
    """
    for router, row in zip(routers.values(), bias, strict=True):
        device = router.e_score_correction_bias.device
        router.e_score_correction_bias = row.to(device, torch.float32, copy=True)


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in another precision, except for the routers' biases, which stay in float32, and what
    `r1lab.dtype.cast_weights` keeps."""
    if not (found := routers(model)):
        return cast_weights(model, dtype)
    bias = biases(found)
    model = cast_weights(model, dtype)
    set_biases(bias, found)
    return model


def weights_of(logits: Tensor, chosen: Tensor, router: nn.Module) -> Tensor:
    """The gate weights [N,K] of chosen experts [N,K]: affinities without the bias, normalised over the chosen."""
    weights = logits.sigmoid().gather(1, chosen)
    if router.norm_topk_prob:
        weights = weights / (weights.sum(1, keepdim=True) + 1e-20)
    return weights * router.routed_scaling_factor


def load_of(chosen: Tensor, counts: Tensor, num_experts: int) -> Tensor:
    """How many tokens went to each expert, float32 [E], of chosen experts [N,K]; counts: bool [N], False at padding."""
    each = counts.float()[:, None].expand_as(chosen)
    # One sum into E places: a count of the chosen ids would wait for the GPU to learn how many there are.
    none = torch.zeros(num_experts, dtype=torch.float32, device=chosen.device)
    return none.index_add_(0, chosen.flatten(), each.flatten())


def sequence_balance(logits: Tensor, sequences: Tensor, num_sequences: int, top_k: int) -> Tensor:
    """The sequence-wise balance loss without its weight alpha, summed over sequences: sum_s sum_i f_i P_i.

    f_i = E / (K T) sum_t 1[expert i is among the K of largest affinity], P_i = 1/T sum_t s_it / sum_j s_jt
    (2412.19437, eq. 17-20); 1 for each sequence where the load is even. The gradient goes through P alone.

    Args:
        logits: of the router, [N,E]. sequences: int64 [N], the number of each token's sequence, from 0 on without a
            gap, -1 at padding; num_sequences: how many there are. One without a token counts 0.
        top_k: K.
    """
    scores = logits.float().sigmoid()
    num_experts = scores.shape[1]
    # Padding goes to a row of its own, which is dropped.
    rows = torch.where(sequences >= 0, sequences, num_sequences)
    zeros = scores.new_zeros(num_sequences + 1, num_experts)
    lengths = zeros[:, :1].index_add(0, rows, torch.ones_like(scores[:, :1])).clamp(min=1)
    chosen = torch.zeros_like(scores).scatter_(1, scores.detach().topk(top_k).indices, 1.0)
    shares = scores / scores.sum(1, keepdim=True)
    f = zeros.index_add(0, rows, chosen) * num_experts / (top_k * lengths)
    p = zeros.index_add(0, rows, shares) / lengths
    return (f * p)[:num_sequences].sum()


def next_bias(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """The bias [...,E] after a step with this load: up by `rate` where an expert had less than the mean, down where
    more (2408.15664, algorithm 1; `gamma` in 2412.19437)."""
    return bias + rate * torch.sign(load.mean(-1, keepdim=True) - load)


def load_metrics(load: Tensor) -> dict[str, Tensor]:
    """Of loads [L,E], each [L]: max_violation, the largest load's excess over the mean, relative to it (MaxVio,
    2408.15664, section 4.1); dead_experts, the share without a token; entropy of the shares, relative to log E."""
    mean = load.mean(-1)
    shares = load / load.sum(-1, keepdim=True)
    return {
        "max_violation": load.max(-1).values / mean - 1,
        "dead_experts": (load == 0).float().mean(-1),
        "entropy": torch.special.entr(shares).sum(-1) / torch.tensor(float(load.shape[-1])).log(),
    }
