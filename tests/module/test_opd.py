import pytest
import torch

from r1lab.analysis.run import load_run
from r1lab.module.checkpoint import read_checkpoint
from r1lab.module.opd import OPD
from r1lab.module.teacher import load_teacher
from tests.module.test_grpo import SPREAD

ALONE = (*SPREAD, "experiment=opd")


def test_the_advantage_of_a_token_is_the_teachers_logprob_less_the_students(
    train_small, tiny_run, tmp_path, monkeypatch
):
    seen = []
    original = OPD.with_advantages
    monkeypatch.setattr(OPD, "with_advantages", lambda self, r: seen.append(original(self, r)) or seen[-1])
    options = ("module.kl_weight=0.5", "module.reward_weight=2", "trainer.max_steps=1", "seed=3")
    run = load_run(train_small(tmp_path, *ALONE, f"module.teacher.name={tiny_run}", *options))
    (rollout,) = seen
    apart = [t - s for t, s in zip(rollout.teacher_logprobs, rollout.old_logprobs, strict=True)]
    rewards = rollout.rewards.view(-1, 4)
    of_group = (
        (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, correction=0, keepdim=True) + 1e-6)
    ).flatten()
    teacher = load_teacher(str(tiny_run), dtype=None, quantize=None)
    for number, (prompt, own) in enumerate(zip(rollout.prompts, rollout.completions, strict=True)):
        ids = torch.tensor([[*prompt.ids, *own.ids]])
        with torch.no_grad():
            logits = teacher.model(input_ids=ids).logits[0, len(prompt.ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(own.ids)[:, None])[:, 0]
        torch.testing.assert_close(rollout.teacher_logprobs[number], expected, rtol=0, atol=1e-5)
    for found, difference, advantage in zip(rollout.token_advantages, apart, of_group, strict=True):
        torch.testing.assert_close(found, 0.5 * difference + 2 * advantage, rtol=1e-3, atol=1e-3)
    assert run.metrics["loss/reverse_kl"][0] == pytest.approx(-float(torch.cat(apart).mean()), rel=1e-4)
    assert run.metrics["rollout/teacher_tokens"][0] == len(torch.cat(apart))
    assert run.metrics["memory/teacher_mib"][0] > 1 and run.metrics["optimizer/gradient_norm"][0] > 1e-3


@pytest.mark.slow
def test_the_teacher_is_in_no_checkpoint(train_small, tiny_run, tmp_path):
    train_small(tmp_path, *ALONE, f"module.teacher.name={tiny_run}", "trainer.max_steps=1")
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert all(name.startswith("policy.") for name in state["state_dict"]) and state["r1lab"]["teacher_tokens"] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "module=opd learns from a teacher's logprobs: set module.teacher.name"),
        (("module.teacher.name=tiny", "module.kl_weight=-1"), "module.kl_weight must be at least 0"),
        (("module.teacher.name=tiny", "module.kl_weight=0"), "module.reward_weight=0: nothing is learnt"),
        (
            ("module.teacher.name=tiny", "module.reward_weight=1", "rollout.group_size=1", "advantage.scale=none"),
            "rollout.group_size=1: the advantage is",
        ),
        (
            ("module.teacher.name=tiny", "loss.kl_placement=reward", "loss.beta=0.1", "reference=fixed"),
            "set loss.kl_placement=loss, loss.beta=0, or the weight above 0",
        ),
    ],
)
def test_settings_that_do_not_go_together(overrides, message, train_small, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_small(tmp_path, *ALONE, *overrides)
