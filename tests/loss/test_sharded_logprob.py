import math
import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, init_device_mesh

from r1lab.loss.grpo import grpo_loss, linear_grpo_loss
from r1lab.loss.logprob import linear_logprob
from r1lab.loss.sharded_logprob import sharded_linear_logprob
from r1lab.module.head import LinearHead
from tests.module.head_model import HeadModel

VOCABULARY, WIDTH = 23, 6
COUNTS = (7, 4)  # tokens of each rank
FIRST = (0, 10)  # rows of the head: 0 to 9 and 10 to 22
HEAD = {"temperature": 0.8, "softcap": 2.0}
LOSS = {
    "sequences": 4,
    "tokens": sum(COUNTS),
    "max_length": 5,
    "epsilon_low": 0.2,
    "epsilon_high": 0.3,
    "ratio_cap": None,
    "ratio_level": "sequence",
    "beta": 0.1,
    "kl": "ratio_k3",
    "kl_placement": "loss",
    "aggregate": "sequence_mean",
    "entropy_coef": 0.05,
}


def inputs(rank):
    """A rank's tokens: two rows of completions, some of it masked; the head and its bias are the same for all."""
    generator = torch.Generator().manual_seed(0)
    head, bias = torch.randn(VOCABULARY, WIDTH + 1, generator=generator, dtype=torch.float64).split([WIDTH, 1], dim=1)
    bias = bias.squeeze(1).clone()
    bias[3] = -math.inf
    generator.manual_seed(1 + rank)
    n = COUNTS[rank]
    hidden = torch.randn(n, WIDTH, generator=generator, dtype=torch.float64)
    ids = torch.randint(4, VOCABULARY, (n,), generator=generator)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, : n - n // 2], mask[1, : n // 2] = True, True
    old, ref = -2 - torch.rand(2, 2, 5, generator=generator, dtype=torch.float64)
    advantages = torch.randn(2, generator=generator, dtype=torch.float64)
    return (
        hidden.requires_grad_(),
        head.clone().requires_grad_(),
        bias.requires_grad_(),
        ids,
        mask,
        old,
        ref,
        advantages,
    )


def loss_of(logprob, entropy, mask, old, ref, advantages):
    logprobs, entropies = (x.new_zeros(mask.shape).masked_scatter(mask, x) for x in (logprob, entropy))
    return grpo_loss(logprobs, old, ref, advantages, mask, entropies, **LOSS).loss


def whole():
    """Losses and gradients without ranks: of all hidden states and of the head."""
    losses, of_hidden, of_head, of_bias = [], [], 0, 0
    for rank in range(2):
        hidden, head, bias, ids, mask, old, ref, advantages = inputs(rank)
        loss = linear_grpo_loss(hidden, head, ids, old, ref, advantages, mask, bias=bias, **HEAD, **LOSS).loss
        gradients = torch.autograd.grad(loss, (hidden, head, bias))
        losses.append(loss.detach())
        of_hidden.append(gradients[0])
        of_head, of_bias = of_head + gradients[1], of_bias + gradients[2]
    return losses, of_hidden, of_head, of_bias


def compare(rank):
    hidden, head, bias, ids, mask, old, ref, advantages = inputs(rank)
    rows = slice(FIRST[rank], (*FIRST, VOCABULARY)[rank + 1])
    shard, of_shard = (x.detach()[rows].requires_grad_() for x in (head, bias))
    for chunk_bytes in (1 << 20, 3 * 8 * len(shard)):  # at once, and three tokens at a time
        options = HEAD | {"first": rows.start, "bias": of_shard, "chunk_bytes": chunk_bytes}
        logprob, entropy = sharded_linear_logprob(hidden, shard, ids, entropy="gradient", **options)
        expected = linear_logprob(hidden, head, ids, bias=bias, entropy="value", **HEAD)
        torch.testing.assert_close((logprob, entropy), expected)
        loss = loss_of(logprob, entropy, mask, old, ref, advantages)
        gradients = torch.autograd.grad(loss, (hidden, shard, of_shard))
        losses, of_hidden, of_head, of_bias = whole()
        torch.testing.assert_close(loss.detach(), losses[rank])
        torch.testing.assert_close(gradients, (of_hidden[rank], of_head[rows], of_bias[rows]))


def in_bfloat16(rank):
    """Gradients that nearly cancel, two tokens at a time: each rounded once, at the end."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(n, WIDTH, generator=generator).bfloat16() for n in (32, VOCABULARY))
    ids = torch.randint(VOCABULARY, (32,), generator=generator)
    # Both ranks have the same tokens, and weights of other signs and nearly one size.
    weights = torch.randn(2, 32, generator=generator) * 0.01 + torch.tensor([[1.0], [-1.0]])
    weights[:, 16:] *= -1
    hidden[16:], ids[16:] = hidden[:16], ids[:16]
    rows = slice(FIRST[rank], (*FIRST, VOCABULARY)[rank + 1])

    def gradients(function, hidden, head, weight, **options):
        hidden, head = (x.detach().requires_grad_() for x in (hidden, head))
        loss = (weight * function(hidden, head, ids, temperature=0.8, **options)[0]).sum()
        return torch.autograd.grad(loss, (hidden, head))

    options = {"first": rows.start, "chunk_bytes": 2 * 4 * (rows.stop - rows.start)}
    ours = gradients(sharded_linear_logprob, hidden, head[rows], weights[rank], **options)
    every = [gradients(linear_logprob, hidden.double(), head.double(), weight.double()) for weight in weights]
    for mine, exact in zip(ours, (every[rank][0], (every[0][1] + every[1][1])[rows]), strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.double(), exact, rtol=2**-8, atol=1e-3 * exact.abs().max().item())


def head_of_fsdp(rank):
    """A head in the shards of FSDP2, gathered and not: the gradient in shards is the mean over the ranks."""
    layer = nn.Linear(WIDTH, VOCABULARY)
    _, weight, bias, *_ = inputs(0)
    layer.weight.data, layer.bias.data = weight.detach(), bias.detach()
    fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    assert isinstance(layer.weight, DTensor) and len(layer.weight.to_local()) < VOCABULARY
    model = HeadModel(layer, final_logit_softcapping=HEAD["softcap"])
    hidden, _, _, ids, *rest = inputs(rank)
    losses, of_hidden, of_head, of_bias = whole()
    for sharded in (False, True):
        head = LinearHead("torch", sharded=sharded)
        assert head.stays_sharded(model) == sharded
        logprob, entropy = head.logprob(model, hidden, ids, temperature=HEAD["temperature"], entropy="gradient")
        layer.zero_grad()
        loss = loss_of(logprob, entropy, *rest)
        (of_own,) = torch.autograd.grad(loss, hidden, retain_graph=True)
        loss.backward()
        torch.testing.assert_close((loss.detach(), of_own), (losses[rank], of_hidden[rank]))
        means = of_head / 2, of_bias / 2
        torch.testing.assert_close((layer.weight.grad.full_tensor(), layer.bias.grad.full_tensor()), means)


def start(rank, path):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    compare(rank)
    in_bfloat16(rank)
    head_of_fsdp(rank)
    dist.destroy_process_group()


def test_two_ranks(tmp_path):
    multiprocessing.spawn(start, args=(tmp_path / "store",), nprocs=2)


def test_what_is_refused():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        sharded_linear_logprob(torch.ones(1, 1), torch.ones(2, 1), torch.tensor([0]), first=0, temperature=0)
