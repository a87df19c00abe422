import math

import torch

from r1lab.loss.sft import sft_loss

MASK = torch.tensor([[True, True], [True, False]])


def test_token_mean_of_the_negative_log_likelihood():
    # -(-1 - 2 - 6) / 3 = 3; the masked NaN does not count
    logprobs = torch.tensor([[-1.0, -2.0], [-6.0, math.nan]], requires_grad=True)
    loss = sft_loss(logprobs, MASK, tokens=3)
    assert loss.item() == 3
    (gradient,) = torch.autograd.grad(loss, logprobs)
    torch.testing.assert_close(gradient, torch.tensor([[-1 / 3, -1 / 3], [-1 / 3, 0.0]]))


def test_shares_of_microbatches_add_up():
    logprobs = torch.tensor([[-1.0, -2.0], [-6.0, -9.0]])
    shares = [sft_loss(logprobs[row : row + 1], MASK[row : row + 1], tokens=3).item() for row in range(2)]
    assert shares == [1, 2]
