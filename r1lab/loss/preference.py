"""Losses of a reward model: which of two responses is better, or whether one is good.

Each is a share of a minibatch's loss: the shares of all microbatches and ranks add up to it. Scores are float [b].
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def pairwise_loss(chosen: Tensor, rejected: Tensor, *, pairs: int) -> Tensor:
    """Mean over the minibatch's `pairs` of -log sigmoid(chosen - rejected), scalar.

    The Bradley-Terry model's negative log-likelihood, InstructGPT (arXiv 2203.02155) eq. 1; DeepSeek-R1's helpful
    reward model has it (arXiv 2501.12948v2, section 3.1). A constant added to all scores changes nothing.
    """
    return -logsigmoid(chosen - rejected).sum() / pairs


def pointwise_loss(chosen: Tensor, rejected: Tensor, *, pairs: int) -> Tensor:
    """Mean over the minibatch's 2 * `pairs` responses of the cross-entropy of sigmoid(score), scalar.

    The label of the chosen ones is 1, of the rejected ones 0: DeepSeek-R1's safe reward model tells safe from unsafe
    responses one by one (arXiv 2501.12948v2, section 3.1).
    """
    return -(logsigmoid(chosen).sum() + logsigmoid(-rejected).sum()) / (2 * pairs)


PREFERENCE_LOSSES = {"pairwise": pairwise_loss, "pointwise": pointwise_loss}
