"""The pipelines of conf/pipeline hang together: their stages, what these override, and a small run of one."""

import json

import pytest
from hydra import compose, initialize_config_dir

from r1lab.entry import CONF, plain
from r1lab.pipeline.__main__ import resolved
from r1lab.pipeline.pipeline import Pipeline
from r1lab.pipeline.run import KINDS, Generate, compose_now, teacher_hash

MODELS = {
    "r1": "tiny_bilingual",
    "r1_smollm2": "smollm2",
    "distill_vs_rl": "tiny_student_medium",
    "distill_teachers": "tiny_student_bilingual",
    "distill_smollm2": "smollm2",
}


def made(name, folder, *overrides, **of_stages):
    """The pipeline; of_stages: stage -> an override more."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = f"model={MODELS[name]}"
        config = resolved(compose("pipeline", [f"pipeline={name}", model, f"folder={folder}", *overrides]))
    for stage, override in of_stages.items():
        config["pipeline"]["stages"][stage]["overrides"].append(override)
    return Pipeline(config, [model])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "distill_vs_rl"))
        for name in sorted(file.stem for file in (CONF / "pipeline").glob("*.yaml"))
    ],
)
def test_what_stages_override_is_there(name, tmp_path):
    pipeline = made(name, tmp_path)
    alike: set[tuple[str, ...]] = set()
    for stage in pipeline.stages:
        names = tuple(word.partition("=")[0] for word in stage.overrides)
        # One of each kind: those with the same settings at other values compose as well.
        if (stage.run, names) in alike or stage.epochs or stage.run == "answers":
            continue
        alike.add((stage.run, names))
        work = KINDS[stage.run](stage, pipeline.contexts[0])
        config = plain(compose_now("generate", work.words)) if isinstance(work, Generate) else work.config
        assert config["seed"] == 1


@pytest.mark.slow
def test_students_are_taught_and_compared(tiny_run, tmp_path):
    """A base, RL on it, a teacher's samples, and two that learn: of what is stored and of their own samples."""
    kept = ("student", "samples", "rl", "top_k", "own_reverse_kl")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        stages = compose("pipeline", ["pipeline=distill_vs_rl"]).pipeline.stages
    small = (
        *(f"~pipeline.stages.{name}" for name in stages if name not in kept),
        "pipeline.contrasts=[[Top-k,RL]]",
        f"pipeline.teacher={tiny_run}",
        "~pipeline.stages.samples.filters.correct",
        "pipeline.prompts=8",
        "pipeline.batch_size=4",
        "pipeline.steps=1",
        "pipeline.budget='budget.flops=1.0e8'",
        "pipeline.evaluation.num_prompts=4",
        "pipeline.evaluation.num_samples=4",
        "pipeline.evaluation.ks=[4]",
        "pipeline.evaluation.teacher_prompts=4",
        "overrides=['rollout.max_new_tokens=6','rollout.batch_size=8','rollout.group_size=4',"
        "'data.validation_prompts=2']",
    )
    made("distill_vs_rl", tmp_path, *small, top_k="~data.filters.correct").run()
    table = (tmp_path / "table.md").read_text()
    for row in ("Base", "RL", "Top-k", "On-policy reverse KL"):
        assert f"| {row} |" in table
    for column in ("pass@4", "cons@4", "KL(T, S) on its own text", "calibration error", "teraflop", "teacher tokens"):
        assert column in table
    assert "Top-k minus RL" in table
    flops = {name: json.loads((tmp_path / "seed_1" / name / "summary.json").read_text())["flops"] for name in kept[2:]}
    assert all(each["total"] >= 1e8 for each in flops.values())
    # Scores beside a teacher are of its weights, wherever they lie.
    asked = json.loads((tmp_path / "seed_1" / "rl" / "scores.json").read_text())["asked"]
    assert asked["teacher_sha256"] == teacher_hash(str(tiny_run))
