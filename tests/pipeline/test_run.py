import json

import pytest
from hydra import compose, initialize_config_dir

from r1lab.build import build_reward, make, make_task
from r1lab.entry import CONF, plain
from r1lab.pipeline.__main__ import model_overrides
from r1lab.pipeline.pipeline import Pipeline
from r1lab.pipeline.run import Train, answered
from r1lab.types import Completion, Prompt


class Characters:
    def encode(self, text, add_special_tokens=True):
        return [ord(c) for c in text]


def train_stages(pipeline, model, folder):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("pipeline", [f"pipeline={pipeline}", f"folder={folder}"]))
    made = Pipeline(config, [f"model={model}"])
    stages = {stage.name: Train(stage, made.contexts[0]) for stage in made.stages if stage.run == "train"}
    return config, {name: work for name, work in stages.items() if not work.stage.data}


@pytest.mark.parametrize("pipeline, model", [("r1", "tiny_bilingual"), ("r1_smollm2", "smollm2")])
def test_the_tasks_of_the_stages_fit_their_rewards_and_their_model(pipeline, model, tmp_path):
    if model == "smollm2":
        pytest.importorskip("reasoning_gym")
    config, stages = train_stages(pipeline, model, tmp_path)
    assert config["model"]["name"] == model  # also where it is not named
    # That of SmolLM2 writes any text, and so do characters.
    tokenizer = make(config["model"]["tokenizer"]) if model == "tiny_bilingual" else Characters()
    tasks = {}
    for name, work in stages.items():
        key = json.dumps(work.config["task"])
        tasks[key] = task = tasks.get(key) or make_task(work.config["task"], tokenizer)
        prompts = [task.sample("train", index) for index in range(24)]
        completions = [
            Completion((), answered(task, index)["completion"], truncated=False) for index in range(len(prompts))
        ]
        if "reward" not in work.config["module"]["_target_"]:
            terms = {key: term for key, term in work.config["reward"].items() if key not in ("helpful", "safety")}
            scored = build_reward(terms, task, tokenizer)(prompts, completions).terms
            kinds = config["pipeline"]["reasoning_kinds"]
            rule = [score for prompt, score in zip(prompts, scored["accuracy"], strict=True) if prompt.kind in kinds]
            assert rule and set(rule) == {1.0}, name
            assert {*scored["accuracy"]} - {None} == {1.0}
            # Sums have no words; who reasons in some is told by them.
            assert set(scored["language_consistency"]) <= {1.0, None}
    # Each general prompt is one of a reward model's.
    general = make_task(stages["r1"].config["task"], tokenizer)
    kinds = {general.sample("train", index).kind for index in range(100)}
    assert kinds == {*config["pipeline"]["reasoning_kinds"], "helpful", "safety"}


@pytest.mark.parametrize("pipeline, model", [("r1", "tiny_bilingual"), ("r1_smollm2", "smollm2")])
def test_the_stages_of_r1_compose_with_their_model(pipeline, model, tmp_path):
    config, stages = train_stages(pipeline, model, tmp_path)
    zero, dev2, r1 = (stages[name].config for name in ("zero", "dev2", "r1"))
    assert zero["model"]["name"] == model and dev2["model"]["name"].endswith("seed_1/dev1/policy")
    assert zero["reward"]["language_consistency"]["weight"] == 0.0
    assert dev2["reward"]["language_consistency"]["weight"] == 1.0
    assert (dev2["loss"]["epsilon_low"], dev2["loss"]["epsilon_high"]) == (10.0, 10.0)
    # Before its end; of the last stage's quarters the first alone is long enough in both.
    for name in ("zero", "dev2", "r1_reasoning"):
        own = stages[name].config
        assert own["reference"]["refresh_every"] < own["trainer"]["max_steps"], name
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
    told = {"r1": "VocabularyConsistency", "r1_smollm2": "ScriptConsistency"}[pipeline]
    assert dev2["reward"]["language_consistency"]["_target_"].endswith(told)
    assert dev2["reward"]["format"]["graded"] == (pipeline == "r1_smollm2")
    assert r1["reward"]["accuracy"]["kinds"] == config["pipeline"]["reasoning_kinds"]
    assert r1["reward"]["helpful"]["scorer"]["name"] == f"{tmp_path}/seed_1/helpful/checkpoints/last.ckpt"
    assert sorted(r1["task"]["sources"].values()) == [1, 3]
    # The reward models' requests are the general task's, each model's own.
    safe, helpful = stages["safety"].config["task"], stages["helpful"].config["task"]
    assert safe["languages"] == helpful["languages"] == r1["task"]["parts"]["general"]["languages"]
    assert safe["kinds"]["unsafe"] == 1 and safe["kinds"]["polite"] == 0 == helpful["kinds"]["unsafe"]
    assert "python -m r1lab.train model=" in stages["zero"].command


def test_the_models_overrides_go_on_to_the_stages():
    given = ["model=smollm2", "seeds=[1]", "model.policy.dtype=bfloat16", "model_x=1"]
    assert model_overrides(given, "smollm2") == ["model=smollm2", "model.policy.dtype=bfloat16"]


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


@pytest.mark.parametrize("seeds", ["1", "[]", "[1,1]", "[1.5]", "[true]"])
def test_seeds_are_a_list_of_different_numbers(seeds, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("pipeline", [f"seeds={seeds}", f"folder={tmp_path}"]))
    with pytest.raises(ValueError, match=r"seeds must be a list of different whole numbers, as seeds=\[1,2,3\], got"):
        Pipeline(config, ["model=tiny_bilingual"])


def test_stages_and_seeds_sample_prompts_of_their_own(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("pipeline", ["seeds=[1,2]", f"folder={tmp_path}"]))
    contexts = Pipeline(config, ["model=tiny_bilingual"]).contexts
    firsts = [c.first_prompt(stage) for c in contexts for stage in ("cold_start", "rejection", "general")]
    assert firsts == sorted(firsts, key=lambda first: first // 2**31)
    firsts.sort()
    assert min(b - a for a, b in zip(firsts, firsts[1:], strict=False)) > 10_000
    # RL of a seed counts from its first prompt.
    assert all(first % 2**31 >= 2**30 for first in firsts)


def test_a_setting_that_a_stage_lacks_is_told_with_the_stage(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("pipeline", [f"folder={tmp_path}", "overrides=['data.batch_size=8']"]))
    zero = Train(Pipeline(config, ["model=tiny_bilingual"]).stages[0], Pipeline(config, []).contexts[0])
    with pytest.raises(ValueError, match="stage zero: there is no setting data.batch_size; did you mean"):
        zero.config  # noqa: B018
