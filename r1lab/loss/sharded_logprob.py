"""`linear_logprob` where the head's rows are shared out over the ranks: the definition, by collectives of [N] numbers.

With z_r the logits of rank r's rows of the vocabulary, and of each token only what a rank can say by itself,

    l_r = logsumexp(z_r),  m_r = sum_v softmax(z_r)_v z_v,  t_r = z_target, or 0 where the target is another rank's,

the whole is l = logsumexp_r l_r, logprob = sum_r t_r - l, entropy = l - sum_r exp(l_r - l) m_r. The head is never
gathered: hidden states travel, [N,H] a rank, and its gradient stays where its rows are.
"""

import math
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from r1lab.loss.logprob import CHUNK_BYTES, check_head, check_linear


def sharded_linear_logprob(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    *,
    first: int,
    temperature: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
    entropy: Literal["none", "value", "gradient"] = "none",
    chunk_bytes: int = CHUNK_BYTES,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor | None]:
    """hidden [N,H] and ids int64 [N] of this rank's own tokens, head [V_r,H] and bias [V_r] its rows of the whole head,
    from the row numbered `first` on -> what `linear_logprob` finds for these tokens under the whole head.

    Every rank of `group` calls it, with any N. Gradients are those of the sum of all ranks' losses: to hidden from all
    rows, to head and bias from the tokens of all ranks. An id that is no rank's has the logprob NaN. Raises ValueError
    as `linear_logprob` does.
    """
    check_head(temperature, softcap, entropy, chunk_bytes)
    check_linear(hidden, head, ids, bias)
    options = (first, temperature, softcap, chunk_bytes, group)
    logprob, entropies = _ShardedLogprob.apply(hidden, head, bias, ids, options)
    if entropy == "none":
        return logprob, None
    return logprob, entropies if entropy == "gradient" else entropies.detach()


class _ShardedLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, bias, ids, options):
        first, temperature, softcap, chunk_bytes, group = options
        counts = _counts(len(hidden), hidden.device, group)
        everyones = _gather(hidden, counts, group)
        places = _gather(ids, counts, group) - first
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        rows = max(1, chunk_bytes // (len(head) * dtype.itemsize))
        found = []
        for part, place in zip(everyones.split(rows), places.split(rows), strict=True):
            z = _logits(part, head, bias, temperature, softcap, dtype)
            log_normaliser = z.logsumexp(1)
            p = (z - log_normaliser[:, None]).exp()
            mean = (p * torch.where(p > 0, z, 0.0)).sum(1)
            mine = (place >= 0) & (place < len(head))
            target = z.gather(1, place.clamp(0, len(head) - 1)[:, None]).squeeze(1)
            found.append(torch.stack([log_normaliser, mean, torch.where(mine, target, 0.0), mine.to(dtype)]))
        own = torch.cat(found, dim=1)
        shards = own.new_empty(dist.get_world_size(group), *own.shape)
        dist.all_gather(list(shards), own, group=group)
        log_normaliser = shards[:, 0].logsumexp(0)
        weights = (shards[:, 0] - log_normaliser).exp()
        entropy = log_normaliser - (weights * torch.where(weights > 0, shards[:, 1], 0.0)).sum(0)
        logprob = torch.where(shards[:, 3].sum(0) > 0, shards[:, 2].sum(0) - log_normaliser, math.nan)
        ctx.save_for_backward(everyones, head, bias, places, log_normaliser, entropy)
        ctx.options, ctx.counts, ctx.rows = options, counts, rows
        mine = _own(counts, group)
        return logprob[mine].clone(), entropy[mine].clone()

    @staticmethod
    def backward(ctx, of_logprob, of_entropy):
        everyones, head, bias, places, log_normaliser, entropy = ctx.saved_tensors
        _, temperature, softcap, _, group = ctx.options
        g, h = (_gather(x, ctx.counts, group) for x in (of_logprob, of_entropy))
        # Wide from the start: a gradient comes in its input's dtype, and rounded once a chunk the sums would be biased.
        wide = log_normaliser.dtype
        tensors = [x.detach().to(wide).requires_grad_() for x in (head, bias) if x is not None]
        sums = [torch.zeros_like(x) for x in tensors]
        of_hidden = []
        parts = (x.split(ctx.rows) for x in (everyones, places, log_normaliser, entropy, g, h))
        for part, place, normaliser, bits, of_p, of_bits in zip(*parts, strict=True):
            inputs = [part.detach().to(wide).requires_grad_(), *tensors]
            with torch.enable_grad():
                made = inputs if bias is not None else [*inputs, None]
                z = _logits(*made, temperature, softcap, wide)
            log_p = z.detach() - normaliser[:, None]
            p = log_p.exp()
            bend = of_bits[:, None] * torch.where(p > 0, log_p + bits[:, None], 0.0)
            chosen = torch.arange(len(head), device=place.device) == place[:, None]
            gradient = torch.where(chosen, of_p[:, None], 0.0) - p * (of_p[:, None] + bend)
            part_gradient, *others = torch.autograd.grad(z, inputs, gradient)
            of_hidden.append(part_gradient)
            for total, other in zip(sums, others, strict=True):
                total += other
        total = torch.cat(of_hidden)
        dist.all_reduce(total, group=group)
        of_head, of_bias = (*sums, None)[:2]
        of_bias = None if bias is None else of_bias.to(bias.dtype)
        return total[_own(ctx.counts, group)].to(everyones.dtype), of_head.to(head.dtype), of_bias, None, None


def _logits(
    hidden: Tensor, head: Tensor, bias: Tensor | None, temperature: float, softcap: float | None, dtype: torch.dtype
) -> Tensor:
    z = hidden.to(dtype) @ head.to(dtype).T
    z = z if bias is None else z + bias.to(dtype)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    return z / temperature


def _counts(n: int, device: torch.device, group: dist.ProcessGroup | None) -> list[int]:
    """How many tokens each rank has."""
    counts = torch.empty(dist.get_world_size(group), dtype=torch.int64, device=device)
    dist.all_gather(list(counts.split(1)), torch.tensor([n], device=device), group=group)
    return counts.tolist()


def _own(counts: list[int], group: dist.ProcessGroup | None) -> slice:
    """Where this rank's tokens are among those of all."""
    start = sum(counts[: dist.get_rank(group)])
    return slice(start, start + counts[dist.get_rank(group)])


def _gather(values: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Rows of all ranks, one after the other."""
    padded = values.new_zeros(max(counts), *values.shape[1:])
    padded[: len(values)] = values
    everyones = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everyones, padded, group=group)
    return torch.cat([rows[:count] for rows, count in zip(everyones, counts, strict=True)])
