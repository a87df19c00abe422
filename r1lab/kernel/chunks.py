"""A linear head a chunk of tokens at a time: cuBLAS products into one reused buffer, one kernel over its rows.

What is allocated beside inputs and results, for N tokens in chunks of n, width H, vocabulary V, b bytes a number:
the logits' buffer, n V b <= chunk_bytes, freed at the end of a pass; with a gradient to hidden states, 4 n H; with a
gradient to the head, one float32 [V, H] where there are several chunks. The head's gradient in b-byte numbers is
allocated when the buffer is free again. With one chunk it is the product itself, which sums in float32 inside, and
there is no float32 copy. Chunks are never summed in low precision: rounding each biases training.

Smaller, or only at times: where the products' dtype is not the inputs' (autocast, say) copies in it, of the head,
V H b, and of the hidden states, N H b (a chunk of them, n H b, where `product` is not used); of `product`, n 12 V / 256
for the sums of its tiles, and 8 N; per token, whatever N is, 17 bytes of `Rows` where they are of all tokens, and in
the GRPO loss 36 for the terms of the loss and 24 for what is gathered of old and reference logprobs, advantages,
weights and places.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from r1lab.kernel import rows as row_kernels
from r1lab.kernel.product import Product, partial_bytes, pays
from r1lab.kernel.rows import PADDING, Factor, Rows, scaling

# Chunks are multiples of these many tokens, the first that fits: products over a chunk's tokens are made in steps of
# 64, and pointers into a chunk that stay aligned compile kernels once.
ALIGNMENTS = (64, 16)


class Head(NamedTuple):
    """A linear head in the dtype its products are made in: weight [V, H], bias [V] or None.

    wide: its gradient is wanted in float32 although the products' dtype is lower, as under autocast.
    """

    weight: Tensor
    bias: Tensor | None
    temperature: float
    softcap: float | None
    wide: bool

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, softcap: float | None):
        """The head as it is applied to these hidden states: in autocast's dtype where that is on, else in theirs."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        bias = None if bias is None else bias.contiguous()
        return cls(weight.to(dtype), bias, temperature, softcap, weight.dtype == torch.float32)

    @property
    def row_bytes(self) -> int:
        """Of a token's logits."""
        return _stride(len(self.weight)) * self.weight.dtype.itemsize


class Gradients(NamedTuple):
    """To hidden [N, H], weight [V, H] (float32 where it was summed over chunks) and bias [V]; None where not asked."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def chunks(n: int, bytes_a_token: int, budget: int) -> list[slice]:
    """Slices of n tokens, as few as the budget allows, and of the same size but for the last."""
    fit = max(1, budget // bytes_a_token)
    if n <= fit:
        return [slice(0, n)]
    even = triton.cdiv(n, triton.cdiv(n, fit))
    sizes = [triton.cdiv(even, alignment) * alignment for alignment in ALIGNMENTS]
    size = next((size for size in sizes if size <= fit), max(fit // ALIGNMENTS[-1], 1) * ALIGNMENTS[-1])
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _stride(vocabulary: int) -> int:
    return triton.cdiv(vocabulary, PADDING) * PADDING


class Pass:
    """The chunks of one pass over the tokens: which they are, and their logits in one buffer.

    other: a head whose logits are made in the buffer too, in turn.
    """

    def __init__(self, hidden: Tensor, head: Head, slices: list[slice], other: Head | None = None):
        self.hidden, self.head, self.slices = hidden, head, slices
        row_bytes = max(each.row_bytes for each in (head, other) if each is not None)
        numbers = slices[0].stop * row_bytes // head.weight.dtype.itemsize
        self.memory = torch.empty(numbers, dtype=head.weight.dtype, device=hidden.device)
        self.buffer = self.buffer_of(head)

    def buffer_of(self, head: Head) -> Tensor:
        """[n, V] in the head's dtype."""
        rows, vocabulary = self.slices[0].stop, len(head.weight)
        stride = _stride(vocabulary)
        return self.memory.view(head.weight.dtype)[: rows * stride].view(rows, stride)[:, :vocabulary]

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(tokens, their hidden states in the products' dtype, their logits); a chunk's logits live until the next."""
        for tokens in self.slices:
            hidden = self.hidden[tokens].to(self.head.weight.dtype)
            yield tokens, hidden, self.logits(hidden, self.head)

    def logits(self, hidden: Tensor, head: Head) -> Tensor:
        """Of a chunk under this head or the other, over the buffer."""
        buffer = self.buffer if head is self.head else self.buffer_of(head)
        return torch.mm(hidden, head.weight.T, out=buffer[: len(hidden)])


class Sums:
    """Sums a pass's gradients chunk by chunk.

    A chunk's gradient of the logits comes as `share` [n, V], where it is so but for a factor a row with that.
    """

    def __init__(self, work: Pass, *, hidden: bool, weight: bool, bias: bool):
        source, head = work.hidden, work.head
        self.head, self.narrow = head, len(work.slices) == 1 and not head.wide
        self.hidden = torch.empty_like(source) if hidden else None
        self.bias = torch.zeros(len(head.weight), device=source.device) if bias else None
        self.wants_weight, self.weight = weight, None
        self.scaling = scaling()

    def add(self, tokens: slice, hidden: Tensor, share: Tensor, factor: Factor | None) -> None:
        out = None if self.hidden is None else self.hidden[tokens]
        if self.bias is not None:
            ones = torch.ones(len(share), device=share.device) if factor is None else factor.values
            self.bias += _float32_product(share.T, ones.to(share.dtype)[:, None]).squeeze(1)
        if out is not None and factor is None and out.dtype == share.dtype:
            torch.mm(share, self.head.weight, out=out)
        elif out is not None:
            wide = _float32_product(share, self.head.weight)
            if factor is None:
                out.copy_(wide)
            elif self.wants_weight:
                # The hidden states as the head's gradient needs them, over what has been read, row by row.
                scaled_hidden = wide.view(hidden.dtype)[:, : hidden.shape[1]]
                factor.scale(self.scaling, wide, out, hidden, scaled_hidden)
                hidden = scaled_hidden
            else:
                factor.scale(self.scaling, wide, out)
        elif factor is not None and self.wants_weight:
            scaled_hidden = torch.empty_like(hidden)
            factor.scale(self.scaling, hidden, scaled_hidden)
            hidden = scaled_hidden
        if self.wants_weight:
            self._add_weight(share.T, hidden)

    def _add_weight(self, share: Tensor, hidden: Tensor) -> None:
        if self.weight is None:
            self.weight = share @ hidden if self.narrow else _float32_product(share, hidden)
        elif _has_wide_product(hidden):
            torch.addmm(self.weight, share, hidden, out_dtype=torch.float32, out=self.weight)
        else:
            self.weight.addmm_(share.float(), hidden.float())

    @property
    def gradients(self) -> Gradients:
        return Gradients(self.hidden, self.weight, self.bias)


def _has_wide_product(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16)


def _float32_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32."""
    return torch.mm(a, b, out_dtype=torch.float32) if _has_wide_product(a) else a.float() @ b.float()


def forward_pass(
    hidden: Tensor, head: Head, ids: Tensor, chunk_bytes: int, *, entropy: bool = False, hit: bool = False
) -> Rows:
    """Statistics of every token's distribution: 2NHV FLOP, logits written and read once or not at all.

    Without `entropy` or `hit`, what these hold is not defined.
    """
    out = Rows.empty(len(hidden), hidden.device)
    if pays(hidden, head.weight):
        slices = chunks(len(hidden), partial_bytes(len(head.weight)), chunk_bytes)
        product = _product(hidden, ids, head, slices[0].stop, entropy=entropy, hit=hit)
        for tokens in slices:
            product(tokens, out[tokens], None)
        return out
    for tokens, _, logits in Pass(hidden, head, chunks(len(hidden), head.row_bytes, chunk_bytes)):
        _statistics(logits, ids[tokens], head, out[tokens])
    return out


def backward_pass(
    hidden: Tensor,
    head: Head,
    ids: Tensor,
    log_normaliser: Tensor,
    entropy: Tensor,
    of_logprob: Tensor,
    of_entropy: Tensor | None,
    chunk_bytes: int,
    *,
    wanted: tuple[bool, bool, bool],
) -> Gradients:
    """Gradients of sum_i of_logprob_i logprob_i + of_entropy_i entropy_i from logits made anew: 6NHV FLOP."""
    if pays(hidden, head.weight) and of_entropy is None:
        return _backward_of_product(hidden, head, ids, log_normaliser, of_logprob, chunk_bytes, wanted)
    of_entropy = torch.zeros_like(of_logprob) if of_entropy is None else of_entropy
    work = Pass(hidden, head, chunks(len(hidden), head.row_bytes, chunk_bytes))
    sums = Sums(work, hidden=wanted[0], weight=wanted[1], bias=wanted[2])
    unit = None
    if head.weight.dtype == torch.float16:
        # Gradients of a mean over many tokens are below float16's smallest number; a power of 2 rounds nothing.
        largest = torch.maximum(of_logprob.abs().amax(), of_entropy.abs().amax())
        unit = torch.exp2(torch.log2(largest).floor())
        unit = torch.where(unit > 0, unit, 1.0)
        of_logprob, of_entropy = of_logprob / unit, of_entropy / unit
    for tokens, part, logits in work:
        known = log_normaliser[tokens], entropy[tokens]
        if pays(part, head.weight):
            # The forward pass took them from logits that were not rounded.
            rows = Rows.empty(len(part), hidden.device)
            _statistics(logits, ids[tokens], head, rows)
            known = rows.log_normaliser, rows.entropy
        _gradient(logits, ids[tokens], head, *known, of_logprob[tokens], of_entropy[tokens])
        sums.add(tokens, part, logits, None)
    if unit is not None:
        for gradient in sums.gradients:
            if gradient is not None:
                gradient.mul_(unit)
    return sums.gradients


def _backward_of_product(
    hidden: Tensor,
    head: Head,
    ids: Tensor,
    log_normaliser: Tensor,
    of_logprob: Tensor,
    chunk_bytes: int,
    wanted: tuple[bool, bool, bool],
) -> Gradients:
    work = Pass(hidden, head, chunks(len(hidden), head.row_bytes, chunk_bytes))
    sums = Sums(work, hidden=wanted[0], weight=wanted[1], bias=wanted[2])
    product = _product(hidden, ids, head, work.slices[0].stop, log_normaliser=log_normaliser)
    every = Rows.empty(work.slices[0].stop, hidden.device)
    for tokens in work.slices:
        part = product.hidden[tokens]
        rows, share = every[: len(part)], work.buffer[: len(part)]
        product(tokens, rows, share)
        sums.add(tokens, part, share, Factor(of_logprob[tokens], rows.total, head.temperature))
    return sums.gradients


def one_pass(
    hidden: Tensor,
    head: Head,
    ids: Tensor,
    coefficients: Callable[[slice, Rows, Rows | None], Tensor],
    of_entropy: float,
    chunk_bytes: int,
    *,
    reference: tuple[Tensor, Head] | None,
    wanted: tuple[bool, bool, bool],
) -> Gradients:
    """Gradients of a loss in the pass that makes the logits: 6NHV FLOP, and 2NHV more for a reference's logprobs.

    coefficients(tokens, rows, reference's rows or None) -> derivative of the loss by the logprob of each of the chunk's
    tokens. of_entropy: the loss's derivative by each entropy.
    """
    # A reference whose logits are written does so in the same buffer.
    written = reference[1] if reference is not None and not pays(reference[0], reference[1].weight) else None
    row_bytes = max(each.row_bytes for each in (head, written) if each is not None)
    work = Pass(hidden, head, chunks(len(hidden), row_bytes, chunk_bytes), written)
    sums = Sums(work, hidden=wanted[0], weight=wanted[1], bias=wanted[2])
    # The entropy's gradient needs the entropy, which one read does not know in time.
    store = of_entropy == 0
    at_a_time = work.slices[0].stop
    product = _product(hidden, ids, head, at_a_time, entropy=True) if store and pays(hidden, head.weight) else None
    ref_product = None
    if reference is not None and written is None:
        ref_product = _product(reference[0], ids, reference[1], at_a_time)
    every, of_reference = (Rows.empty(at_a_time, hidden.device) for _ in range(2))
    for tokens in work.slices:
        n = tokens.stop - tokens.start
        rows, reference_rows = every[:n], None if reference is None else of_reference[:n]
        if ref_product is not None:
            ref_product(tokens, reference_rows, None)
        elif reference is not None:
            ref_hidden, ref_head = reference
            logits = work.logits(ref_hidden[tokens].to(ref_head.weight.dtype), ref_head)
            _statistics(logits, ids[tokens], ref_head, reference_rows)
        part = hidden[tokens].to(head.weight.dtype)
        if product is not None:
            logits = work.buffer[:n]
            product(tokens, rows, logits)
        else:
            logits = work.logits(part, head)
            _statistics(logits, ids[tokens], head, rows, store=store)
        g = coefficients(tokens, rows, reference_rows)
        factor = None
        if store:
            factor = Factor(g, rows.total, head.temperature)
        else:
            _gradient(logits, ids[tokens], head, rows.log_normaliser, rows.entropy, g, torch.full_like(g, of_entropy))
        sums.add(tokens, part, logits, factor)
    return sums.gradients


def _statistics(logits: Tensor, ids: Tensor, head: Head, rows: Rows, *, store: bool = False) -> None:
    row_kernels.statistics(
        logits, ids, head.bias, rows, temperature=head.temperature, softcap=head.softcap, store=store
    )


def _product(hidden: Tensor, ids: Tensor, head: Head, at_a_time: int, **options: Any) -> Product:
    return Product(
        hidden.to(head.weight.dtype),
        head.weight,
        ids,
        head.bias,
        at_a_time=at_a_time,
        temperature=head.temperature,
        softcap=head.softcap,
        **options,
    )


def _gradient(logits: Tensor, ids: Tensor, head: Head, *of_rows: Tensor) -> None:
    row_kernels.gradient(logits, ids, head.bias, *of_rows, temperature=head.temperature, softcap=head.softcap)


@triton.jit
def _scale_kernel(out, source, factor, n, IN_PLACE: tl.constexpr, BLOCK: tl.constexpr):
    scale = tl.load(factor).to(tl.float32)
    if IN_PLACE:
        if scale == 1:
            return
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(source + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out + at, (values * scale).to(out.dtype.element_ty), mask=at < n)


def scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient * factor (one number on the device) in `dtype`: over the gradient where that is its dtype already.

    A factor of 1, which is what a loss's backward starts from, then costs nothing.
    """
    in_place = gradient.dtype == dtype
    out = gradient if in_place else torch.empty_like(gradient, dtype=dtype)
    block = 4096
    _scale_kernel[(triton.cdiv(gradient.numel(), block),)](
        out, gradient, factor, gradient.numel(), IN_PLACE=in_place, BLOCK=block, num_warps=8
    )
    return out
