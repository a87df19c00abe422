"""The head's product with the rows' statistics in its epilogue: no logits are written, what `rows` calls e at most.

The shift M of a row is known before the product: the target's logit in base 2, rounded up, from a dot product of the
hidden state and one row of the head. Each tile of the product then becomes e = 2^(y - M), from float32 sums that are
never rounded, is summed along its rows, and is written where a gradient is wanted. Where M was a bad guess (the sum is
above 2^100 or below 2^-100: the target is less likely than e^-69 or forbidden), a program of its own makes it anew.

Against cuBLAS's product and `rows`' pass over its result this saves a read and a write of the logits and is faster on
an H100 for all widths that were tried (tests/benchmark/results/bench_head.md).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from r1lab.kernel.launch import Repeated
from r1lab.kernel.rows import LN2, LOG2E, Rows, tanh

FAR = tl.constexpr(100.0)
NOWHERE = tl.constexpr(-10000.0)  # y - M outside the row or of what is forbidden: 2^NOWHERE is 0, and 0 NOWHERE too
TILE = {"BM": 128, "BN": 256, "BK": 64, "num_warps": 8}
STAGES = {"writing": 4, "reading": 3}  # with what is written on its way out, four tiles just fit
SHARED_BYTES = 227 << 10  # of a multiprocessor, for what the tiles in flight and those that are written take
ALIGNED = 16  # tokens: pointers to a chunk's numbers are then as aligned as those to all of them
LARGEST_GROUP = {"writing": 8, "reading": 16}  # rows of tiles that are gone through together


@triton.jit
def _of_head(z, columns, inside, bias, softcap, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr):
    if HAS_BIAS:
        z += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_CAP:
        z = softcap * tanh(z / softcap)
    return z


@triton.jit
def _target_kernel(
    hidden,
    weight,
    ids,
    bias,
    logit,
    shift,
    vocabulary,
    width,
    hidden_stride,
    weight_stride,
    sharpness,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The capped logit of each row's target, NaN where that is not in the vocabulary, and its shift."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(ids + row)
    known = (target >= 0) & (target < vocabulary)
    target = tl.where(known, target, 0)
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        h = tl.load(hidden + row * hidden_stride + at, mask=at < width, other=0.0).to(tl.float32)
        sums += h * tl.load(weight + target * weight_stride + at, mask=at < width, other=0.0).to(tl.float32)
    z = _of_head(tl.sum(sums, axis=0), target, known, bias, softcap, HAS_BIAS, HAS_CAP)
    z = tl.where(known, z, float("nan"))
    up = tl.ceil(z * sharpness)
    tl.store(logit + row, z)
    tl.store(shift + row, tl.where(tl.abs(up) < float("inf"), up, 0.0))


@triton.jit
def _part(
    z,
    columns,
    vocabulary,
    shift,
    bias,
    sharpness,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    HIT: tl.constexpr,
    EVEN: tl.constexpr,
):
    """A tile's e, times the cap's slope where there is one, and its rows' sums of e, of e (y - M) and the largest y."""
    inside = columns < vocabulary
    z = _of_head(z, columns[None, :], inside[None, :], bias, softcap, HAS_BIAS, HAS_CAP)
    # Each instruction a logit counts here: this is half as long as a short product, and nothing runs beside it.
    below = z * sharpness - shift[:, None]
    if HAS_BIAS:
        below = tl.maximum(below, NOWHERE, propagate_nan=tl.PropagateNan.ALL)
    if not EVEN:
        below = tl.where(inside[None, :], below, NOWHERE)
    e = tl.exp2(below)
    sums = tl.sum(e, axis=1)
    weighted = tl.sum(e * below, axis=1) if ENTROPY else sums
    top = tl.max(below, axis=1) if HIT else sums
    if HAS_CAP:
        e *= 1 - (z / softcap) * (z / softcap)
    return e, sums, weighted, top


@triton.jit(do_not_specialize=["n", "in_group"])
def _product_kernel(
    hidden,
    weight,
    out,
    shifts,
    bias,
    partial,
    n,
    vocabulary,
    width,
    row_of_partial,
    in_group,
    sharpness,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    STORE: tl.constexpr,
    ENTROPY: tl.constexpr,
    HIT: tl.constexpr,
    EVEN: tl.constexpr,
    EXACT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    tiles_m = tl.cdiv(n, BM)
    tiles_n = tl.cdiv(vocabulary, BN)
    HALF: tl.constexpr = BN // 2
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS, flatten=True):
        # Groups of rows of tiles: the tiles in work at a time share what they read, through the cache.
        group = tile // (in_group * tiles_n)
        first = group * in_group
        size = tl.minimum(tiles_m - first, in_group)
        m = first + (tile % (in_group * tiles_n)) % size
        v = (tile % (in_group * tiles_n)) // size
        sums = tl.zeros([BM, BN], tl.float32)
        for k in range(tl.cdiv(width, BK)):
            a = hidden.load([m * BM, k * BK])
            b = weight.load([v * BN, k * BK])
            if EXACT:
                # The interpreter's product of bfloat16 is wrong.
                sums = tl.dot(a.to(tl.float32), b.to(tl.float32).T, sums, input_precision="ieee")
            else:
                sums = tl.dot(a, b.T, sums)
        rows = m * BM + tl.arange(0, BM)
        shift = tl.load(shifts + rows, mask=rows < n, other=0.0)
        left, right = tl.split(tl.permute(tl.reshape(sums, (BM, 2, HALF)), (0, 2, 1)))
        at = v * BN + tl.arange(0, HALF)
        e, s0, w0, t0 = _part(
            left, at, vocabulary, shift, bias, sharpness, softcap, HAS_BIAS, HAS_CAP, ENTROPY, HIT, EVEN
        )
        if STORE:
            out.store([m * BM, v * BN], e.to(out.dtype))
        e, s1, w1, t1 = _part(
            right, at + HALF, vocabulary, shift, bias, sharpness, softcap, HAS_BIAS, HAS_CAP, ENTROPY, HIT, EVEN
        )
        if STORE:
            out.store([m * BM, v * BN + HALF], e.to(out.dtype))
        place = partial + rows.to(tl.int64) * row_of_partial + v
        third = row_of_partial // 3
        tl.store(place, s0 + s1, mask=rows < n)
        if ENTROPY:
            tl.store(place + third, w0 + w1, mask=rows < n)
        if HIT:
            tl.store(place + 2 * third, tl.maximum(t0, t1), mask=rows < n)


@triton.jit(do_not_specialize=["n"])
def _fold_kernel(
    hidden,
    weight,
    hidden_stride,
    weight_stride,
    out,
    stride,
    ids,
    logits,
    shifts,
    bias,
    partial,
    row_of_partial,
    log_normaliser,
    logprob,
    entropy,
    hit,
    total,
    n,
    vocabulary,
    width,
    tiles_n,
    sharpness,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    STORE: tl.constexpr,
    ENTROPY: tl.constexpr,
    HIT: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
):
    """Of some rows the sums over their tiles, their statistics, the target's place; all anew after a bad guess."""
    first = tl.program_id(0) * ROWS
    rows = first + tl.arange(0, ROWS)
    present = rows < n
    tiles = tl.arange(0, TILES)[None, :]
    at = partial + rows.to(tl.int64)[:, None] * row_of_partial + tiles
    third = row_of_partial // 3
    inside = present[:, None] & (tiles < tiles_n)
    s = tl.sum(tl.load(at, mask=inside, other=0.0), axis=1)
    weighted = s
    top = s
    if ENTROPY:
        weighted = tl.sum(tl.load(at + third, mask=inside, other=0.0), axis=1)
    if HIT:
        top = tl.max(tl.load(at + 2 * third, mask=inside, other=-float("inf")), axis=1)
    shift = tl.load(shifts + rows, mask=present, other=0.0)
    z_target = tl.load(logits + rows, mask=present, other=0.0)
    target = tl.load(ids + rows, mask=present, other=0)
    _store_statistics(
        rows, present, shift, s, weighted, top, z_target, target, out, stride,
        log_normaliser, logprob, entropy, hit, total, sharpness, softcap, HAS_CAP, STORE, ENTROPY, HIT,
    )  # fmt: skip
    far = present & ((s < 2.0**-FAR) | (s > 2.0**FAR) | (s != s))
    if tl.max(far.to(tl.int32), axis=0) != 0:
        for number in range(0, ROWS):
            row = first.to(tl.int64) + number
            if tl.sum(tl.where(rows == row, far.to(tl.int32), 0), axis=0) != 0:
                # Other threads may have written what this row writes again.
                tl.debug_barrier()
                _anew(
                    row, hidden, hidden_stride, weight, weight_stride, out, stride, ids, logits, bias, log_normaliser,
                    logprob, entropy, hit, total, vocabulary, width, sharpness, softcap, HAS_BIAS, HAS_CAP, STORE,
                    ENTROPY, HIT, BV, BK,
                )  # fmt: skip


@triton.jit
def _store_statistics(
    rows,
    present,
    shift,
    s,
    weighted,
    top,
    z_target,
    target,
    out,
    stride,
    log_normaliser,
    logprob,
    entropy,
    hit,
    total,
    sharpness,
    softcap,
    HAS_CAP: tl.constexpr,
    STORE: tl.constexpr,
    ENTROPY: tl.constexpr,
    HIT: tl.constexpr,
):
    """What `Rows` holds of rows with these sums; over the target's e, what the gradient is proportional to there."""
    below_target = z_target * sharpness - shift
    log_s = tl.log2(s)
    tl.store(log_normaliser + rows, (shift + log_s) * LN2, mask=present)
    tl.store(logprob + rows, (below_target - log_s) * LN2, mask=present)
    tl.store(total + rows, s, mask=present)
    if ENTROPY:
        tl.store(entropy + rows, (log_s - weighted / s) * LN2, mask=present)
    if HIT:
        # The target's logit was summed in another order than the product's.
        tl.store(hit + rows, (below_target >= top - 1e-5 * tl.abs(top + shift)).to(tl.uint8), mask=present)
    if STORE:
        at_target = tl.exp2(below_target) - s
        if HAS_CAP:
            at_target *= 1 - (z_target / softcap) * (z_target / softcap)
        known = present & (z_target == z_target)
        tl.store(out + rows.to(tl.int64) * stride + target, at_target.to(out.dtype.element_ty), mask=known)


@triton.jit
def _anew(
    row,
    hidden,
    hidden_stride,
    weight,
    weight_stride,
    out,
    stride,
    ids,
    logits,
    bias,
    log_normaliser,
    logprob,
    entropy,
    hit,
    total,
    vocabulary,
    width,
    sharpness,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    STORE: tl.constexpr,
    ENTROPY: tl.constexpr,
    HIT: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
):
    """A row from its hidden state: once for the statistics, once more to write e under the right shift."""
    shift = -float("inf")
    s = 0.0
    weighted = 0.0
    top = -float("inf")
    hidden += row * hidden_stride
    e_of_row = out + row * stride
    for write in range(0, 2 if STORE else 1):
        for start in range(0, vocabulary, BV):
            columns = start + tl.arange(0, BV)
            inside = columns < vocabulary
            z = tl.zeros([BV], tl.float32)
            for k in range(0, width, BK):
                place = k + tl.arange(0, BK)
                h = tl.load(hidden + place, mask=place < width, other=0.0).to(tl.float32)
                w = tl.load(
                    weight + columns.to(tl.int64)[:, None] * weight_stride + place[None, :],
                    mask=inside[:, None] & (place < width)[None, :],
                    other=0.0,
                ).to(tl.float32)
                z += tl.sum(w * h[None, :], axis=1)
            z = tl.where(inside, _of_head(z, columns, inside, bias, softcap, HAS_BIAS, HAS_CAP), -float("inf"))
            y = z * sharpness
            if write == 0:
                highest = tl.max(y, axis=0)
                raised = tl.maximum(shift, tl.ceil(highest))
                base = tl.where(raised > -float("inf"), raised, 0.0)
                moved = tl.where(shift > -float("inf"), shift - base, 0.0)
                factor = tl.where(shift > -float("inf"), tl.exp2(moved), 0.0)
                below = y - base
                e = tl.exp2(below)
                bent = tl.sum(tl.where(below > -float("inf"), e * below, 0.0), axis=0)
                weighted = factor * (weighted + moved * s) + bent
                s = factor * s + tl.sum(e, axis=0)
                top = tl.maximum(top + moved, highest - base)
                shift = raised
            elif STORE:
                e = tl.exp2(y - shift)
                if HAS_CAP:
                    e *= 1 - (z / softcap) * (z / softcap)
                tl.store(e_of_row + columns, e.to(out.dtype.element_ty), mask=inside)
    tl.debug_barrier()
    _store_statistics(
        row, row >= 0, shift, s, weighted, top, tl.load(logits + row), tl.load(ids + row), out, stride,
        log_normaliser, logprob, entropy, hit, total, sharpness, softcap, HAS_CAP, STORE, ENTROPY, HIT,
    )  # fmt: skip


def pays(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the product can be made so: bfloat16 in aligned rows, on a GPU of Hopper's kind with room for tiles."""
    if not hidden.is_cuda or weight.dtype != torch.bfloat16 or hidden.shape[1] % 8 or len(hidden) == 0:
        return False
    gpu = torch.cuda.get_device_properties(hidden.device)
    return gpu.major >= 9 and gpu.shared_memory_per_block_optin >= SHARED_BYTES


class Product:
    """The product of hidden [N, H] and weight [V, H], some tokens at a time.

    Allocates 8 bytes a token, and for the tokens at a time 12 V / 256 bytes each of the tiles' sums. The tokens of a
    call begin at a multiple of 16, as chunks do, and its tensors are those of the call before or their first rows.
    `entropy`, `hit`: whether these are found too; their places in the rows are left alone otherwise.
    `log_normaliser` where it is known: e is then the probability itself.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        ids: Tensor,
        bias: Tensor | None,
        *,
        at_a_time: int,
        temperature: float,
        softcap: float | None,
        entropy: bool = False,
        hit: bool = False,
        log_normaliser: Tensor | None = None,
    ):
        self.hidden, self.weight, self.ids, self.bias = hidden.contiguous(), weight.contiguous(), ids, bias
        device, n = hidden.device, len(hidden)
        self.tile, warps = {name: TILE[name] for name in ("BM", "BN", "BK")}, TILE["num_warps"]
        self.weight_tiles = TensorDescriptor.from_tensor(self.weight, [self.tile["BN"], self.tile["BK"]])
        self.scalars = LOG2E / temperature, 0.0 if softcap is None else float(softcap)
        self.flags = bias is not None, softcap is not None
        self.found = entropy, hit
        self.product = {mode: Repeated(_product_kernel, num_stages=s, num_warps=warps) for mode, s in STAGES.items()}
        self.fold = {mode: Repeated(_fold_kernel, num_warps=4) for mode in STAGES}
        self.tiles_n = triton.cdiv(len(weight), self.tile["BN"])
        self.partial = torch.empty(at_a_time, 3, triton.cdiv(self.tiles_n, 16) * 16, device=device)
        self.processors = torch.cuda.get_device_properties(device).multi_processor_count if hidden.is_cuda else 2
        self.logits, self.shifts = torch.empty(n, device=device), torch.empty(n, device=device)
        _target_kernel[(n,)](
            self.hidden,
            self.weight,
            ids,
            bias,
            self.logits,
            self.shifts,
            len(self.weight),
            hidden.shape[1],
            self.hidden.stride(0),
            self.weight.stride(0),
            *self.scalars,
            *self.flags,
            BLOCK=1024,
            num_warps=4,
        )
        if log_normaliser is not None:
            self.shifts = log_normaliser * LOG2E

    def __call__(self, tokens: slice, out: Rows, e: Tensor | None) -> None:
        """`out` as `rows.statistics` finds it in the tokens' logits; over `e` [n, V] what that writes with `store`."""
        if tokens.start % ALIGNED:
            raise ValueError(f"tokens must begin at a multiple of {ALIGNED}, got {tokens.start}")
        hidden, shifts = self.hidden[tokens], self.shifts[tokens]
        (n, width), vocabulary = hidden.shape, len(self.weight)
        bm, bn, bk = self.tile.values()
        tiles_m = triton.cdiv(n, bm)
        target, mode = (hidden, "reading") if e is None else (e, "writing")
        row_of_partial = self.partial.stride(0)
        self.product[mode](
            min(self.processors, tiles_m * self.tiles_n),
            TensorDescriptor.from_tensor(hidden, [bm, bk]),
            self.weight_tiles,
            TensorDescriptor.from_tensor(target, [bm, bn // 2]),
            shifts,
            self.bias,
            self.partial,
            n,
            vocabulary,
            width,
            row_of_partial,
            triton.cdiv(tiles_m, triton.cdiv(tiles_m, LARGEST_GROUP[mode])),
            *self.scalars,
            *self.flags,
            e is not None,
            *self.found,
            vocabulary % bn == 0,  # EVEN
            not hidden.is_cuda,  # EXACT
            bm,
            bn,
            bk,
            self.processors,
        )
        tiles = triton.next_power_of_2(self.tiles_n)
        at_once = max(4096 // tiles, 1)
        self.fold[mode](
            triton.cdiv(n, at_once),
            hidden,
            self.weight,
            hidden.stride(0),
            self.weight.stride(0),
            target,
            target.stride(0),
            self.ids[tokens],
            self.logits[tokens],
            shifts,
            self.bias,
            self.partial,
            row_of_partial,
            out.log_normaliser,
            out.logprob,
            out.entropy,
            out.hit.view(torch.uint8),
            out.total,
            n,
            vocabulary,
            width,
            self.tiles_n,
            *self.scalars,
            *self.flags,
            e is not None,
            *self.found,
            at_once,
            tiles,
            64,  # BV
            128,  # BK
        )


def partial_bytes(vocabulary: int) -> int:
    """Of a token's sums of the tiles."""
    return 12 * (triton.cdiv(triton.cdiv(vocabulary, TILE["BN"]), 16) * 16)
