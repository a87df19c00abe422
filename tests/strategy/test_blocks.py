from torch import nn

from r1lab.model.policy import load_policy
from r1lab.strategy.blocks import blocks


def test_layers_each_behind_its_experts():
    model = load_policy("tiny", dtype="float32")
    names = {id(part): name for name, part in model.named_modules()}
    layer = "model.layers.1"
    assert [names[id(part)] for part in blocks(model)] == ["model.layers.0", f"{layer}.mlp.experts", layer]


def test_what_is_no_transformer_has_none():
    assert blocks(nn.Linear(2, 2)) == []
