import pytest
import torch

from r1lab.model.policy import new_policy
from r1lab.model.reward_model import last_token_scores
from r1lab.model.value import value_model
from tests.module.test_logprobs import CONFIG


def test_a_score_is_of_the_last_token_and_padding_changes_nothing():
    policy = new_policy(CONFIG, seed=0)
    head = value_model(policy, "shared")
    with torch.no_grad():
        head.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    rows = [[3, 4, 5], [6, 7, 8, 9, 10], [3, 4, 11]]
    alone = [last_token_scores(policy.base_model, head, torch.tensor([r]), torch.tensor([len(r)])).item() for r in rows]
    assert len({round(score, 4) for score in alone}) == 3
    for pad in (0, 12):
        ids = torch.tensor([row + [pad] * (6 - len(row)) for row in rows])
        together = last_token_scores(policy.base_model, head, ids, torch.tensor([3, 5, 3]))
        assert together.tolist() == pytest.approx(alone, abs=1e-5) and together.dtype == torch.float32
