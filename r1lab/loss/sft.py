"""Supervised fine-tuning: the negative log-likelihood of given completions."""

from torch import Tensor

from r1lab.loss.aggregate import token_mean


def sft_loss(logprobs: Tensor, completion_mask: Tensor, *, tokens: int) -> Tensor:
    """logprobs [b, T], completion_mask bool [b, T] -> this microbatch's share of the mean over `tokens`, nats a token.

    Shares of all microbatches and ranks add up to the token-mean negative log-likelihood of the minibatch.
    """
    return -token_mean(logprobs, completion_mask, sequences=logprobs.shape[0], tokens=tokens, max_length=1)
