import math

import pytest
import torch
from torch import nn, optim

from r1lab.model import quantize
from r1lab.model.optimizer import adamw_8bit
from r1lab.module import realised_update
from r1lab.module.realised_update import Sample, can_measure, choose, measure, ratios, rounding_warning

RL_RATE = 1e-5


def weights(dtype: torch.dtype, *shapes: tuple[int, ...], std: float = 0.05) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter((std * torch.randn(shape, generator=draw)).to(dtype)) for shape in shapes]


def steps(optimizer: optim.Optimizer, number: int, samples: list[Sample] | None = None) -> list[list[float]]:
    """The ratios of each group in each step, with gradients at random."""
    samples = samples or [choose(group["params"]) for group in optimizer.param_groups]
    found = []
    for step in range(number):
        draw = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=draw).to(p.dtype)
        found.append(ratios(measure(optimizer, samples, optimizer.step)))
    return found


def adamw(parameters: list[nn.Parameter], **options) -> optim.AdamW:
    return optim.AdamW(parameters, **{"lr": RL_RATE, "weight_decay": 0.01} | options)


def test_float32_takes_the_update_and_bfloat16_does_not():
    (wide,), (narrow,) = (weights(dtype, (64, 64)) for dtype in (torch.float32, torch.bfloat16))
    assert [ratio for (ratio,) in steps(adamw([wide]), 3)] == pytest.approx([1, 1, 1], abs=1e-4)
    before = narrow.detach().clone()
    ((ratio,),) = steps(adamw([narrow]), 1)
    # The definition, of all elements: in the first step AdamW moves each by the rate.
    realised = float((narrow.detach() - before).double().norm())
    assert ratio == pytest.approx(realised / (RL_RATE * 64), rel=1e-3) and 0.05 < ratio < 0.5


def test_float32_rounds_away_a_rate_that_is_too_low_for_it():
    ((ratio,),) = steps(adamw(weights(torch.float32, (64, 64)), lr=1e-10), 1)
    assert ratio < 0.5


@pytest.mark.parametrize("made", realised_update.ELEMENTWISE, ids=lambda made: made.__name__)
def test_each_optimizer_in_float64_realises_what_it_proposes(made):
    optimizer = made(weights(torch.float64, (40, 7), (9,), ()), lr=1e-3)
    for (ratio,) in steps(optimizer, 4):
        assert ratio == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("options", [{"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}, {"maximize": True}])
def test_options_of_the_optimizer_are_followed(options):
    for (ratio,) in steps(optim.SGD(weights(torch.float64, (8, 8)), lr=1e-3, **options), 3):
        assert ratio == pytest.approx(1, abs=1e-9)


@pytest.mark.skipif(quantize.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_moments_in_8_bits():
    """One weight with quantised moments, one whose moments stay in float32."""
    for dtype, low, high in ((torch.float32, 0.999, 1.001), (torch.bfloat16, 0.05, 0.5)):
        optimizer = adamw_8bit(paged=False, lr=RL_RATE, betas=(0.9, 0.95), weight_decay=0.1)(
            weights(dtype, (128, 128), (16, 16))
        )
        assert can_measure(optimizer)
        for (ratio,) in steps(optimizer, 3):
            assert low < ratio < high


def test_groups_are_measured_apart():
    narrow, wide = weights(torch.bfloat16, (32, 32)), weights(torch.float32, (4,))
    optimizer = adamw([{"params": narrow}, {"params": wide, "name": "value"}])
    (first, second), *_ = steps(optimizer, 1)
    assert first < 0.5 and second == pytest.approx(1, abs=1e-3)


def test_no_update_has_no_ratio():
    assert all(math.isnan(ratio) for (ratio,) in steps(adamw(weights(torch.float32, (4, 4)), lr=0.0), 2))
    assert math.isnan(*ratios(measure(adamw(frozen := weights(torch.float32, (3,))), [choose(frozen)], lambda: None)))


def test_a_parameter_without_gradient_is_left_out():
    first, second = weights(torch.float64, (5,), (6,))
    optimizer = adamw([first, second])
    first.grad = torch.ones_like(first)
    squares = measure(optimizer, [choose([first, second])], optimizer.step)
    assert ratios(squares) == pytest.approx([1]) and squares[0, 1] == pytest.approx(5 * RL_RATE**2, rel=0.01)


def test_a_sample_estimates_all_elements():
    shapes = (300, 200), (1,), (10, 10), (0,), (250, 160)
    found = [
        steps(optimizer := adamw(weights(torch.bfloat16, *shapes)), 1, [choose(optimizer.param_groups[0]["params"], n)])
        for n in (20_000, 10**6)
    ]
    assert found[0][0] == pytest.approx(found[1][0], rel=0.05)


def test_a_sample_is_the_same_in_each_run_and_leaves_the_seed_alone():
    parameters = weights(torch.float32, (300, 200), (3, 2), (100, 90))
    state = torch.random.get_rng_state()
    first, second = choose(parameters, 500), choose(parameters, 500)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first.places, second.places, strict=True))
    number = sum(len(where) for _, where in first.places)
    assert 480 < number <= 500 and first.fraction == pytest.approx(number / 69_006)
    assert all(int(where.max()) < p.numel() and int(where.min()) >= 0 for p, where in first.places)
    # All elements of a small group, and none of an empty one: a rank may hold no part of a weight.
    assert torch.equal(choose(parameters[1:2]).values(), parameters[1].detach().double().flatten())
    assert choose(weights(torch.float32, (0,))).values().numel() == 0


def test_optimizers_that_move_elements_together_are_not_measured():
    (matrix,) = weights(torch.float32, (4, 4))
    assert can_measure(optim.AdamW([matrix]))
    assert not can_measure(optim.Adafactor([matrix])) and not can_measure(optim.LBFGS([matrix]))


def test_the_warning_names_what_helps():
    (narrow,), (wide,) = weights(torch.bfloat16, (2,)), weights(torch.float32, (2,))
    assert rounding_warning({"params": [narrow], "lr": 1e-5}, 0.5, 2) is None
    assert rounding_warning({"params": [narrow], "lr": 1e-5}, math.nan, 2) is None
    assert rounding_warning({"params": [narrow], "lr": 1e-5}, 0.2, 2) == (
        "optimizer/realised=0.200 at step 2, expected about 1: bfloat16 weights round away most of each update at "
        "lr=1e-05 and hardly learn; train float32 weights with trainer.precision=bf16-mixed model.policy.dtype=float32"
    )
    message = rounding_warning({"params": [wide], "lr": 1e-10, "name": "value"}, 0.2, 2)
    assert "optimizer/value_realised" in message and message.endswith("raise optimizer.lr")
