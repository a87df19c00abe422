import math

import pytest
import torch

from r1lab.loss.distill import DIVERGENCES, linear_distill_loss

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
        ({"divergence": "jsd", "jsd_beta": 1.0}, "jsd_beta must be between 0 and 1"),
        ({"divergence": "jsd", "temperature": 0.0}, "temperature must be above 0"),
        ({"divergence": "jsd", "chunk_bytes": 0}, "chunk_bytes must be above 0"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        linear_distill_loss(ONE, STUDENT, ONE, TEACHER, **(OPTIONS | changes))


def test_a_teacher_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="student and teacher must have one vocabulary, got 2 and 1"):
        linear_distill_loss(ONE, STUDENT, ONE, TEACHER[:1], divergence="jsd", **OPTIONS)
