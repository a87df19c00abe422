"""The KL penalty: estimators of KL(policy || reference), where to put them, and how to steer their weight.

Estimators: Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html), with
log r = ref_logprobs - logprobs for tokens sampled from the policy. Which estimator has the right gradient where:
arXiv 2510.01555, 2506.09477, 2512.21852. All are in nats per token.

k3 and ratio_k3 contain exp(log r), which float32 cannot hold above 88 nats. Both are clamped where the ratio is (see
`r1lab.loss.ratio.LARGEST`): a clamped factor is constant, so it has no gradient. `is_clamped` counts such tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from r1lab.loss.aggregate import wide
from r1lab.loss.ratio import largest_log_ratio, largest_ratio

PLACEMENTS = ("loss", "reward", "none")
LARGEST_PENALTY = 1e30  # per token in the reward, as for rewards: sums over a rollout of such numbers stay in float32


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """-log r, [B, T]: unbiased, may be negative."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(log r)^2 / 2, [B, T], in float32 at least: biased in value, exact in gradient on policy."""
    return 0.5 * wide(ref_logprobs - logprobs).square()


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(r - 1) - log r, [B, T]: unbiased and not negative. The KL of GRPO (DeepSeekMath, arXiv 2402.03300, eq. 4).

    log r is clamped from above.
    """
    log_r = ref_logprobs - logprobs
    log_r = log_r.clamp(max=largest_log_ratio(log_r.dtype))
    # exp(log_r) - 1 cancels where the policies are close, which is where training starts.
    return torch.expm1(log_r) - log_r


def ratio_k3(logprobs: Tensor, ref_logprobs: Tensor, ratio: Tensor) -> Tensor:
    """ratio * k3, [B, T], with gradient through `ratio`, which must stay in the graph even where its value is 1.

    DeepSeek-V3.2 (arXiv 2512.02556), "unbiased KL estimate"; TRL's `use_bias_correction_kl`. The product is clamped as
    well, since both factors may be large.
    """
    estimate = ratio * k3(logprobs, ref_logprobs)
    return estimate.clamp(max=largest_ratio(estimate.dtype))


def is_clamped(logprobs: Tensor, ref_logprobs: Tensor, ratio: Tensor | None = None) -> Tensor:
    """Return bool [B, T]: True where k3, or ratio_k3 if its `ratio` is given, is clamped."""
    log_r = ref_logprobs - logprobs
    clamped = log_r > largest_log_ratio(log_r.dtype)
    if ratio is None:
        return clamped
    estimate = ratio * k3(logprobs, ref_logprobs)
    return clamped | (estimate > largest_ratio(estimate.dtype))


def _unweighted(estimator: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda logprobs, ref_logprobs, ratio: estimator(logprobs, ref_logprobs)


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "k1": _unweighted(k1),
    "k2": _unweighted(k2),
    "k3": _unweighted(k3),
    "ratio_k3": ratio_k3,
}


def token_penalty(
    logprobs: Tensor, ref_logprobs: Tensor, completion_mask: Tensor, estimator: str, beta: float
) -> Tensor:
    """What to subtract from the reward of each token, [B, T], detached: beta * estimate, 0 where masked.

    logprobs (of the policy that sampled), ref_logprobs [B, T]; completion_mask bool [B, T]. InstructGPT (arXiv
    2203.02155) eq. 2 with k1. In float32 at least; finite penalties are clamped at `LARGEST_PENALTY`.

    Raises ValueError for an unknown estimator.
    """
    _check(estimator, "reward")
    logprobs = torch.where(completion_mask, wide(logprobs.detach()), 0.0)
    ref_logprobs = torch.where(completion_mask, wide(ref_logprobs.detach()), 0.0)
    # The sampling policy's own ratio to itself is 1, so ratio_k3 is k3 here.
    penalty = beta * KL_ESTIMATORS[estimator](logprobs, ref_logprobs, torch.ones_like(logprobs))
    return torch.where(penalty.isinf(), penalty, penalty.clamp(-LARGEST_PENALTY, LARGEST_PENALTY))


def reward_penalty(
    logprobs: Tensor, ref_logprobs: Tensor, completion_mask: Tensor, estimator: str, beta: float
) -> Tensor:
    """What to subtract from each completion's reward, [B], detached: the sum of `token_penalty` over its tokens.

    The sum, not the mean, is the completion's log-ratio, so that k1 here penalises the KL of whole completions: that
    of the sampling policy, from which the trained one drifts over the updates of a rollout.
    """
    return token_penalty(logprobs, ref_logprobs, completion_mask, estimator, beta).sum(dim=1)


def next_beta(beta: float, kl: float, *, target: float, horizon: float) -> float:
    """beta after one update whose measured KL was `kl` (same unit as `target`): the proportional controller of
    Ziegler et al. 2019 (arXiv 1909.08593), section 2.2.

    e = clip((kl - target) / target, -0.2, 0.2);  beta <- beta (1 + e / horizon). The paper's K_beta of 0.1 is a
    horizon of 10 updates.

    Raises ValueError for a target or horizon that is not positive.
    """
    if target <= 0 or horizon <= 0:
        raise ValueError(f"adaptive beta needs target and horizon above 0, got {target} and {horizon}")
    error = min(max((kl - target) / target, -0.2), 0.2)
    return beta * (1 + error / horizon)


_ALWAYS = {
    ("k1", "loss"): "k1 in the loss has expected gradient zero on policy, so it penalises nothing; off policy it "
    "pushes away from the policy that sampled, whatever the reference",
    ("k3", "loss"): "k3 in the loss has the gradient of the forward KL(reference || policy) on policy, and of neither "
    "KL off policy",
    ("k2", "reward"): "k2 in the reward is biased and its gradient is not that of the reverse KL: use k1 there",
    ("k3", "reward"): "k3 in the reward has the gradient of the reverse KL minus that of the forward KL: use k1 there",
    ("ratio_k3", "reward"): "in the reward the ratio is 1 and detached, so ratio_k3 is k3, whose gradient there is "
    "that of the reverse KL minus that of the forward KL: use k1 there",
}
_OFF_POLICY = {
    ("k2", "loss"): "k2 in the loss has the gradient of the reverse KL on policy only; with several updates a rollout "
    "its samples are not the policy's: use ratio_k3",
}


def kl_warning(estimator: str, placement: str, *, off_policy: bool = True, ratio_level: str = "token") -> str | None:
    """Why the expected gradient of this pair is not that of the reverse KL(policy || reference), None where it is.

    `off_policy`: some updates train on completions that an earlier policy sampled (several minibatches or
    iterations a rollout). `ratio_level`: of the ratio that weighs ratio_k3. Each statement is about one token given
    its prefix; the penalty in the loss leaves out how a token changes later prefixes, k1 in the reward does not.

    Raises ValueError for an unknown estimator or placement.
    """
    _check(estimator, placement)
    pair = (estimator, placement)
    if pair == ("ratio_k3", "loss") and ratio_level == "sequence":
        return (
            "at ratio_level sequence, ratio_k3 is weighed by the mean ratio of the whole completion, which is not the "
            "importance weight of its tokens: it has the gradient of the reverse KL at ratio_level token only"
        )
    return _ALWAYS.get(pair) or (_OFF_POLICY.get(pair) if off_policy else None)


def _check(estimator: str, placement: str) -> None:
    if estimator not in KL_ESTIMATORS:
        raise ValueError(f"kl {estimator!r} is not one of {', '.join(KL_ESTIMATORS)}")
    if placement not in PLACEMENTS:
        raise ValueError(f"kl placement {placement!r} is not one of {', '.join(PLACEMENTS)}")
