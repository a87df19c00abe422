import pytest
from hydra import compose, initialize_config_dir

from r1lab.entry import CONF, plain
from r1lab.pipeline.__main__ import model_overrides
from r1lab.pipeline.pipeline import Pipeline
from r1lab.pipeline.run import Train, answered, quoted, quoted_mapping
from r1lab.types import Prompt


@pytest.mark.parametrize("model", ["tiny_bilingual", "smollm2"])
def test_the_stages_of_r1_compose_with_any_model(model, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("pipeline", [f"model={model}", f"folder={tmp_path}"]))
    pipeline = Pipeline(config, [f"model={model}"])
    stages = {stage.name: Train(stage, pipeline.contexts[0]) for stage in pipeline.stages if stage.run == "train"}
    zero, dev2, r1 = (stages[name].config for name in ("zero", "dev2", "r1"))
    assert zero["model"]["name"] == model and dev2["model"]["name"].endswith("seed_1/dev1/policy")
    assert zero["reward"]["language_consistency"]["weight"] == 0.0
    assert dev2["reward"]["language_consistency"]["weight"] == 1.0
    assert (dev2["loss"]["epsilon_low"], dev2["loss"]["epsilon_high"]) == (10.0, 10.0)
    assert dev2["reference"]["refresh_every"] == 25
    # R1-Zero's reward is accuracy and format alike.
    assert zero["reward"]["format"]["weight"] == zero["reward"]["accuracy"]["weight"] == 1.0
    assert zero["loss"]["epsilon_high"] == 0.2 and zero["rollout"]["group_size"] == 16
    # General prompts and preference rewards in the last quarter alone, which is a stage.
    reasoning = stages["r1_reasoning"].config
    assert {**reasoning["rollout"], "engine": 0} == {**r1["rollout"], "engine": 0} and "helpful" not in reasoning[
        "reward"
    ]
    assert reasoning["task"] == dev2["task"] and reasoning["model"]["name"].endswith("dev3/policy")
    assert r1["trainer"]["max_steps"] * 3 == reasoning["trainer"]["max_steps"]
    assert r1["rollout"]["temperature"] == 0.7 and r1["reward"]["safety"]["weight"] == 1.0
    assert "VocabularyConsistency" in dev2["reward"]["language_consistency"]["_target_"]
    assert r1["reward"]["accuracy"]["kinds"] == ["bilingual"]
    assert r1["reward"]["helpful"]["scorer"]["name"] == f"{tmp_path}/seed_1/helpful/checkpoints/last.ckpt"
    assert r1["task"]["sources"] == {"bilingual": 3, "general": 1}
    assert "python -m r1lab.train model=" in stages["zero"].command


def test_the_models_overrides_go_on_to_the_stages():
    given = ["model=smollm2", "seeds=[1]", "model.policy.dtype=bfloat16", "model_x=1"]
    assert model_overrides(given, "smollm2") == ["model=smollm2", "model.policy.dtype=bfloat16"]


def test_quotes():
    assert quoted("it's/here") == r"'it\'s/here'"
    assert quoted_mapping({"a": {"path": "x y", "weight": 3}}) == "{a:{path:'x y',weight:3}}"


class Asked:
    def __init__(self, text, **columns):
        self.text, self.columns = text, columns

    def sample(self, split, index):
        assert split == "train"
        return Prompt((1,), self.text, "yes", index=index, columns=self.columns)


def test_an_answer_is_a_wellformed_completion():
    assert answered(Asked("Q:", thought="hmm"), 0)["completion"] == "<think> hmm </think> <answer> yes </answer>"
    # A prompt that opens the reasoning has its tag already.
    assert answered(Asked("Q: <think>"), 0)["completion"] == "yes </think> <answer> yes </answer>"
