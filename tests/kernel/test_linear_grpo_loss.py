import itertools
import math

import pytest
import torch

from r1lab.kernel.chunks import Sums
from r1lab.kernel.linear_grpo_loss import linear_grpo_loss
from r1lab.loss import grpo as definition

GPU = torch.cuda.is_available()
# b, T, H, V
SHAPES = [(4, 64, 256, 50257), (2, 300, 64, 151936), (3, 1, 128, 129280)] if GPU else [(3, 5, 8, 150), (2, 1, 8, 65)]
BASE = {
    "temperature": 0.8,
    "sequences": 4,
    "tokens": 30,
    "max_length": 9,
    "epsilon_low": 0.2,
    "epsilon_high": 0.3,
    "ratio_cap": None,
    "ratio_level": "token",
    "beta": 0.1,
    "kl": "k3",
    "kl_placement": "loss",
    "aggregate": "sequence_mean",
    "entropy_coef": 0.0,
}


class Inputs:
    """A row with nothing counted where there are several, NaN under the mask, ids at both ends."""

    def __init__(self, shape, device, dtype=torch.float32, *, biased=False, spread=1.0):
        b, length, width, vocabulary = shape
        generator = torch.Generator().manual_seed(0)

        def randn(*size):
            return torch.randn(*size, generator=generator)

        self.mask = torch.rand(b, length, generator=generator) < 0.8
        self.mask[0, 0], self.mask[-1] = True, False
        n = int(self.mask.sum())
        hidden, head = randn(n, width).to(dtype), (2 * width**-0.5 * randn(vocabulary, width)).to(dtype)
        self.ids = torch.randint(vocabulary, (n,), generator=generator)
        self.ids[-1], self.ids[0] = vocabulary - 1, 0
        own = (hidden.double() @ head.double().T / 0.8).log_softmax(-1).gather(1, self.ids[:, None]).squeeze(1)
        self.own = torch.full((b, length), math.nan).masked_scatter(self.mask, own.float()).to(device)
        self.old, self.ref = (
            torch.full((b, length), math.nan).masked_scatter(self.mask, own.float() + spread * randn(n).clamp(-3, 3))
            for _ in range(2)
        )
        self.advantages = randn(b)
        self.tensors = [hidden, head, *([randn(vocabulary).to(dtype)] if biased else [])]
        self.ref_tensors = [randn(n, width).to(dtype), head.clone()]
        for name in ("mask", "ids", "old", "ref", "advantages"):
            setattr(self, name, getattr(self, name).to(device))
        self.tensors = [x.to(device).requires_grad_() for x in self.tensors]
        self.ref_tensors = [x.to(device) for x in self.ref_tensors]

    def run(self, function, dtype=None, *, old=True, ref=True, **changes):
        """Output and gradients of twice the loss, in another dtype where one is given."""

        def cast(x):
            return x if dtype is None else x.to(dtype)

        tensors = [cast(x.detach()).requires_grad_() for x in self.tensors]
        options = BASE | ({"bias": tensors[2]} if len(tensors) > 2 else {}) | changes
        if options.pop("fused_reference", False):
            ref, options["reference"] = False, (*(cast(x) for x in self.ref_tensors), None)
        advantages = options.pop("advantages", self.advantages)
        out = function(
            *tensors[:2],
            self.ids,
            cast(self.old) if old else None,
            cast(self.ref) if ref else None,
            cast(advantages),
            self.mask,
            **options,
        )
        return out, torch.autograd.grad(2 * out.loss, tensors)


def materialised(hidden, head, ids, old, ref, advantages, mask, *, temperature, bias=None, softcap=None, **loss):
    """As a model makes logits, in the dtype it is in; the softmax and the loss in float32."""

    def per_token(hidden, head, bias):
        logits = hidden @ head.T
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = logits if bias is None else logits + bias
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        log_p = (logits / temperature).log_softmax(-1)
        values = log_p.gather(1, ids[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(1)
        return [x.new_zeros(mask.shape).masked_scatter(mask, x) for x in values]

    logprobs, entropy = per_token(hidden, head, bias)
    reference, _ = loss.pop("reference", None), loss.pop("chunk_bytes", None)
    if reference is not None:
        ref = per_token(*reference)[0].detach()
    old, ref = (None if x is None else x.to(logprobs.dtype) for x in (old, ref))
    old = logprobs.detach() if old is None else old
    return definition.grpo_loss(logprobs, old, ref, advantages.to(logprobs.dtype), mask, entropy, **loss)


def check(inputs, assert_close_to_float64, **options):
    fused, gradients = inputs.run(linear_grpo_loss, **options)
    same, same_gradients = inputs.run(materialised, **options)
    exact, exact_gradients = inputs.run(materialised, torch.float64, **options)

    def with_parts(out):
        # the loss beside what it is the sum of, which may cancel
        return torch.stack([out.loss.detach(), *(out.metrics[n] for n in exact.metrics if n.endswith("_loss"))])

    assert_close_to_float64(
        [with_parts(fused), *gradients], [with_parts(same), *same_gradients], [with_parts(exact), *exact_gradients]
    )
    assert set(exact.metrics) <= set(fused.metrics)
    clips = [name for name in exact.metrics if name.startswith("clip")]
    # The parts of the loss are judged above.
    names = [name for name in exact.metrics if name not in clips and not name.endswith("_loss")]
    # a share of tokens: those whose ratio is within rounding of a bound may fall on either side
    low = 0.1 if inputs.tensors[0].dtype != torch.float32 else 1e-6
    for name in clips:
        assert fused.metrics[name].item() == pytest.approx(exact.metrics[name].item(), abs=low), name
    assert_close_to_float64(*([out.metrics[name] for name in names] for out in (fused, same, exact)), slack=3e-6)


OPTIONS = [
    {},
    {"kl": "ratio_k3", "aggregate": "token_mean", "ratio_cap": 1.5},
    {"kl": "k2", "aggregate": "constant_length", "entropy_coef": 0.1},
    {"kl": "k1", "old": False},
    {"ratio_level": "sequence", "kl": "ratio_k3", "aggregate": "token_mean", "entropy_coef": 0.1},
    {"kl_placement": "none", "ref": False, "beta": 0.0},
    {"ratio_level": "sequence"},
    {"fused_reference": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk_bytes", [1 << 30, 1 << 11])
def test_against_float64(device, options, dtype, chunk_bytes, assert_close_to_float64):
    if GPU and chunk_bytes < 1 << 12:
        chunk_bytes = 100 * 50304 * dtype.itemsize
    check(Inputs(SHAPES[0], device, dtype), assert_close_to_float64, chunk_bytes=chunk_bytes, **options)


@pytest.mark.skipif(GPU, reason="there it is taken without being told")
@pytest.mark.parametrize("options", OPTIONS[:5:2] + OPTIONS[-2:], ids=str)
def test_with_the_product_of_the_gpu(device, options, product_of_the_gpu, assert_close_to_float64):
    check(Inputs((3, 9, 8, 150), device, torch.bfloat16), assert_close_to_float64, chunk_bytes=1 << 12, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_shapes(device, shape, dtype, assert_close_to_float64):
    check(Inputs(shape, device, dtype), assert_close_to_float64)


def test_bias_and_soft_cap(device, assert_close_to_float64):
    check(Inputs(SHAPES[0], device, biased=True), assert_close_to_float64, softcap=3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_far_apart_policies(device, dtype, assert_close_to_float64):
    # log-ratios of 30 and -30 in turn
    inputs = Inputs(SHAPES[0], device, dtype)
    turns = 30.0 * (-1) ** torch.arange(inputs.mask.shape[1], device=device)
    inputs.old, inputs.ref = inputs.own - turns, inputs.own + turns.roll(1) / 2
    inputs.advantages = inputs.advantages.abs()
    check(inputs, assert_close_to_float64, kl="ratio_k3")
    inputs.advantages = -inputs.advantages
    check(inputs, assert_close_to_float64, ratio_cap=3.0)


def assert_as_defined(inputs, rtol=1e-4, **options):
    fused, ours = inputs.run(linear_grpo_loss, **options)
    exact, theirs = inputs.run(definition.linear_grpo_loss, torch.float64, **options)
    assert all(x.isfinite().all() for x in theirs)
    torch.testing.assert_close(fused.loss.double(), exact.loss, rtol=rtol, atol=1e-6)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), their, rtol=rtol, atol=rtol * their.abs().max().item())


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("log_ratio", [85.0, 95.0, math.inf])
def test_the_log_ratio_is_held_where_the_definition_holds_it(device, log_ratio, advantage):
    """One token of a row: at token level its gradient ends there, at sequence level the row's mean has it at 80."""
    inputs = Inputs((2, 3, 4, 65), device)
    inputs.old[0, 0] = inputs.own[0, 0] - log_ratio
    inputs.advantages = torch.full_like(inputs.advantages, advantage)
    for level, kl in (("token", "k3"), ("token", "ratio_k3"), ("sequence", "k3")):
        assert_as_defined(inputs, ratio_level=level, kl=kl)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "log_r", [pytest.param(-200.0, marks=pytest.mark.slow), 79.0, 95.0, pytest.param(200.0, marks=pytest.mark.slow)]
)
def test_the_kl_is_clamped_where_the_definition_clamps_it(device, log_r, dtype):
    inputs = Inputs((2, 3, 4, 65), device, dtype)
    inputs.ref[0, 0] = inputs.own[0, 0] + log_r
    inputs.old[0, 0] = inputs.own[0, 0] - 30.0  # of ratio_k3 the product is clamped too
    rtol = 1e-3 if dtype == torch.float32 else 5e-2
    for level, kl in (("token", "k3"), ("token", "ratio_k3"), ("sequence", "ratio_k3")):
        assert_as_defined(inputs, rtol=rtol, ratio_level=level, kl=kl)
        fused, exact = (
            inputs.run(f, ratio_level=level, kl=kl)[0] for f in (linear_grpo_loss, definition.linear_grpo_loss)
        )
        for name in ("kl", "kl_clamp_fraction"):
            torch.testing.assert_close(fused.metrics[name], exact.metrics[name], rtol=rtol, atol=1e-6)
        assert (fused.metrics["kl_clamp_fraction"] > 0) == (log_r > 80 or (kl == "ratio_k3" and log_r > 0))


@pytest.mark.skipif(not GPU, reason="takes a minute in the interpreter")
def test_metrics_of_a_long_completion_at_the_clamp_are_finite(device):
    inputs = Inputs((2, 8000, 4, 65), device)
    inputs.ref = inputs.own + 200.0
    size = {"sequences": 1, "tokens": len(inputs.ids), "aggregate": "token_mean"}
    out, exact = (inputs.run(f, **size)[0] for f in (linear_grpo_loss, definition.linear_grpo_loss))
    for name, value in exact.metrics.items():
        torch.testing.assert_close(out.metrics[name], value, rtol=1e-4, atol=1e-6)
    assert out.metrics["kl"].isfinite() and out.metrics["kl"] > 1e34


def test_float16_holds_the_log_ratio_too(device):
    inputs = Inputs((2, 3, 4, 65), device, torch.float16)
    inputs.old[0, 0] = -math.inf
    inputs.advantages = inputs.advantages.abs()
    assert_as_defined(inputs, rtol=1e-2)


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
def test_forbidden_tokens(device, ratio_level, entropy_coef):
    inputs = Inputs((2, 3, 4, 65), device, biased=True)
    forbidden = [v for v in (3, 50) if v not in inputs.ids.tolist()]
    with torch.no_grad():
        inputs.tensors[2][forbidden] = -math.inf
    assert forbidden
    assert_as_defined(inputs, rtol=1e-3, ratio_level=ratio_level, entropy_coef=entropy_coef)


def test_an_advantage_a_token(device, assert_close_to_float64):
    inputs = Inputs(SHAPES[0], device)
    expanded = inputs.advantages[:, None].expand_as(inputs.mask)
    out, gradients = inputs.run(linear_grpo_loss, advantages=expanded)
    expected, others = inputs.run(linear_grpo_loss)
    assert torch.equal(out.loss, expected.loss) and all(map(torch.equal, gradients, others))
    own = torch.randn(inputs.mask.shape, generator=torch.Generator().manual_seed(1)).to(device)
    check(inputs, assert_close_to_float64, advantages=own.masked_fill(~inputs.mask, math.nan))


@pytest.mark.parametrize("kinds", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
def test_a_reference_in_another_dtype_with_another_vocabulary(device, kinds, assert_close_to_float64):
    inputs = Inputs(SHAPES[0], device, kinds[0])
    hidden, head = inputs.ref_tensors
    inputs.ref_tensors = [hidden.to(kinds[1]), torch.cat([head, head[:70]]).to(kinds[1])]
    check(inputs, assert_close_to_float64, fused_reference=True, chunk_bytes=1 << 25 if GPU else 1 << 11)


def test_strided_inputs(device):
    inputs = Inputs(SHAPES[0], device, biased=True)
    expected = inputs.run(linear_grpo_loss)[1]

    def apart(x):
        return torch.stack([x, x], dim=-1)[..., 0]

    arguments = (apart(x) for x in (inputs.ids, inputs.old, inputs.ref, inputs.advantages, inputs.mask))
    hidden, head, bias = inputs.tensors
    out = linear_grpo_loss(hidden.T.contiguous().T, head, *arguments, bias=apart(bias), **BASE)
    torch.testing.assert_close(torch.autograd.grad(2 * out.loss, inputs.tensors), expected)


def test_all_options_agree_with_the_definition(device):
    inputs = Inputs(SHAPES[-1] if GPU else (2, 3, 4, 65), device)
    every = itertools.product(
        ["k1", "k2", "k3", "ratio_k3"],
        ["loss", "none"],
        ["token", "sequence"],
        ["sequence_mean", "token_mean", "constant_length"],
    )
    for kl, kl_placement, ratio_level, aggregate in every:
        options = {"kl": kl, "kl_placement": kl_placement, "ratio_level": ratio_level, "aggregate": aggregate}
        fused, ours = inputs.run(linear_grpo_loss, **options)
        exact, theirs = inputs.run(definition.linear_grpo_loss, **options)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-6 * max(x.abs().max().item() for x in theirs))
        metrics = {name: fused.metrics[name] for name in exact.metrics}
        torch.testing.assert_close(metrics, exact.metrics, rtol=1e-4, atol=1e-6)


def test_everything_masked(device):
    inputs = Inputs(SHAPES[0], device)
    inputs.mask = torch.zeros_like(inputs.mask)
    inputs.tensors[0], inputs.ids = inputs.tensors[0][:0], inputs.ids[:0]
    out, gradients = inputs.run(linear_grpo_loss)
    assert out.loss.item() == 0 and gradients[0].shape[0] == 0 and (gradients[1] == 0).all()


def test_autocast_keeps_float32_gradients(device):
    inputs = Inputs(SHAPES[0], device)
    expected, exact = inputs.run(linear_grpo_loss)
    with torch.autocast(device, dtype=torch.bfloat16):
        out, gradients = inputs.run(linear_grpo_loss, chunk_bytes=1 << 11 if not GPU else 1 << 25)
    # the ratio is off where logprobs are
    torch.testing.assert_close(out.loss, expected.loss, rtol=0.1, atol=0.02)
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.2, atol=0.05 * theirs.abs().max().item())


def test_a_frozen_head_costs_no_product(device, calls):
    made = calls(Sums, "_add_weight")
    inputs = Inputs(SHAPES[0], device)
    hidden, head = inputs.tensors
    out = linear_grpo_loss(
        hidden, head.detach(), inputs.ids, inputs.old, inputs.ref, inputs.advantages, inputs.mask, **BASE
    )
    (2 * out.loss).backward()
    assert not made
    torch.testing.assert_close(hidden.grad, inputs.run(linear_grpo_loss)[1][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_without_gradient_it_is_a_forward_pass(device, dtype, calls):
    inputs = Inputs(SHAPES[0], device, dtype)
    made = calls(Sums, "add")
    arguments = (inputs.ids, inputs.old, inputs.ref, inputs.advantages, inputs.mask)
    with torch.no_grad():
        out = linear_grpo_loss(*inputs.tensors, *arguments, **BASE)
    assert not made and not out.loss.requires_grad
    expected, _ = inputs.run(linear_grpo_loss)
    assert made
    torch.testing.assert_close(out.loss, expected.loss.detach())
    torch.testing.assert_close(out.metrics, expected.metrics)


def test_in_a_compiled_model_that_gathers_gradients(device):
    """Two microbatches, one after the other, under torch.compile: gradients of both at once, without."""
    inputs = Inputs(SHAPES[0], device)
    hidden, head = (x.detach() for x in inputs.tensors)
    of_first = int(inputs.mask[0].sum())
    parts = [(slice(0, of_first), slice(0, 1)), (slice(of_first, None), slice(1, None))]

    def gradients(wrap, parts):
        body = torch.nn.Linear(hidden.shape[1], hidden.shape[1], bias=False, device=device)
        torch.nn.init.eye_(body.weight)
        weight = head.clone().requires_grad_()

        def step(tokens, rows):
            x = torch.nn.functional.silu(body(hidden[tokens]))
            rest = (inputs.old[rows], inputs.ref[rows], inputs.advantages[rows], inputs.mask[rows])
            return linear_grpo_loss(x, weight, inputs.ids[tokens], *rest, **BASE).loss

        step = wrap(step)
        for part in parts:
            step(*part).backward()
        return body.weight.grad, weight.grad

    compiled = gradients(lambda step: torch.compile(step, backend="inductor" if GPU else "eager"), parts)
    torch.testing.assert_close(compiled, gradients(lambda step: step, [(slice(None), slice(None))]))


def test_backward_works_once(device):
    inputs = Inputs(SHAPES[0], device)
    arguments = (inputs.ids, inputs.old, inputs.ref, inputs.advantages, inputs.mask)
    out = linear_grpo_loss(*inputs.tensors, *arguments, **BASE)
    out.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="works once"):
        out.loss.backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl": "k4"}, "kl 'k4' is not one of k1, k2, k3, ratio_k3"),
        ({"ratio_level": "word"}, "ratio level 'word'"),
        ({"ratio_cap": 1.0}, "ratio_cap must be above 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"ref": False}, "needs ref_logprobs"),
        ({"epsilon_low": -0.1}, "epsilon_low and epsilon_high must be at least 0"),
        ({"softcap": 0.0}, "softcap must be above 0"),
        ({"chunk_bytes": -1}, "chunk_bytes must be a whole number of bytes above 0"),
        ({"advantages": torch.ones(1, 1, 1)}, "advantages must be"),
        ({"bias": torch.ones(1)}, "bias must be"),
    ],
)
def test_what_is_refused(device, changes, message):
    for function in (linear_grpo_loss, definition.linear_grpo_loss):
        with pytest.raises(ValueError, match=message):
            Inputs(SHAPES[-1], device).run(function, **changes)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("count", ["fewer", "more", "none"])
def test_a_mask_of_another_number_of_tokens_makes_nan(device, count, level):
    inputs = Inputs(SHAPES[0], device)
    mask = torch.full_like(inputs.mask, count == "more")
    if count == "fewer":
        mask.view(-1)[inputs.mask.view(-1).nonzero()[0]] = True
    assert int(mask.sum()) != len(inputs.ids)
    arguments = (inputs.ids, inputs.old, inputs.ref, inputs.advantages, mask)
    out = linear_grpo_loss(*inputs.tensors, *arguments, **BASE | {"ratio_level": level})
    assert out.loss.isnan()
    with pytest.raises(ValueError, match="completion_mask counts"):
        definition.linear_grpo_loss(*inputs.tensors, *arguments, **BASE)


def test_signature(same_signature):
    same_signature(linear_grpo_loss, definition.linear_grpo_loss)


@pytest.mark.skipif(not GPU, reason="the interpreter compiles nothing")
def test_a_sweep_compiles_once(device):
    from r1lab.kernel import chunks, product, rows
    from r1lab.kernel import linear_grpo_loss as module

    kernels = [module._gather_kernel, module._token_kernel, chunks._scale_kernel]
    kernels += [rows._row_kernel, rows._gradient_kernel, rows._scale_kernel]
    kernels += [product._target_kernel, product._product_kernel, product._fold_kernel]

    def compiled():
        return sum(len(cache) for kernel in kernels for caches in kernel.device_caches.values() for cache in caches[:1])

    aggregates = ["sequence_mean", "token_mean", "constant_length"]

    def trial(number):
        inputs = Inputs((2 + number % 4, 20 + number, 64, 50257), device, torch.bfloat16)
        changes = {"beta": number * 0.01, "epsilon_low": 0.1 + number * 0.01, "epsilon_high": 1.0 + number}
        changes |= {"aggregate": aggregates[number % 3], "temperature": 0.5 + number * 0.05}
        for kl, ratio_cap in (("k3", None), ("ratio_k3", 2.0 + number)):
            for level in ("token", "sequence"):
                inputs.run(linear_grpo_loss, **changes, kl=kl, ratio_cap=ratio_cap, ratio_level=level)

    trial(0)
    before = compiled()
    for number in range(1, 21):
        trial(number)
    assert compiled() == before > 0
