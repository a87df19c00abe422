from torch import nn

from r1lab.model.policy import load_policy
from r1lab.model.value import value_model
from r1lab.strategy.blocks import blocks


def test_layers_each_behind_its_experts():
    model = load_policy("tiny", dtype="float32")
    names = {id(part): name for name, part in model.named_modules()}
    layer = "model.layers.1"
    assert [names[id(part)] for part in blocks(model)] == ["model.layers.0", f"{layer}.mlp.experts", layer]


def test_a_critic_of_the_policys_size_has_those_of_its_trunk():
    critic = value_model(load_policy("tiny", dtype="float32"), "separate")
    assert len(blocks(critic)) == 3


def test_what_is_no_transformer_has_none():
    assert blocks(nn.Linear(2, 2)) == []
