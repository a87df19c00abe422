from functools import partial

import pytest
import torch

from r1lab.analysis.run import load_run
from r1lab.loss.grpo import grpo_loss
from r1lab.loss.ppo import ppo_loss
from r1lab.loss.sft import sft_loss
from r1lab.module import head as module
from r1lab.module.head import LinearHead
from tests.module.head_model import HeadModel
from tests.module.test_grpo import SPREAD


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cuda"}, "kernel.name 'cuda' is not one of auto, triton, torch"),
        ({"chunk_bytes": 0}, "kernel.chunk_bytes, if not null, must be a whole number of bytes above 0, got 0"),
        (
            {"chunk_bytes": 1e5},
            "kernel.chunk_bytes, if not null, must be a whole number of bytes above 0, got 100000.0",
        ),
        ({"name": "triton"}, "kernel=triton needs a CUDA GPU, and there is none: take kernel=auto"),
    ],
)
def test_what_is_refused(arguments, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        LinearHead(**arguments)


def test_a_missing_triton_is_told(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package triton: pip install triton, or take kernel=torch"):
        LinearHead("triton")


def test_a_model_that_stays_on_the_cpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="the model is on the CPU: set trainer.accelerator=gpu"):
        LinearHead("triton").takes_triton(torch.zeros(1, 1))


def test_auto_is_pytorch_on_a_cpu():
    assert not LinearHead("auto").takes_triton(torch.zeros(1, 1))


def of_head(rows, *, bias=False, softcap=None):
    return HeadModel(torch.nn.Linear(4, rows, bias=bias), final_logit_softcapping=softcap)


def test_of_heads_padded_to_different_lengths_both_rows_count():
    options = {"divergence": "reverse_kl", "jsd_beta": 0.5, "temperature": 1.0, "teacher_temperature": 1.0, "tokens": 3}
    hidden, of_teacher = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    student, teacher = of_head(7), of_head(9)
    found = LinearHead("torch").distill_loss(student, hidden, teacher, of_teacher, **options)
    heads = student.get_output_embeddings().weight, teacher.get_output_embeddings().weight[:7]
    own, theirs = ((h @ w.T).log_softmax(-1) for h, w in zip((hidden, of_teacher), heads, strict=True))
    assert float(found.detach()) == pytest.approx(float((own.exp() * (own - theirs)).sum().detach()) / 3, rel=1e-5)


@pytest.mark.parametrize("part", [{"bias": True}, {"softcap": 30.0}])
def test_a_head_that_is_more_than_a_product_is_not_distilled_whole(part):
    with pytest.raises(ValueError, match="has a bias or a soft cap: take module.mode=top_k or module.mode=sampled"):
        LinearHead("torch").distill_loss(
            of_head(5), torch.ones(2, 4), of_head(5, **part), torch.ones(2, 4), temperature=1.0, teacher_temperature=1.0
        )


def test_only_the_losses_of_grpo_and_ppo_are_fused(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    bound = partial(grpo_loss, epsilon_low=0.2)
    given = of_head(2), torch.zeros(1, 4)
    assert LinearHead("triton").fuses(bound, *given)
    assert LinearHead("triton").fuses(partial(ppo_loss, epsilon_low=0.2), *given)
    assert not LinearHead("triton").fuses(partial(sft_loss, tokens=1), *given)
    assert not LinearHead("torch").fuses(bound, *given)


# In Triton's interpreter, which computes in float32 as PyTorch does, in another order.
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(
            ("module.num_minibatches=2", "loss.ratio_level=sequence", "loss.kl=ratio_k3", "loss.beta=0.1"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                "loss.entropy_coef=0.01",
                "loss.ratio_cap=3.0",
                "loss.aggregate=constant_length",
                "kernel.chunk_bytes=4096",
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("loss.kl=k1", "loss.kl_placement=reward", "loss.beta=0.1", "module.microbatch_tokens=30"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("experiment=ppo",), marks=pytest.mark.slow),
        ("experiment=tiny_base", "callback=default", "data.batch_size=4", "data.validation_documents=2"),
    ],
    ids=lambda overrides: ",".join(overrides) or "default",
)
def test_training_is_the_same_by_either(overrides, train_small, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    own = () if "experiment=tiny_base" in overrides else SPREAD
    fused = []
    monkeypatch.setattr(
        LinearHead, "grpo_loss", lambda *a, made=LinearHead.grpo_loss, **k: fused.append(1) or made(*a, **k)
    )
    triton, plain = (
        load_run(train_small(tmp_path / name, *overrides, *own, "evaluate=false", f"kernel={name}")).metrics
        for name in ("triton", "torch")
    )
    assert bool(fused) == ("experiment=tiny_base" not in overrides)
    assert set(triton) == set(plain)
    for name in (name for name in plain if name.startswith(("loss/", "optimizer/"))):
        assert triton[name].tolist() == pytest.approx(plain[name].tolist(), rel=2e-3, abs=2e-5, nan_ok=True), name
    assert plain["optimizer/gradient_norm"][0] > 1e-2
