"""The allocations of `r1lab.kernel.dry` against a peak that an H100 measured are in tests/model/test_passes.py."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from r1lab.kernel import dry
from r1lab.model.ledger import Ledger

V, H, N = 1024, 64, 256


def peak_of(function, dtype=torch.float32, *, frozen=False) -> int:
    """Bytes above the inputs, forward and backward; frozen: the head."""
    with FakeTensorMode(), Ledger() as ledger:
        hidden = torch.zeros(N, H, dtype=dtype, requires_grad=True)
        head = torch.zeros(V, H, dtype=dtype, requires_grad=not frozen)
        before = ledger.now
        ledger.restart()
        function(hidden, head).sum().backward()
        assert hidden.grad.dtype == dtype and (frozen or head.grad.shape == (V, H))
        return ledger.peak - before


def test_constants_are_those_of_the_kernels():
    pytest.importorskip("triton")
    from r1lab.kernel import chunks, linear_logprob, product, rows

    assert dry.CHUNK_BYTES == linear_logprob.CHUNK_BYTES
    assert dry.PADDING == rows.PADDING and dry.TILE == product.TILE["BN"]
    assert dry._partial_bytes(torch.empty(V, H)) == product.partial_bytes(V)
    for n, each, budget in (
        (100, 10, 10_000),
        (1000, 10, 5000),
        (1000, 100, 5000),
        (7, 100, 10),
        (16384, 98304, 1 << 30),
    ):
        assert dry._chunk(n, each, budget) == chunks.chunks(n, each, budget)[0].stop


@pytest.mark.parametrize("function", [dry.linear_grpo_loss, dry.linear_logprob])
def test_logits_are_held_a_chunk_at_a_time(function):
    logits = N * V * 4
    whole = peak_of(function)
    assert logits < whole < 2 * logits
    part = peak_of(lambda *x: function(*x, chunk_bytes=logits // 4))
    # A quarter of the logits, gradients of head and hidden states, and little else.
    assert logits / 4 + V * H * 4 + N * H * 4 < part < logits / 2 + V * H * 4 + N * H * 4


def test_a_sum_over_chunks_is_in_float32():
    one = peak_of(dry.linear_grpo_loss, torch.bfloat16)
    several = peak_of(lambda *x: dry.linear_grpo_loss(*x, chunk_bytes=N * V * 2 // 4), torch.bfloat16)
    # Less logits, and a float32 gradient beside the bfloat16 one.
    assert several < one
    assert several > N * V * 2 / 4 + V * H * 4


@pytest.mark.parametrize("function", [dry.linear_grpo_loss, dry.linear_logprob])
def test_a_frozen_head_has_no_gradient(function):
    assert peak_of(function, frozen=True) == peak_of(function) - V * H * 4


def test_a_distillation_has_the_logits_of_both():
    single = peak_of(dry.linear_grpo_loss)
    both = peak_of(lambda h, w: dry.linear_distill_loss(h, w, torch.zeros(V, 2 * H)))
    assert both - single == pytest.approx(N * V * 4, rel=0.5)
