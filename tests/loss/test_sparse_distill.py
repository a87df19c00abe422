import math

import pytest
import torch

from r1lab.loss.distill import token_divergence
from r1lab.loss.logprob import linear_buckets, linear_logprob
from r1lab.loss.sparse_distill import (
    linear_draws,
    linear_top_k,
    sampled_divergence,
    top_k_divergence,
    with_tail,
)

V, N = 9, 4


@pytest.fixture
def heads():
    """hidden [N, H] and head [V, H] of a teacher and of a student, float64."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((N, 3), (V, 3), (N, 2), (V, 2))
    return [torch.randn(*size, dtype=torch.float64, generator=generator) for size in sizes]


def whole(hidden, head):
    return (hidden @ head.T).log_softmax(-1)


def exact(heads):
    return token_divergence(whole(*heads[:2]), whole(*heads[2:]), divergence="forward_kl", jsd_beta=0.0)


def top_k(heads, k, **options):
    ids, logprobs = linear_top_k(*heads[:2], k=k, temperature=1.0, tail=True)
    student = linear_buckets(*heads[2:], ids, temperature=1.0)
    tails = {"teacher_tail": logprobs[:, k:], "student_tail": student[:, k:]}
    return top_k_divergence(logprobs[:, :k], student[:, :k], **tails, **options)


def test_a_tail_worked_by_hand():
    log = torch.tensor([[0.5, 0.3]]).log()
    assert with_tail(log).exp()[0].tolist() == pytest.approx([0.5, 0.3, 0.2])
    student = torch.tensor([[0.25, 0.25]]).log()
    expected = 0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.4)
    assert top_k_divergence(log, student, tail=True).item() == pytest.approx(expected, rel=1e-6)
    renormalised = 0.625 * math.log(0.625 / 0.5) + 0.375 * math.log(0.375 / 0.5)
    assert top_k_divergence(log, student, tail=False).item() == pytest.approx(renormalised, rel=1e-6)


def test_the_tail_makes_it_a_lower_bound_that_rises_to_the_whole(heads):
    found = [top_k(heads, k, tail=True) for k in range(1, V + 1)]
    assert all((more >= less - 1e-12).all() for less, more in zip(found, found[1:], strict=False))
    torch.testing.assert_close(found[-1], exact(heads), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(top_k(heads, V, tail=False), exact(heads), rtol=1e-9, atol=1e-12)


def test_the_gradient_with_the_tail_is_the_whole_one_at_k_v_and_right_below(heads):
    hidden, head = (x.clone().requires_grad_() for x in heads[2:])
    for tail in (True, False):
        assert torch.autograd.gradcheck(lambda h, w: top_k([*heads[:2], h, w], 3, tail=tail), (hidden, head))  # noqa: B023
    of_all = torch.autograd.grad(top_k([*heads[:2], hidden, head], V, tail=True).sum(), (hidden, head))
    of_whole = torch.autograd.grad(exact([*heads[:2], hidden, head]).sum(), (hidden, head))
    torch.testing.assert_close(of_all, of_whole, rtol=1e-7, atol=1e-9)


GAPS = (0.0, 6.0, 14.0, 17.0, 20.0, 25.0, 60.0)  # nats between the likeliest tokens and the others


def sure(gap, *, seed=0, vocabulary=121, k=16):
    """hidden [4, V] and the identity as a head, so that hidden is logits, float32, of which k are larger by gap."""
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(seed)) * 0.3
    return logits + gap * (torch.arange(vocabulary) < k), torch.eye(vocabulary)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1])
@pytest.mark.parametrize("gap", GAPS)
def test_the_tail_of_a_sure_student_is_exact_in_value_and_gradient(gap, chunk_bytes, temperature):
    def results(dtype, teacher_gap):
        teacher = [x.to(dtype) for x in sure(teacher_gap)]
        student = [x.to(dtype).requires_grad_() for x in sure(gap, seed=1)]
        options = {"temperature": temperature, "chunk_bytes": chunk_bytes}
        ids, of_teacher = linear_top_k(*teacher, k=16, tail=True, **options)
        of_student = linear_buckets(*student, ids, **options)
        tails = {"teacher_tail": of_teacher[:, 16:], "student_tail": of_student[:, 16:]}
        value = top_k_divergence(of_teacher[:, :16], of_student[:, :16], tail=True, **tails)
        return value.detach(), *torch.autograd.grad(value.sum(), student)

    rounding = 1e-6 * (1 + gap / temperature / 10)  # logits of 100 are rounded to 1e-5
    for teacher_gap in (4.0, gap):
        for found, exact in zip(results(torch.float32, teacher_gap), results(torch.float64, teacher_gap), strict=True):
            assert (found.double() - exact).norm() <= 2 * rounding * max(exact.norm(), 1)


def test_the_tail_of_float64_is_the_whole_of_the_others():
    hidden, head = (x.double() for x in sure(6.0))
    ids, logprobs = linear_top_k(hidden, head, k=16, temperature=1.0, tail=True)
    others = whole(hidden, head).scatter(1, ids, -math.inf)
    torch.testing.assert_close(logprobs[:, 16], others.logsumexp(1))
    torch.testing.assert_close(with_tail(logprobs[:, :16]), logprobs)


def test_a_tail_that_logprobs_cannot_tell_is_rejected():
    hidden, head = sure(14.0)
    ids, of_teacher = linear_top_k(*sure(4.0), k=16, temperature=1.0)
    student, _ = linear_logprob(hidden, head, ids, temperature=1.0)
    with pytest.raises(ValueError, match="leave .*e-0[56] of 1 to all other tokens, .*float32 .*pass student_tail"):
        top_k_divergence(of_teacher, student, tail=True)
    assert top_k_divergence(of_teacher, student, tail=False).isfinite().all()
    assert len(top_k_divergence(of_teacher[:0], student[:0], tail=True)) == 0


def test_a_teacher_whose_stored_logprobs_are_all_of_its_mass_has_no_tail():
    stored = torch.tensor([[0.75, 0.25 + 1e-7]]).log()
    student = torch.tensor([[0.25, 0.25]]).log().requires_grad_()
    value = top_k_divergence(stored, student, tail=True)
    assert value.item() == pytest.approx(0.75 * math.log(3), rel=1e-6)
    assert torch.autograd.grad(value.sum(), student)[0].tolist()[0] == pytest.approx([-0.75, -0.25])


@pytest.mark.parametrize("proposal", [1.0, 0.8, 2.0])
def test_drawn_tokens_are_unbiased_in_value_and_gradient(heads, proposal):
    rounds, n = 4000, 5
    hidden, head = heads[2].repeat(rounds, 1), heads[3].clone().requires_grad_()
    uniform = torch.rand(N * rounds, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    teacher = heads[0].repeat(rounds, 1), heads[1]
    ids, logprobs, weights = linear_draws(*teacher, uniform, temperature=1.0, proposal_temperature=proposal)
    if proposal == 1:
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / n))
    student, _ = linear_logprob(hidden, head, ids, temperature=1.0)
    found = sampled_divergence(logprobs, student, weights).view(rounds, N)
    error = found.std(0) / math.sqrt(rounds)
    assert ((found.mean(0) - exact(heads)).abs() < 4 * error).all()
    (gradient,) = torch.autograd.grad(found.mean(0).sum(), head)
    (expected,) = torch.autograd.grad(exact([*heads[:3], head]).sum(), head)
    assert (gradient - expected).norm() < 0.05 * expected.norm()


def test_chunks_change_nothing(heads):
    uniform = torch.rand(N, 3, generator=torch.Generator().manual_seed(2))
    options = {"temperature": 0.7, "bias": torch.arange(V, dtype=torch.float64), "softcap": 5.0}
    draws = {"uniform": uniform, "proposal_temperature": 1.5} | options
    for function, arguments in ((linear_top_k, {"k": 3} | options), (linear_draws, draws)):
        one, many = (function(*heads[:2], chunk_bytes=size, **arguments) for size in (1 << 20, 1))
        for a, b in zip(one, many, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        assert [len(x) for x in function(heads[0][:0], heads[1], **(arguments | (
            {"uniform": uniform[:0]} if "uniform" in arguments else {}
        )))] == [0] * len(one)  # fmt: skip


def test_what_is_refused(heads):
    with pytest.raises(ValueError, match="k must be from 1 to the vocabulary's 9, got 10"):
        linear_top_k(*heads[:2], k=10, temperature=1.0)
    for wrong in (0.0, 1e-40, math.nan, math.inf):
        accepted = "from 0.001 to 1000" if wrong == 1e-40 else "above 0"
        with pytest.raises(ValueError, match=f"proposal_temperature must be {accepted}"):
            linear_draws(*heads[:2], torch.rand(N, 2), temperature=1.0, proposal_temperature=wrong)
        # Of logits that the model has scaled, whose range is wider.
        accepted = accepted.replace("0.001", "1e-06").replace("1000", r"1e\+06")
        with pytest.raises(ValueError, match=f"^temperature must be {accepted}"):
            linear_draws(*heads[:2], torch.rand(N, 2), temperature=wrong, proposal_temperature=1.0)
        with pytest.raises(ValueError, match=f"^temperature must be {accepted}"):
            linear_top_k(*heads[:2], k=2, temperature=wrong)
