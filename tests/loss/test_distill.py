import math

import pytest
import torch

from r1lab.loss.distill import DIVERGENCES, linear_distill_loss, token_divergence

# the student has 1/2, 1/2, the teacher 1/4, 3/4
STUDENT, TEACHER = torch.tensor([[0.0], [0.0]]), torch.tensor([[0.0], [math.log(3)]])
ONE = torch.ones(1, 1)
OPTIONS = {"jsd_beta": 0.5, "temperature": 1.0, "tokens": 1}
M = (3 / 8, 5 / 8)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        ("forward_kl", 0.25 * math.log(0.5) + 0.75 * math.log(1.5)),
        ("reverse_kl", 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        (
            "jsd",
            0.5 * (0.25 * math.log(0.25 / M[0]) + 0.75 * math.log(0.75 / M[1]))
            + 0.5 * (0.5 * math.log(0.5 / M[0]) + 0.5 * math.log(0.5 / M[1])),
        ),
    ],
)
def test_hand_worked(divergence, expected):
    loss = linear_distill_loss(ONE, STUDENT, ONE, TEACHER, divergence=divergence, **OPTIONS)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    quarter = linear_distill_loss(ONE, STUDENT, ONE, TEACHER, divergence=divergence, **(OPTIONS | {"tokens": 4}))
    assert quarter.item() == pytest.approx(expected / 4, rel=1e-6)


def inputs(n=5, width=3, vocabulary=6):
    generator = torch.Generator().manual_seed(0)
    sizes = ((n, width), (vocabulary, width), (n, 2), (vocabulary, 2))
    tensors = [torch.randn(*size, dtype=torch.float64, generator=generator) for size in sizes]
    return [x.requires_grad_() for x in tensors]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_chunks_change_nothing_and_the_gradient_is_right(divergence):
    options = {"divergence": divergence, "jsd_beta": 0.3, "temperature": 0.7, "tokens": 3}
    hidden, head, *teacher = inputs()

    def run(chunk_bytes):
        loss = linear_distill_loss(hidden, head, *teacher, chunk_bytes=chunk_bytes, **options)
        return loss, *torch.autograd.grad(loss, (hidden, head))

    torch.testing.assert_close(run(2 * 6 * 8), run(1 << 20), rtol=1e-12, atol=1e-12)
    teacher = [x.detach() for x in teacher]
    assert torch.autograd.gradcheck(lambda h, w: linear_distill_loss(h, w, *teacher, **options), (hidden, head))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_token_that_both_forbid_adds_nothing(divergence):
    hidden, head, *teacher = (x.detach().abs() for x in inputs())
    options = {"divergence": divergence, "jsd_beta": 0.3, "temperature": 0.7, "tokens": 3}

    def forbidding(head, forbidden):
        rows = head.new_full((forbidden, head.shape[1]), -math.inf)
        return torch.cat([rows, head])

    def loss(head, forbidden=1):
        return linear_distill_loss(
            hidden, forbidding(head, forbidden), teacher[0], forbidding(teacher[1], forbidden), **options
        )

    head.requires_grad_()
    torch.testing.assert_close(loss(head), loss(head, forbidden=0))
    assert torch.autograd.gradcheck(loss, head)


def test_the_teacher_has_no_gradient_and_agreement_no_loss():
    hidden, head, *_ = inputs()
    for divergence in DIVERGENCES:
        loss = linear_distill_loss(hidden, head, hidden, head, divergence=divergence, **OPTIONS)
        assert loss.item() == pytest.approx(0, abs=1e-12)
        gradients = torch.autograd.grad(loss, (hidden, head))
        assert all(g.abs().max() < 1e-12 for g in gradients)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"divergence": "kl"}, "divergence 'kl' is not one of forward_kl, reverse_kl, jsd"),
        ({"divergence": "jsd", "jsd_beta": 1.1}, r"jsd_beta must be within \[0, 1\]"),
        ({"divergence": "jsd", "teacher_temperature": -1.0}, "teacher_temperature must be above 0"),
        ({"divergence": "jsd", "temperature": 0.0}, "temperature must be above 0"),
        ({"divergence": "jsd", "chunk_bytes": 0}, "chunk_bytes must be a whole number of bytes"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        linear_distill_loss(ONE, STUDENT, ONE, TEACHER, **(OPTIONS | changes))


def test_a_teacher_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="student and teacher must have one vocabulary, got 2 and 1"):
        linear_distill_loss(ONE, STUDENT, ONE, TEACHER[:1], divergence="jsd", **OPTIONS)


def pair(vocabulary=7):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, vocabulary, dtype=torch.float64, generator=generator).log_softmax(-1) for _ in range(2)]


def jsd(log_t, log_s, beta):
    return token_divergence(log_t, log_s, divergence="jsd", jsd_beta=beta)


@pytest.mark.parametrize(("end", "name"), [(0, "forward_kl"), (1, "reverse_kl")])
def test_the_ends_of_beta_are_the_two_kls(end, name):
    log_t, log_s = pair()
    exact = token_divergence(log_t, log_s, divergence=name, jsd_beta=0.5)
    assert torch.equal(jsd(log_t, log_s, end), exact)
    # And the limits, from inside, over the distance to the end: the error falls with it.
    errors = [((jsd(log_t, log_s, abs(end - e)) / e - exact) / exact).abs().max() for e in (1e-2, 1e-4)]
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 50


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_gradient_is_that_of_the_formula(name):
    """By hand, at the logits z of s: s - t; s (log s/t - KL(s || t)); (1 - beta) s (log s/m - KL(s || m))."""
    log_t, z = pair()
    z = z.requires_grad_()
    log_s = z.log_softmax(-1)
    (found,) = torch.autograd.grad(token_divergence(log_t, log_s, divergence=name, jsd_beta=0.3).sum(), z)
    t, s = log_t.exp(), log_s.exp()

    def reverse(other):
        apart = (s / other).log()
        return s * (apart - (s * apart).sum(-1, keepdim=True))

    expected = {"forward_kl": s - t, "reverse_kl": reverse(t), "jsd": 0.7 * reverse(0.3 * t + 0.7 * s)}[name]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_teacher_and_student_each_have_a_temperature():
    hidden, head, *teacher = inputs()
    teacher_hidden, teacher_head = (x.detach() for x in teacher)
    options = {"divergence": "forward_kl", "jsd_beta": 0.5, "tokens": 1, "temperature": 2.0}
    apart = linear_distill_loss(hidden, head, teacher_hidden, teacher_head, teacher_temperature=0.5, **options)
    # Dividing logits by 0.5 is dividing those of four times the hidden states by 2.
    same = linear_distill_loss(hidden, head, 4 * teacher_hidden, teacher_head, **options)
    assert apart.item() == pytest.approx(same.item(), rel=1e-12)
