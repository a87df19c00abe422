import math

import pytest
import torch

from r1lab.rollout.sampling import Sampling, next_token, restrict

PROBS = torch.tensor([[0.1, 0.4, 0.2, 0.3]])


def draw(uniforms, probs=PROBS, **options):
    settings = {"temperature": 1.0, "max_new_tokens": 1} | options
    return next_token(probs.log().expand(len(uniforms), -1), torch.tensor(uniforms), Sampling(**settings))


def test_inverse_of_the_cumulative_distribution():
    # Cumulative .1, .5, .7, 1: each draw takes the first token whose cumulative mass exceeds it.
    ids, logprobs = draw([0.0, 0.09, 0.11, 0.49, 0.51, 0.69, 0.71, 0.999])
    assert ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    expected = [0.1, 0.1, 0.4, 0.4, 0.2, 0.2, 0.3, 0.3]
    assert logprobs.exp().tolist() == pytest.approx(expected)


def test_temperature():
    # At temperature .5 probabilities are squared: .01, .16, .04, .09 of .3, cumulative .033, .567, .7, 1.
    ids, logprobs = draw([0.03, 0.04, 0.56, 0.57, 0.69, 0.71], temperature=0.5)
    assert ids.tolist() == [0, 1, 1, 2, 2, 3]
    assert logprobs[1].item() == pytest.approx(math.log(0.16 / 0.3))


def test_greedy_takes_the_likeliest_and_reports_its_logprob_at_temperature_1():
    ids, logprobs = draw([0.0, 0.99], temperature=0.0)
    assert ids.tolist() == [1, 1]
    assert logprobs.exp().tolist() == pytest.approx([0.4, 0.4])


def test_top_k_and_top_p_keep():
    torch.testing.assert_close(restrict(PROBS, 0, 1.0), PROBS)
    torch.testing.assert_close(restrict(PROBS, 2, 1.0), torch.tensor([[0.0, 0.4, 0.0, 0.3]]))
    torch.testing.assert_close(restrict(PROBS, 9, 1.0), PROBS)
    # In order .4, .3, .2, .1: the smallest sets that reach .4, .5 and .75 have 1, 2 and 3 tokens.
    torch.testing.assert_close(restrict(PROBS, 0, 0.4), torch.tensor([[0.0, 0.4, 0.0, 0.0]]))
    torch.testing.assert_close(restrict(PROBS, 0, 0.5), torch.tensor([[0.0, 0.4, 0.0, 0.3]]))
    torch.testing.assert_close(restrict(PROBS, 0, 0.75), torch.tensor([[0.0, 0.4, 0.2, 0.3]]))
    # Top-k first, then top-p of what is left: .4 of .7 is .57.
    torch.testing.assert_close(restrict(PROBS, 2, 0.5), torch.tensor([[0.0, 0.4, 0.0, 0.0]]))


def test_restricted_draws_are_renormalised_and_their_logprobs_are_not():
    # .4 and .3 of .7: tokens 1 below .571, 3 above.
    ids, logprobs = draw([0.0, 0.57, 0.572, 0.9999999], top_k=2)
    assert ids.tolist() == [1, 1, 3, 3]
    assert logprobs.exp().tolist() == pytest.approx([0.4, 0.4, 0.3, 0.3])


def test_a_token_of_zero_mass_is_never_drawn():
    largest = 1 - 2**-24  # the largest draw there is
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 50, generator=generator) * 5
    logits[:, -3:] = -math.inf  # at the end, where rounding could push a draw to
    logits[:, :3] = -math.inf  # at the start, where a draw of 0 falls
    for u in (0.0, largest):
        for options in ({}, {"top_k": 3}, {"top_p": 0.3}):
            sampling = Sampling(1.0, 1, **options)
            ids, logprobs = next_token(logits, torch.full((2000,), u), sampling)
            assert bool(logprobs.isfinite().all())
            kept = restrict(logits.softmax(-1), sampling.top_k, sampling.top_p)
            assert bool((kept.gather(-1, ids[:, None]) > 0).all())


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"max_new_tokens": 0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match=f"rollout.{next(iter(wrong))}"):
        Sampling(**{"temperature": 1.0, "max_new_tokens": 1} | wrong)


@pytest.mark.parametrize("wrong", [1e-40, 1e-4, -1e-3, math.nan, math.inf, -math.inf, 1e40, 1001, None, "1", True])
def test_temperatures_that_logits_cannot_be_divided_by(wrong):
    with pytest.raises(ValueError, match=r"rollout.temperature must be 0 \(greedy\) or from 0.001 to 1000"):
        Sampling(wrong, 1)


@pytest.mark.parametrize("temperature", [0, 1e-3, 1, 1e3])
def test_temperatures_at_the_bounds_are_finite(temperature):
    logits = torch.tensor([[-100.0, 0.0, 100.0]])
    ids, logprobs = next_token(logits, torch.tensor([0.5]), Sampling(temperature, 1))
    assert logprobs.isfinite().all() and 0 <= ids.item() < 3
