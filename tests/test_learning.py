"""R1-Zero and PPO learn: twenty small steps from the shipped base, and accuracy rose by more than chance explains."""

import json
import math

import pytest

STEPS, PROMPTS = 20, 256
# One-sided p < 0.001; seeds 1 to 3 had 5.4, 3.6 and 5.3. The test is stricter than it says, since both measurements
# have the same prompts and draws.
LEAST_Z = 3.09


def z_score(before: float, after: float, num_prompts: int) -> float:
    """The rise of a share in standard errors, when both are of `num_prompts` and there was none (pooled z-test)."""
    pooled = (before + after) / 2
    return (after - before) / math.sqrt(pooled * (1 - pooled) * 2 / num_prompts)


def test_z_score():
    # pooled .25, so .1 / sqrt(.25 * .75 * 2 / 150) = .1 / .05
    assert z_score(0.2, 0.3, 150) == pytest.approx(2.0)


@pytest.mark.parametrize("experiment", ["r1zero", pytest.param("ppo", marks=pytest.mark.slow)])
def test_accuracy_rises(experiment, train_small, tmp_path):
    train_small(
        tmp_path,
        f"experiment={experiment}",
        "model=tiny",
        f"trainer.max_steps={STEPS}",
        f"trainer.val_check_interval={STEPS}",
        "rollout.batch_size=128",
        "rollout.group_size=8",
        "rollout.max_new_tokens=40",
        "evaluation.splits=[validation]",
        f"evaluation.num_prompts={PROMPTS}",
        "callback.samples.shown=0",
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    before, after = (summary[when]["validation"] for when in ("before", "after"))
    # Two questions come twice among the first 256, and are scored once.
    assert before["num_prompts"] == PROMPTS - 2
    assert z_score(before["pass_at_1"], after["pass_at_1"], before["num_prompts"]) > LEAST_Z, (before, after)
