"""Microbatches packed into rows without padding train as padded ones do, whatever is trained."""

import pytest
import torch

from r1lab.analysis.run import load_run
from r1lab.module.checkpoint import read_checkpoint

# Plain steps along the gradient: equal weights afterwards are equal gradients.
PLAIN = (
    "evaluate=false",
    "callback.samples.shown=0",
    "optimizer.optimizer._target_=torch.optim.SGD",
    "~optimizer.optimizer.betas",
    "optimizer.lr=0.1",
)
SPREAD = "+reward.even={_target_: tests.module.test_grpo.even, weight: 1.0}"
UPDATES = ("module.num_minibatches=2", "trainer.val_check_interval=2", "trainer.max_steps=2")
SLOW = {"marks": pytest.mark.slow}
STUDENT = ("experiment=distill", "data.batch_size=4", "seed=2", "data.validation_prompts=2")
DENSE = ("model=tiny_student_small",)


def weights(folder) -> torch.Tensor:
    state = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return torch.cat([x.flatten() for _, x in sorted(state.items()) if x.is_floating_point()])


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("module=sft", "data=corpus", "data.batch_size=8", "data.microbatch_tokens=100"), id="sft"),
        pytest.param((*DENSE, SPREAD, *UPDATES, "loss.beta=0.1", "module.microbatch_tokens=60"), id="grpo-dense"),
        pytest.param((SPREAD, *UPDATES, "model.attention=sdpa", "loss.beta=0.1"), id="grpo-sdpa", **SLOW),
        pytest.param(
            (SPREAD, "loss.kl=k1", "loss.kl_placement=reward", "kernel=torch", "module.microbatch_tokens=60"),
            id="grpo-kl-in-reward",
            **SLOW,
        ),
        pytest.param(("experiment=ppo", SPREAD, *UPDATES, "module.value_lr=0.1"), id="ppo", **SLOW),
        pytest.param((*STUDENT, "module.mode=jsd", "module.student_fraction=0.5"), id="distill", **SLOW),
        pytest.param(("experiment=opd", "seed=2"), id="opd", **SLOW),
    ],
)
def test_the_same_steps_are_taken(overrides, train_small, tiny_run, teacher_samples, tmp_path):
    if {"experiment=distill", "experiment=opd"} & set(overrides):
        overrides = (*overrides, f"module.teacher.name={tiny_run}")
    if "experiment=distill" in overrides:
        overrides = (*overrides, f"data.folder={teacher_samples}", "~data.filters.correct")
    padded, packed = (
        train_small(tmp_path / form, *overrides, *PLAIN, f"module.padding_free={form}") for form in ("false", "true")
    )
    theirs, ours = load_run(padded).metrics, load_run(packed).metrics
    for name in ("loss/total", "optimizer/gradient_norm"):
        assert ours[name].tolist() == pytest.approx(theirs[name].tolist(), rel=1e-5, abs=1e-6), name
    assert theirs["optimizer/gradient_norm"].gt(1e-3).all()
    torch.testing.assert_close(weights(packed), weights(padded), rtol=0, atol=1e-6)
    # No padding is computed.
    kind = "flops/training"
    assert ours[kind].iloc[-1] < theirs[kind].iloc[-1]
