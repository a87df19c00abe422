"""Loss and gradient equal those of TRL's GRPOTrainer (written against TRL 1.16), whose own `_compute_loss` runs here.

How TRL's options map to ours: loss_type grpo -> sequence_mean, bnpo -> token_mean over the microbatch's own tokens,
dr_grpo -> constant_length with max_completion_length, dapo -> token_mean over the minibatch;
importance_sampling_level -> ratio_level; use_bias_correction_kl -> ratio_k3 instead of k3, weighed in both by the
ratio of that level before delta and clip; delta -> ratio_cap (the same for values of at least 1 + epsilon_high);
epsilon, epsilon_high -> epsilon_low, epsilon_high; scale_rewards "group", "batch", "none" -> scale "std",
"batch_std", "none" with ddof 1 and eps 1e-4.
"""

import collections
import itertools
import types

import pytest
import torch

from r1lab.advantage.group import group_advantages
from r1lab.loss.grpo import grpo_loss

pytest.importorskip("trl", reason="needs the bench extra")

PROMPTS, GROUP, PROMPT_LENGTH, LENGTH, MAX_LENGTH = 2, 4, 3, 6, 9
ROWS = PROMPTS * GROUP
EPSILON_LOW, EPSILON_HIGH, BETA = 0.2, 0.28, 0.04
AGGREGATE = {"grpo": "sequence_mean", "bnpo": "token_mean", "dr_grpo": "constant_length", "dapo": "token_mean"}


class OneProcess:
    """The parts of accelerate's Accelerator that the loss touches."""

    num_processes = 1
    sync_gradients = False

    @staticmethod
    def gather(values):
        return values

    @staticmethod
    def reduce(values, reduction):
        assert reduction == "sum"
        return values


def trainer(logprobs, entropy, *, loss_type, level, bias_correction, delta, accumulation, entropy_coef):
    """A GRPOTrainer with what its loss reads, and nothing of its constructor."""
    from trl import GRPOTrainer

    trl = GRPOTrainer.__new__(GRPOTrainer)
    trl.model = torch.nn.Identity().train()
    trl.accelerator = OneProcess()
    trl.args = types.SimpleNamespace(
        use_bias_correction_kl=bias_correction, delta=delta, steps_per_generation=accumulation
    )
    trl.beta, trl.epsilon_low, trl.epsilon_high = BETA, EPSILON_LOW, EPSILON_HIGH
    trl.loss_type, trl.importance_sampling_level = loss_type, level
    trl.max_completion_length = MAX_LENGTH
    trl.current_gradient_accumulation_steps = accumulation
    trl.aux_loss_enabled = trl.use_vllm = trl.use_adaptive_entropy = False
    trl.top_entropy_quantile, trl.off_policy_mask_threshold = 1.0, None
    trl.entropy_coef, trl._entropy_bonus_enabled = entropy_coef, entropy_coef != 0
    trl._metrics = {"train": collections.defaultdict(list)}
    trl._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, entropy, None)
    return trl


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)

    def draw(scale):
        return scale * torch.randn(ROWS, LENGTH, dtype=torch.float64, generator=generator)

    logprobs = -1 - draw(1.0).abs()
    rewards = torch.rand(PROMPTS, GROUP, dtype=torch.float64, generator=generator)
    lengths = torch.tensor([6, 1, 3, 5, 2, 6, 4, 1])
    return types.SimpleNamespace(
        logprobs=logprobs,
        old_logprobs=logprobs - draw(0.6),
        ref_logprobs=logprobs - draw(0.8),
        entropy=draw(0.5).abs(),
        rewards=rewards,
        advantages=group_advantages(rewards, scale="std", ddof=1, eps=1e-4).flatten(),
        mask=torch.arange(LENGTH) < lengths[:, None],
    )


def theirs(batch, *, on_policy, accumulation, **options):
    logprobs = batch.logprobs.clone().requires_grad_()
    total, metrics = 0.0, {}
    for rows in torch.arange(ROWS).chunk(accumulation):
        inputs = {
            "prompt_ids": torch.ones(len(rows), PROMPT_LENGTH, dtype=torch.long),
            "prompt_mask": torch.ones(len(rows), PROMPT_LENGTH, dtype=torch.long),
            "completion_ids": torch.ones(len(rows), LENGTH, dtype=torch.long),
            "completion_mask": batch.mask[rows].long(),
            "advantages": batch.advantages[rows],
            "num_items_in_batch": batch.mask.sum(),
            "ref_per_token_logps": batch.ref_logprobs[rows],
        }
        if not on_policy:
            inputs["old_per_token_logps"] = batch.old_logprobs[rows]
        trl = trainer(logprobs[rows], batch.entropy[rows], accumulation=accumulation, **options)
        loss = trl._compute_loss(trl.model, inputs)
        loss.backward()
        total += loss.item()
        metrics = trl._metrics["train"]
    return total, logprobs.grad, metrics


def ours(batch, *, on_policy, accumulation, loss_type, level, bias_correction, delta, entropy_coef):
    logprobs = batch.logprobs.clone().requires_grad_()
    total, metrics = 0.0, {}
    for rows in torch.arange(ROWS).chunk(accumulation):
        # bnpo alone depends on the split: each microbatch is divided by its own tokens
        counted = accumulation * batch.mask[rows].sum() if loss_type == "bnpo" else batch.mask.sum()
        out = grpo_loss(
            logprobs[rows],
            logprobs[rows].detach() if on_policy else batch.old_logprobs[rows],
            batch.ref_logprobs[rows],
            batch.advantages[rows],
            batch.mask[rows],
            batch.entropy[rows],
            sequences=ROWS,
            tokens=int(counted),
            max_length=MAX_LENGTH,
            epsilon_low=EPSILON_LOW,
            epsilon_high=EPSILON_HIGH,
            ratio_cap=delta,
            ratio_level=level,
            beta=BETA,
            kl="ratio_k3" if bias_correction else "k3",
            kl_placement="loss",
            aggregate=AGGREGATE[loss_type],
            entropy_coef=entropy_coef,
        )
        out.loss.backward()
        total += out.loss.item()
        metrics = out.metrics
    return total, logprobs.grad, metrics


def assert_same(batch, *, on_policy=False, accumulation=1, delta=None, entropy_coef=0.0, **options):
    options |= {
        "on_policy": on_policy,
        "accumulation": accumulation,
        "delta": delta,
        "entropy_coef": entropy_coef,
    }
    loss, gradient, metrics = ours(batch, **options)
    trl_loss, trl_gradient, trl_metrics = theirs(batch, **options)
    assert loss == pytest.approx(trl_loss, rel=1e-6)
    assert (gradient - trl_gradient).norm() <= 1e-6 * trl_gradient.norm()
    torch.testing.assert_close(gradient, trl_gradient, rtol=1e-6, atol=1e-12)
    assert trl_gradient.abs().max() > 1e-3
    return metrics, trl_metrics


COMBINATIONS = list(itertools.product(AGGREGATE, ["token", "sequence"], [True, False]))


@pytest.mark.parametrize("on_policy", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("loss_type", "level", "bias_correction"), COMBINATIONS)
def test_loss_and_gradient(batch, loss_type, level, bias_correction, accumulation, on_policy):
    assert_same(
        batch,
        loss_type=loss_type,
        level=level,
        bias_correction=bias_correction,
        accumulation=accumulation,
        on_policy=on_policy,
    )


@pytest.mark.parametrize(("loss_type", "level", "bias_correction"), COMBINATIONS)
def test_delta_is_the_ratio_cap(batch, loss_type, level, bias_correction):
    options = {"loss_type": loss_type, "level": level, "bias_correction": bias_correction}
    assert_same(batch, delta=1.3, **options)
    kept = {"on_policy": False, "accumulation": 1, "entropy_coef": 0.0, **options}
    assert ours(batch, delta=1.3, **kept)[0] != ours(batch, delta=None, **kept)[0]


@pytest.mark.parametrize("loss_type", AGGREGATE)
def test_entropy_bonus(batch, loss_type):
    assert_same(batch, entropy_coef=0.1, loss_type=loss_type, level="token", bias_correction=True)


def test_metrics(batch):
    metrics, trl_metrics = assert_same(batch, loss_type="dapo", level="token", bias_correction=False)
    for name, trl_name in (
        ("kl", "kl"),
        ("entropy", "entropy"),
        ("clip_fraction_low", "clip_ratio/low_mean"),
        ("clip_fraction_high", "clip_ratio/high_mean"),
        ("clip_fraction", "clip_ratio/region_mean"),
    ):
        # TRL keeps its counts in float32
        assert metrics[name].item() == pytest.approx(trl_metrics[trl_name][0], rel=1e-6)
        assert metrics[name] > 0


def test_advantages(batch):
    # TRL's expression stands in the method that also generates, so only its nanstd can be called.
    from trl.trainer.utils import nanstd

    centred = batch.rewards - batch.rewards.mean(dim=1, keepdim=True)
    for scale, divisor in (
        ("std", nanstd(batch.rewards, dim=1, keepdim=True) + 1e-4),
        ("batch_std", nanstd(batch.rewards) + 1e-4),
        ("none", torch.ones(())),
    ):
        advantages = group_advantages(batch.rewards, scale=scale, ddof=1, eps=1e-4)
        # nanstd takes n / (n - 1) in float32
        torch.testing.assert_close(advantages, centred / divisor, rtol=1e-7, atol=0)
