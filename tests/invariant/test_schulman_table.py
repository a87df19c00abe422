"""Bias and standard deviation of k1, k2, k3 between two unit Gaussians, the means mu apart: Schulman 2020.

Policy N(0, 1), reference N(mu, 1), log r = mu x - mu^2 / 2, KL = mu^2 / 2. Relative to the KL:
k1: bias 0, std 2 / mu;  k2: bias mu^2 / 4, std sqrt(2 + mu^2);  k3: bias 0, std 2 sqrt(e^(mu^2) - 1 - mu^2) / mu^2.
"""

import math

import pytest
import torch

from r1lab.loss.kl import k1, k2, k3

ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def closed_form(name, mu):
    return {
        "k1": (0.0, 2 / mu),
        "k2": (mu**2 / 4, math.sqrt(2 + mu**2)),
        "k3": (0.0, 2 * math.sqrt(math.exp(mu**2) - 1 - mu**2) / mu**2),
    }[name]


def log_density(x, mean):
    return -0.5 * (x - mean) ** 2 - 0.5 * math.log(2 * math.pi)


# mu, estimator, bias / KL, std / KL; the last three rows are not in Schulman's post
TABLE = [
    (0.1, "k1", 0, 20.000),
    (0.1, "k2", 0.0025, 1.4177),
    (0.1, "k3", 0, 1.4166),
    (1.0, "k1", 0, 2.000),
    (1.0, "k2", 0.2500, 1.7321),
    (1.0, "k3", 0, 1.6950),
    (2.0, "k1", 0, 1.000),
    (2.0, "k2", 1.0, 2.449),
    (2.0, "k3", 0, 3.521),
]


@pytest.mark.parametrize(("mu", "name", "bias", "std"), TABLE)
def test_closed_form(mu, name, bias, std):
    assert closed_form(name, mu) == pytest.approx((bias, std), rel=3e-4)


@pytest.mark.parametrize(("mu", "name"), [row[:2] for row in TABLE])
def test_quadrature(mu, name):
    x = torch.linspace(-14, 18, 200_001, dtype=torch.float64)
    weight = log_density(x, 0).exp() * (x[1] - x[0])
    values = ESTIMATORS[name](log_density(x, 0), log_density(x, mu))
    mean = (weight * values).sum()
    std = (weight * (values - mean) ** 2).sum().sqrt()
    kl = mu**2 / 2
    assert (mean.item() / kl - 1, std.item() / kl) == pytest.approx(closed_form(name, mu), rel=1e-8, abs=1e-9)


# Without mu = 2: the variance of r there is carried by samples that a million draws do not hold.
@pytest.mark.parametrize(("mu", "name"), [row[:2] for row in TABLE if row[0] < 2])
def test_simulation(mu, name):
    samples = 1_000_000
    x = torch.randn(samples, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = ESTIMATORS[name](log_density(x, 0), log_density(x, mu)) / (mu**2 / 2)
    bias, std = closed_form(name, mu)
    assert values.mean().item() - 1 == pytest.approx(bias, abs=4 * std / math.sqrt(samples))
    # 4 standard errors of a std, each sqrt((kurtosis - 1) / 4n) of it; the widest here is near r's own kurtosis of 114
    assert values.std().item() == pytest.approx(std, rel=4 * math.sqrt(113 / 4 / samples))


def test_the_control_variate_has_mean_zero_and_weight_one_is_not_the_best():
    # k1 + w (r - 1): the variance is least at w = mu^2 / (e^(mu^2) - 1), far from k3's w of 1 where policies differ
    x = torch.linspace(-14, 18, 200_001, dtype=torch.float64)
    weight = log_density(x, 0).exp() * (x[1] - x[0])
    for mu, best, std in ((0.1, 0.995, 1.413), (1.0, 0.582, 1.293), (2.0, 0.0746, 0.962)):
        variate = (log_density(x, mu) - log_density(x, 0)).exp() - 1
        assert (weight * variate).sum().item() == pytest.approx(0, abs=1e-10)
        plain = k1(log_density(x, 0), log_density(x, mu)) - mu**2 / 2
        optimum = -(weight * plain * variate).sum() / (weight * variate**2).sum()
        assert optimum.item() == pytest.approx(best, rel=1e-3)
        least = (weight * (plain + optimum * variate) ** 2).sum().sqrt() / (mu**2 / 2)
        assert least.item() == pytest.approx(std, rel=1e-3)
