import pytest

from r1lab.pipeline.stage import make_stages, people_of

ZERO = {"run": "train", "init": "base"}
SAMPLES = {"run": "generate", "init": "zero"}


def test_a_list_that_hangs_together():
    stages = make_stages(
        {
            "zero": ZERO,
            "samples": SAMPLES,
            "written": {"run": "answers", "num_prompts": 3, "people": True},
            "dev": {"run": "train", "init": "base", "data": {"samples": 3, "written": 1}, "epochs": 2},
            "final": {"run": "train", "init": "dev", "models": ["zero"], "overrides": ["a=1"]},
        }
    )
    assert [stage.inputs for stage in stages] == [[], ["zero"], [], ["samples", "written"], ["dev", "zero"]]
    assert stages[-1].overrides == ("a=1",)
    # What people wrote is inherited.
    assert people_of(stages) == {"zero": False, "samples": False, "written": True, "dev": True, "final": True}


@pytest.mark.parametrize(
    "stages, words",
    [
        ({}, "stages is empty"),
        ({"zero": {"run": "sleep"}}, "zero.run=sleep must be one of train, generate, answers"),
        ({"zero": {**ZERO, "steps": 3}}, "zero has no steps; it has data"),
        ({"zero": {"run": "train"}}, "zero needs init"),
        ({"zero": {"run": "answers"}}, "zero needs num_prompts"),
        ({"zero": {"run": "answers", "num_prompts": -1}}, "num_prompts must be a whole number above 0, got -1"),
        ({"samples": SAMPLES, "zero": ZERO}, "samples takes the policy of zero, which no stage before it makes"),
        ({"samples": {"run": "generate", "init": "base"}}, "samples samples the policy of a stage, not the base"),
        ({"zero": ZERO, "samples": SAMPLES, "dev": {"run": "train", "init": "samples"}}, "the policy of samples"),
        ({"zero": ZERO, "samples": {**SAMPLES, "filters": {"nice": {}}}}, "samples.filters: there is no filter nice"),
        ({"zero": ZERO, "dev": {**ZERO, "data": {"zero": 1}, "epochs": 1}}, "the documents of zero"),
        ({"zero": ZERO, "samples": SAMPLES, "dev": {**ZERO, "data": {"samples": 1}}}, "data and epochs go together"),
    ],
)
def test_one_that_does_not(stages, words):
    with pytest.raises(ValueError, match=words):
        make_stages(stages)
