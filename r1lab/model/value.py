"""The value model of PPO: what reward is still to come, one number a token, from the hidden states of a trunk."""

import copy

from torch import Tensor, nn
from transformers import PreTrainedModel

CRITICS = ("separate", "shared")


class ValueModel(nn.Module):
    """A linear head on hidden states, and the trunk that makes them where it has one of its own.

    The head starts at zero: every value is 0, and the first advantages are the rewards to come, instead of the noise of
    a random head. Its first step moves the head alone; the trunk follows once the head is not zero.

    Args:
        width: H, of the hidden states.
        body: a transformer's body; None: the policy's hidden states are given to it.
    """

    def __init__(self, width: int, body: nn.Module | None):
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [N, H] -> values float32 [N], in units of reward."""
        # In float32 also where the weights are not: a value is one number, of which a sum over many tokens follows.
        weights = (weight.float() for weight in (self.head.weight, self.head.bias))
        return nn.functional.linear(hidden.float(), *weights).squeeze(-1)


def value_model(policy: PreTrainedModel, critic: str) -> ValueModel:
    """The value model of a policy.

    Args:
        critic: separate, a trunk of its own that starts as a copy of the policy's, the usual model of the policy's
            size; or shared, the policy's trunk, which then learns from both losses.

    Raises ValueError for another critic.
    """
    if critic not in CRITICS:
        raise ValueError(f"module.critic {critic!r} is not one of {', '.join(CRITICS)}")
    width = policy.get_output_embeddings().weight.shape[1]
    return ValueModel(width, copy.deepcopy(policy.base_model) if critic == "separate" else None)
