"""cons@k: the score of the answer that most of k samples agree on.

Self-consistency, Wang et al. 2022 (arXiv 2203.11171). DeepSeek-R1 (arXiv 2501.12948) reports cons@64, and
cons@16 along training.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor


def majority_vote(answers: Sequence[str | None], correct: Sequence[float]) -> float:
    """The score of the most frequent answer to one prompt.

    Args:
        answers: one for each sample; None = the sample holds no answer, and does not vote. Equal strings are one
            answer, so give them in a canonical form.
        correct: the score of each sample's answer.

    Returns:
        The mean score of the samples that gave the most frequent answer. Answers that tie count equally (the
        expectation of breaking the tie at random). 0.0 where no sample holds an answer.
    """
    scores: dict[str, list[float]] = {}
    for answer, score in zip(answers, correct, strict=True):
        if answer is not None:
            scores.setdefault(answer, []).append(float(score))
    if not scores:
        return 0.0
    votes = max(map(len, scores.values()))
    winners = [sum(s) / len(s) for s in scores.values() if len(s) == votes]
    return sum(winners) / len(winners)


def cons_at_k(
    answers: Sequence[Sequence[str | None]], correct: Sequence[Sequence[float]], k: int, *, resamples: int, seed: int
) -> Tensor:
    """cons@k of each prompt from n >= k samples: the mean of `majority_vote` over subsets of size k.

    Args:
        answers, correct: [P][n], as `majority_vote` takes them.
        k: votes, at least 1 and at most every n.
        resamples: random subsets drawn without replacement where n > k; with n = k the one subset is exact.
        seed: of the subsets.

    Returns:
        float64 [P].

    Raises:
        ValueError: k is not in 1..n, or resamples below 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    rng, values = random.Random(seed), []
    for votes, scores in zip(answers, correct, strict=True):
        if not 1 <= k <= len(votes):
            raise ValueError(f"cons@k needs 1 <= k <= samples of each prompt, got k={k} with {len(votes)} samples")
        samples = list(zip(votes, scores, strict=True))
        subsets = [samples] if k == len(samples) else [rng.sample(samples, k) for _ in range(resamples)]
        values.append(sum(majority_vote(*zip(*subset, strict=True)) for subset in subsets) / len(subsets))
    return torch.tensor(values, dtype=torch.float64)
