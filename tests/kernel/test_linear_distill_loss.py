import pytest
import torch

from r1lab.kernel import linear_distill_loss as module
from r1lab.kernel.chunks import Sums
from r1lab.kernel.linear_distill_loss import DIVERGENCES, linear_distill_loss
from r1lab.loss import distill as definition

GPU = torch.cuda.is_available()
# N, H, H', V
SHAPES = [(33, 256, 128, 50257), (1, 64, 64, 151936)] if GPU else [(7, 8, 6, 150), (1, 8, 8, 65)]


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    if not GPU:
        monkeypatch.setattr(module, "BLOCK", 64)


def inputs(shape, device, dtype):
    n, width, teacher_width, vocabulary = shape
    generator = torch.Generator().manual_seed(0)
    sizes = ((n, width), (vocabulary, width), (n, teacher_width), (vocabulary, teacher_width))
    tensors = [torch.randn(*size, generator=generator) * (3 * size[1] ** -0.5 if i % 2 else 1) for i, size in
               enumerate(sizes)]  # fmt: skip
    return [x.to(device, dtype).requires_grad_(i < 2) for i, x in enumerate(tensors)]


def materialised(
    hidden, head, teacher_hidden, teacher_head, *, temperature, teacher_temperature, tokens, divergence, jsd_beta, **_
):
    """As models make logits, in the dtype they are in; the divergence in float32."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    log_s, log_t = (
        ((h @ w.T).to(wide) / divisor).log_softmax(-1)
        for h, w, divisor in ((hidden, head, temperature), (teacher_hidden, teacher_head, teacher_temperature))
    )
    s, t = log_s.exp(), log_t.exp()
    if divergence == "forward_kl":
        return (t * (log_t - log_s)).sum() / tokens
    if divergence == "reverse_kl":
        return (s * (log_s - log_t)).sum() / tokens
    log_m = (jsd_beta * t + (1 - jsd_beta) * s).log()
    return (jsd_beta * t * (log_t - log_m) + (1 - jsd_beta) * s * (log_s - log_m)).sum() / tokens


def results(function, tensors, **options):
    loss = function(*tensors, temperature=0.8, teacher_temperature=1.3, tokens=50, jsd_beta=0.3, **options)
    return loss.detach(), *torch.autograd.grad(3 * loss, tensors[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(device, shape, divergence, dtype, assert_close_to_float64):
    tensors = inputs(shape, device, dtype)
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in tensors]
    exact = results(materialised, doubles, divergence=divergence)
    same = results(materialised, tensors, divergence=divergence)
    torch.testing.assert_close(exact[0], results(definition.linear_distill_loss, doubles, divergence=divergence)[0])
    for rows in (1000, 4):
        budget = 2 * rows * (shape[3] + 64) * dtype.itemsize
        fused = results(linear_distill_loss, tensors, divergence=divergence, chunk_bytes=budget)
        # The interpreter truncates to bfloat16, a GPU rounds; there products of few rows round some logits otherwise.
        slack = {torch.float32: 1e-6, torch.bfloat16: 1e-5 if GPU else 2e-3, torch.float16: 1e-6}[dtype]
        assert_close_to_float64(fused, same, exact, slack=slack)


def test_backward_works_once(device):
    tensors = inputs(SHAPES[0], device, torch.float32)
    loss = linear_distill_loss(*tensors, divergence="jsd", jsd_beta=0.5, temperature=1.0, tokens=7)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="works once"):
        loss.backward()


FUNCTIONS = [linear_distill_loss, definition.linear_distill_loss]


@pytest.mark.parametrize(
    "kinds",
    [(torch.bfloat16, torch.float32), pytest.param((torch.float32, torch.bfloat16), marks=pytest.mark.slow)],
    ids=str,
)
def test_student_and_teacher_in_two_dtypes(device, kinds, assert_close_to_float64):
    shape = (300, 64, 32, 50257) if GPU else (40, 8, 6, 70)
    tensors = [
        x.detach().to(kinds[i // 2]).requires_grad_(i < 2) for i, x in enumerate(inputs(shape, device, kinds[0]))
    ]
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in tensors]
    exact, same = (results(materialised, x, divergence="jsd") for x in (doubles, tensors))
    fused = results(linear_distill_loss, tensors, divergence="jsd", chunk_bytes=16 * (shape[3] + 64) * 6)
    assert_close_to_float64(fused, same, exact, slack=4e-3)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_token_that_both_forbid_adds_nothing(device, function, divergence):
    hidden, head, teacher_hidden, teacher_head = (
        x.detach().abs() for x in inputs((5, 4, 3, 70), device, torch.float32)
    )
    options = {"divergence": divergence, "jsd_beta": 0.5, "temperature": 1.0, "tokens": 5}

    def run(*heads):
        head, teacher_head = heads
        head = head.clone().requires_grad_()
        loss = function(hidden, head, teacher_hidden, teacher_head, **options)
        return loss.detach(), torch.autograd.grad(loss, head)[0]

    without = run(head[1:], teacher_head[1:])
    head[0], teacher_head[0] = -float("inf"), -float("inf")
    loss, gradient = run(head, teacher_head)
    torch.testing.assert_close((loss, gradient[1:]), without, rtol=1e-4, atol=1e-6)
    assert (gradient[0] == 0).all()


def test_without_gradient_no_product_is_made_for_it(device, calls):
    made = calls(Sums, "_add_weight")
    tensors = inputs(SHAPES[0], device, torch.float32)
    options = {"divergence": "jsd", "jsd_beta": 0.5, "temperature": 1.0, "tokens": 7}
    with torch.no_grad():
        loss = linear_distill_loss(*tensors, **options)
    frozen = linear_distill_loss(tensors[0], tensors[1].detach(), *tensors[2:], **options)
    assert not made
    expected = linear_distill_loss(*tensors, **options)
    assert made and torch.equal(loss, expected) and torch.equal(frozen, expected)


@pytest.mark.parametrize(
    "changes", [{"divergence": "kl"}, {"jsd_beta": -0.1}, {"temperature": 0.0}, {"chunk_bytes": 0}]
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_refused(device, function, changes):
    options = {"divergence": "jsd", "jsd_beta": 0.5, "temperature": 1.0, "tokens": 7} | changes
    with pytest.raises(ValueError, match=next(iter(changes))):
        function(*inputs(SHAPES[1], device, torch.float32), **options)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_teacher_of_another_vocabulary_or_other_tokens_is_refused(device, function):
    student, teacher = (
        inputs((4, 8, 6, 70), device, torch.float32)[:2],
        inputs((3, 6, 6, 70), device, torch.float32)[2:],
    )
    options = {"divergence": "jsd", "jsd_beta": 0.5, "temperature": 1.0, "tokens": 7}
    with pytest.raises(ValueError, match="one vocabulary, got 70 and 65"):
        function(*student, teacher[0], teacher[1][:65], **options)
    with pytest.raises(ValueError, match="the same tokens, got 4 and 3"):
        function(*student, *teacher, **options)


def test_signature(same_signature):
    same_signature(*FUNCTIONS)
