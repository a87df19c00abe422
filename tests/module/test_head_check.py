import pytest
import torch
from torch import nn

from r1lab.model import probe
from r1lab.module.head import LinearHead
from r1lab.module.head_check import check_head
from tests.architectures import tiny_model
from tests.module.head_model import HeadModel


class Scaled(HeadModel):
    """A model that scales its logits by a factor which its config does not name."""

    factor = 1.5

    def forward(self, input_ids, use_cache=False):
        out = super().forward(input_ids)
        out.logits = out.logits * self.factor
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unknown_scale_is_rejected_by_name(dtype):
    model = Scaled(nn.Linear(4, 16, bias=False)).to(dtype)
    with pytest.raises(ValueError, match=r"Scaled: its logits are .* nats off those of its output head"):
        check_head(model)
    with pytest.raises(ValueError, match="Scaled"):  # at its first use as well, and again
        LinearHead("torch").logprob(model, torch.ones(2, 4, dtype=dtype), torch.tensor([1, 2]), temperature=1.0)


def test_rounding_in_16_bits_is_accepted():
    for architecture in ("llama", "gemma2", "granite", "phi"):
        check_head(tiny_model(architecture, torch.bfloat16))


def test_hidden_transform_between_body_and_head_is_rejected():
    class Dense(HeadModel):
        def forward(self, input_ids, use_cache=False):
            out = super().forward(input_ids)
            out.logits = self.head(torch.tanh(self.base_model(input_ids).last_hidden_state))
            return out

    with pytest.raises(ValueError, match="Dense"):
        check_head(Dense(nn.Linear(4, 16)))


def test_checked_once_per_model_and_config(monkeypatch):
    monkeypatch.setattr(probe, "_PASSED", set())
    passes = []
    models = [tiny_model("llama") for _ in range(2)]
    for model in models:
        model.base_model.register_forward_pre_hook(lambda *_: passes.append(probe.is_probing()))
        check_head(model)
        check_head(model)
    assert passes == [True, True]  # the body alone and within the model, of the first one
    assert not probe.is_probing()


def test_another_model_of_the_same_config_is_checked_again():
    check_head(tiny_model("llama"))
    model = tiny_model("llama")
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits * 2)
    with pytest.raises(ValueError, match="LlamaForCausalLM: its logits are"):
        check_head(model)


@pytest.mark.parametrize("temperature", [300.0, 0.005])
def test_a_temperature_in_range_times_the_scale_of_the_logits_is_accepted(temperature):
    model = tiny_model("granite")  # which divides its logits
    hidden, ids = torch.randn(3, model.config.hidden_size), torch.tensor([4, 5, 6])
    expected = (model.lm_head(hidden) / model.config.logits_scaling / temperature).log_softmax(-1)
    logprobs, _ = LinearHead("torch").logprob(model, hidden, ids, temperature=temperature)
    torch.testing.assert_close(logprobs, expected.gather(-1, ids[:, None])[:, 0], atol=1e-4, rtol=1e-4)


def test_distillation_accepts_a_temperature_in_range_times_the_scale_of_the_logits():
    model, teacher = tiny_model("granite"), tiny_model("granite")
    hidden, targets = torch.randn(2, 3, model.config.hidden_size).unbind()
    options = {"divergence": "forward_kl", "jsd_beta": 0.5, "temperature": 300.0, "tokens": 3}
    loss = LinearHead("torch").distill_loss(model, hidden, teacher, targets, **options)
    log_q, log_p = (
        (m.lm_head(h) / m.config.logits_scaling / 300.0).log_softmax(-1)
        for m, h in ((model, hidden), (teacher, targets))
    )
    torch.testing.assert_close(loss.mean(), (log_p.exp() * (log_p - log_q)).sum(-1).mean(), atol=1e-7, rtol=1e-3)
