"""The loss, its gradient and its metrics do not depend on how a minibatch is split into microbatches."""

import itertools

import pytest
import torch

from r1lab.loss.grpo import grpo_loss
from r1lab.loss.ppo import ppo_loss
from r1lab.loss.sft import sft_loss

ROWS, LENGTH = 8, 7
SPLITS = [(1,) * 8, (3, 5), (2, 2, 4), (4, 4), (7, 1)]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([7, 1, 3, 0, 5, 2, 6, 4])
    return {
        "logprobs": -torch.rand(ROWS, LENGTH, dtype=torch.float64, generator=generator) * 3,
        "drift": torch.randn(ROWS, LENGTH, dtype=torch.float64, generator=generator) * 0.4,
        "ref_drift": torch.randn(ROWS, LENGTH, dtype=torch.float64, generator=generator),
        "advantages": torch.randn(ROWS, dtype=torch.float64, generator=generator),
        "mask": torch.arange(LENGTH) < lengths[:, None],
        "entropy": torch.rand(ROWS, LENGTH, dtype=torch.float64, generator=generator),
    }


def run(batch, split, **options):
    logprobs = batch["logprobs"].clone().requires_grad_()
    entropy = batch["entropy"].clone().requires_grad_()
    total, metrics = 0.0, {}
    for rows in torch.arange(ROWS).split(split):
        out = grpo_loss(
            logprobs[rows],
            batch["logprobs"][rows] - batch["drift"][rows],
            batch["logprobs"][rows] - batch["ref_drift"][rows],
            batch["advantages"][rows],
            batch["mask"][rows],
            entropy[rows],
            sequences=ROWS,
            tokens=int(batch["mask"].sum()),
            max_length=LENGTH,
            epsilon_low=0.2,
            epsilon_high=0.28,
            ratio_cap=1.5,
            beta=0.04,
            kl_placement="loss",
            entropy_coef=0.1,
            **options,
        )
        out.loss.backward()
        total += out.loss.item()
        for name, share in out.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + share.item()
    return total, metrics, logprobs.grad, entropy.grad


@pytest.mark.parametrize(
    ("aggregate", "ratio_level", "kl"),
    list(
        itertools.product(
            ["sequence_mean", "token_mean", "constant_length"], ["token", "sequence"], ["k1", "k2", "k3", "ratio_k3"]
        )
    ),
)
def test_grpo(batch, aggregate, ratio_level, kl):
    options = {"aggregate": aggregate, "ratio_level": ratio_level, "kl": kl}
    loss, metrics, gradient, entropy_gradient = run(batch, ROWS, **options)
    assert gradient.abs().max() > 1e-3 and 0 < metrics["clip_fraction"] < 1
    for split in SPLITS:
        split_loss, split_metrics, split_gradient, split_entropy_gradient = run(batch, split, **options)
        assert split_loss == pytest.approx(loss, rel=1e-12, abs=1e-14)
        assert split_metrics == pytest.approx(metrics, rel=1e-12, abs=1e-14)
        torch.testing.assert_close(split_gradient, gradient, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(split_entropy_gradient, entropy_gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("aggregate", ["sequence_mean", "token_mean", "constant_length"])
def test_ppo(batch, aggregate):
    # Any numbers [b, T] serve as advantages, values and returns.
    advantages, old_values, returns = batch["ref_drift"], batch["entropy"], batch["logprobs"]
    options = {"epsilon_low": 0.2, "epsilon_high": 0.28, "ratio_cap": 1.5, "ratio_level": "token", "entropy_coef": 0.0}
    options |= {"beta": 0.0, "kl": "k3", "kl_placement": "none", "value_clip": 0.3, "value_coef": 0.5}
    results = []
    for split in [ROWS, *SPLITS]:
        logprobs = batch["logprobs"].clone().requires_grad_()
        values = (old_values + batch["drift"]).requires_grad_()
        total, metrics = 0.0, {}
        for rows in torch.arange(ROWS).split(split):
            tensors = (logprobs, batch["logprobs"] - batch["drift"], None, advantages, batch["mask"], None)
            tensors = (x if x is None else x[rows] for x in (*tensors, values, old_values, returns))
            size = {"sequences": ROWS, "tokens": int(batch["mask"].sum()), "max_length": LENGTH}
            out = ppo_loss(*tensors, aggregate=aggregate, **size, **options)
            out.loss.backward()
            total += out.loss.detach()
            metrics = {name: metrics.get(name, 0.0) + share for name, share in out.metrics.items()}
        results.append((total, metrics, logprobs.grad, values.grad))
    assert 0 < results[0][1]["value_clip_fraction"] < 1 and results[0][3].abs().max() > 1e-3
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-14)


def test_a_wider_padding_changes_nothing(batch):
    wide = {
        name: values if values.ndim == 1 else torch.nn.functional.pad(values, (0, 3)) for name, values in batch.items()
    }
    for aggregate, ratio_level in itertools.product(["sequence_mean", "token_mean"], ["token", "sequence"]):
        options = {"aggregate": aggregate, "ratio_level": ratio_level, "kl": "k3"}
        loss, metrics, gradient, _ = run(batch, ROWS, **options)
        wide_loss, wide_metrics, wide_gradient, _ = run(wide, ROWS, **options)
        assert wide_loss == pytest.approx(loss, rel=1e-12)
        assert wide_metrics == pytest.approx(metrics, rel=1e-12)
        torch.testing.assert_close(wide_gradient[:, :LENGTH], gradient, rtol=1e-12, atol=1e-15)


def test_sft(batch):
    results = []
    for split in [ROWS, *SPLITS]:
        logprobs = batch["logprobs"].clone().requires_grad_()
        loss = sum(
            sft_loss(logprobs[rows], batch["mask"][rows], tokens=int(batch["mask"].sum()))
            for rows in torch.arange(ROWS).split(split)
        )
        loss.backward()
        results.append((loss.detach(), logprobs.grad))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-15)
