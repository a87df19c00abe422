import pickle
import sys

import pytest
import torch

from r1lab.build import (
    _made_of,
    build_policy_parts,
    build_reward,
    build_task,
    evaluation_sampling,
    made_once,
    make,
    policy_maker,
    refuse_unscorable,
    rollout_sampling,
)
from r1lab.load import policy_hash
from r1lab.model.tiny import tiny_tokenizer
from r1lab.reward.accuracy import Accuracy
from r1lab.rollout.sampling import Sampling
from r1lab.task.mixed import Mixed
from r1lab.types import Completion, Prompt
from tests.conftest import compose_run

TERMS = """
def short(prompts, completions, limit, tokenizer):
    return [float(len(c.ids) <= limit and tokenizer.eos_token_id in c.ids) for c in completions]

class Kind:
    def __init__(self, task, tokenizer, bonus):
        self.task, self.tokenizer, self.bonus = task, tokenizer, bonus

    def __call__(self, prompts, completions):
        return [self.bonus if p.kind == self.task.name else None for p in prompts]
"""


class Task:
    name = "doubling"

    def __init__(self, tokenizer=None):
        pass

    def is_correct(self, prompt, answer):
        return float(answer == prompt.answer)


@pytest.fixture
def terms(tmp_path, monkeypatch):
    (tmp_path / "custom_terms.py").write_text(TERMS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("custom_terms", None)


PROMPTS = [Prompt((1,), "", "12", kind="doubling"), Prompt((1,), "", "7", kind="other")]
COMPLETIONS = [Completion((5, 1), "<answer> 12 </answer>", False), Completion((5, 6, 1), "<answer> 8 </answer>", False)]


def test_classes_and_functions_get_what_they_ask_for(terms):
    config = {
        "accuracy": {"_target_": "r1lab.reward.accuracy.Accuracy", "weight": 1.0},
        "short": {"_target_": "custom_terms.short", "weight": 0.5, "limit": 2},
        "kind": {"_target_": "custom_terms.Kind", "weight": 10, "bonus": 3.0},
    }
    tokenizer = tiny_tokenizer()
    reward = build_reward(config, Task(), tokenizer)
    assert reward.terms["kind"].tokenizer is tokenizer
    rewards = reward(PROMPTS, COMPLETIONS)
    assert rewards.terms == {"accuracy": [1.0, 0.0], "short": [1.0, 0.0], "kind": [3.0, None]}
    assert rewards.total.tolist() == [1 + 0.5 + 30, 0.0]
    assert config["short"] == {"_target_": "custom_terms.short", "weight": 0.5, "limit": 2}  # as it was


class Rows(Task):
    """300 prompts, of which the last is another."""

    def __init__(self, last):
        self.rows = {"train": [Prompt((1,), "", "12", columns={"tests": ["assert True"]})] * 299 + [last]}

    def sample(self, split, index):
        return self.rows[split][index]

    def unencoded(self, split, count):
        return self.rows[split][:count]


ACCURACY = "accuracy.Accuracy"
LIMITS = dict.fromkeys(("cpu_seconds", "wall_seconds", "memory_mib", "output_mib", "processes"), 64)
CODE = {"partial": True, "workers": 1, "allow_unsandboxed": True, **LIMITS}


@pytest.mark.parametrize(
    ("target", "options", "last", "reason"),
    [
        ("language_consistency.ScriptConsistency", {}, {"language": "zh-TW"}, "language 'zh-TW' is not known"),
        ("code.Code", CODE, {"columns": {"tests": 5}}, "tests .* must be a list"),
        (ACCURACY, {"is_correct": {"_target_": "r1lab.reward.checker.Numeric"}}, {"answer": "x"}, "'x' is no"),
        (ACCURACY, {"is_correct": {"_target_": "r1lab.reward.countdown.Countdown"}}, {}, "target .*missing"),
    ],
)
def test_prompts_that_a_reward_cannot_score_are_rejected_before_sampling(target, options, last, reason):
    config = {"mine": {"_target_": f"r1lab.reward.{target}", "weight": 1.0, **options}}
    task = Rows(Prompt((1,), "", **{"answer": "7", **last}))
    terms = build_reward(config, task, tiny_tokenizer()).terms
    with pytest.raises(ValueError, match=f"reward.mine cannot score the prompts of train: .*{reason}"):
        refuse_unscorable(terms, task)


def test_sampling_names_the_group_that_it_is_of():
    settings = {"temperature": -1.0, "max_new_tokens": 1, "top_k": 0, "top_p": 1.0}
    with pytest.raises(ValueError, match=r"^evaluation.temperature must be 0 \(greedy\) or from 0.001 to 1000"):
        evaluation_sampling({"evaluation": settings})
    with pytest.raises(ValueError, match=r"^rollout.temperature must be 0 \(greedy\) or from 0.001 to 1000"):
        rollout_sampling({"rollout": settings})


def test_config_goes_before_what_is_at_hand():
    config = {"_target_": "r1lab.reward.accuracy.Accuracy", "weight": 1.0, "is_correct": {"_target_": "builtins.dict"}}
    assert build_reward({"accuracy": config}, Task(), tiny_tokenizer()).terms["accuracy"].is_correct == {}


def test_weights():
    term = {"_target_": "r1lab.reward.format.Format"}
    reward = build_reward({"format": term | {"weight": [[0.5, 0], [0.5, 1]]}}, Task(), tiny_tokenizer(), max_steps=10)
    assert [reward.scheduled(step)["format"] for step in (4, 5)] == [0.0, 1.0]
    for weight, message in ((None, "a number or a list"), ([[0.5, 1]], "reward.format.weight: 0.5 is a share")):
        with pytest.raises(ValueError, match=message):
            build_reward({"format": term | {"weight": weight}}, Task(), tiny_tokenizer())


@pytest.mark.parametrize("term", [{"_target_": "r1lab.reward.format.Format"}, {"weight": 1.0}, {}])
def test_a_term_needs_target_and_weight(term):
    with pytest.raises(ValueError, match="reward.format needs both _target_ and weight"):
        build_reward({"format": term}, Task(), tiny_tokenizer())


def test_a_term_that_cannot_be_made():
    with pytest.raises(ValueError, match=r"reward.pi._target_=math.pi is no function and no class, but 3.14"):
        build_reward({"pi": {"_target_": "math.pi", "weight": 1.0}}, Task(), tiny_tokenizer())
    with pytest.raises(ValueError, match="reward.code: Code takes partial, .*, and there is missing a required"):
        build_reward({"code": {"_target_": "r1lab.reward.code.Code", "weight": 1.0}}, Task(), tiny_tokenizer())


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nosuch.brief", "ModuleNotFoundError: No module named 'nosuch'"),
        ("custom_terms.brief", "ModuleNotFoundError: No module named 'custom_terms.brief'; 'custom_terms' is not a p"),
        ("custom_terms.Kind.brief", "AttributeError: type object 'Kind' has no attribute 'brief'"),
    ],
)
def test_a_term_that_is_not_there_is_told_once(terms, target, reason):
    with pytest.raises(ValueError) as raised:
        build_reward({"brief": {"_target_": target, "weight": 1.0}}, Task(), tiny_tokenizer())
    assert str(raised.value).startswith(f"reward.brief._target_={target} cannot be loaded ({reason}")
    assert "Error" not in str(raised.value).replace(reason, "")


def test_a_file_that_is_there_is_not_said_to_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unclosed_terms.py").write_text("def brief(")
    with pytest.raises(ValueError) as raised:
        build_reward({"brief": {"_target_": "unclosed_terms.brief", "weight": 1.0}}, Task(), tiny_tokenizer())
    assert str(raised.value).endswith("(SyntaxError: '(' was never closed (unclosed_terms.py, line 1))")


def test_made_objects_get_plain_values_and_the_very_objects_that_are_given():
    sampling = Sampling(1.0, 8)
    config = {"_target_": "builtins.dict", "numbers": [1, 2], "names": {"a": {"b": 1}}}
    made = make(config, sampling=sampling)
    assert made["sampling"] is sampling
    assert type(made["numbers"]) is list and type(made["names"]) is dict and type(made["names"]["a"]) is dict


POOLED = {"_target_": "r1lab.reward.pool.Pooled", "workers": 1, "seconds": 5, "memory_mib": 256}


@pytest.mark.parametrize(
    ("checker", "scores"),
    [
        (None, [1.0, 0.0]),
        ({"_target_": "r1lab.reward.checker.Numeric"}, [1.0, 1.0]),
        (POOLED | {"is_correct": {"_target_": "r1lab.reward.checker.Numeric"}}, [1.0, 1.0]),
    ],
)
def test_the_checker_of_the_accuracy_is_the_tasks(checker, scores):
    accuracy = {"_target_": "r1lab.reward.accuracy.Accuracy", "weight": 1.0, "checker": checker}
    task = {"_target_": "tests.test_build.Task"}
    config = {"task": task, "reward": {"accuracy": accuracy}}
    task = build_task(config, tiny_tokenizer())
    assert [task.is_correct(PROMPTS[0], answer) for answer in ("12", "12.0")] == scores
    reward = build_reward(config["reward"], task, tiny_tokenizer())
    completions = [Completion((1,), f"<answer> {answer} </answer>", False) for answer in ("12", "12.0")]
    assert reward([PROMPTS[0]] * 2, completions).terms["accuracy"] == scores


def test_prompts_that_a_checker_cannot_score_are_rejected(tmp_path):
    file = tmp_path / "sums.jsonl"
    file.write_text('{"question": "a", "answer": "12", "numbers": [3, 4], "target": 12}\n'
                    '{"question": "b", "answer": "12", "numbers": "3 4", "target": 12}')  # fmt: skip
    config = compose_run(tmp_path, "task=dataset", "reward=[countdown,format]", f"task.files.train={file}")
    task = build_task(config, type("Lengths", (), {"encode": lambda self, text, **_: [0]})())
    for asked in (task, Mixed({"part": lambda: task}, {"part": 1.0})):
        with pytest.raises(ValueError, match="column numbers holds '3 4'"):
            refuse_unscorable({"accuracy": Accuracy(asked.is_correct)}, asked)


def test_each_part_of_a_mix_may_have_a_checker(tmp_path):
    files = {name: tmp_path / f"{name}.jsonl" for name in ("sums", "quiz")}
    files["sums"].write_text('{"question": "a", "answer": "12", "kind": "sum"}')
    files["quiz"].write_text('{"question": "b", "answer": "B", "kind": "quiz"}')
    checkers = {"sums": "Numeric", "quiz": "Choice"}
    config = compose_run(
        tmp_path,
        "task=mixed",
        "task.sources={sums: 1, quiz: 1}",
        *(f"+task@task.parts.{name}=dataset" for name in files),
        *(f"task.parts.{name}.files.train={file}" for name, file in files.items()),
        *(f"task.parts.{name}.checker={{_target_: r1lab.reward.checker.{c}}}" for name, c in checkers.items()),
    )
    task = build_task({"task": config["task"]}, type("Lengths", (), {"encode": lambda self, text, **_: [0]})())
    prompts = {prompt.kind: prompt for prompt in (task.sample("train", index) for index in range(20))}
    assert [task.is_correct(prompts[kind], answer) for kind, answer in (("sum", "12.0"), ("quiz", "(b)"))] == [1.0, 1.0]
    assert [task.is_correct(prompts[kind], answer) for kind, answer in (("sum", "B"), ("quiz", "12"))] == [0.0, 0.0]


def test_kinds_that_no_prompt_is_of(tmp_path):
    config = compose_run(tmp_path, "reward.accuracy.kinds=[arithmetik]")
    parts = build_policy_parts(config)
    with pytest.raises(ValueError, match=r"reward.accuracy.kinds=\['arithmetik'\] is for none .* kinds are arithmetic"):
        build_reward(config["reward"], parts["task"], parts["tokenizer"])
    config["reward"]["accuracy"]["kinds"] += ["arithmetic"]
    build_reward(config["reward"], parts["task"], parts["tokenizer"])


def test_a_checker_may_wrap_the_tasks_own():
    config = {"task": {"_target_": "tests.test_build.Task"}, "reward": {"accuracy": {"checker": POOLED}}}
    function, _ = pickle.loads(build_task(config, tiny_tokenizer()).is_correct.pool.first)
    assert function.__func__ is Task.is_correct


def test_parts_share_the_tokenizer():
    config = {
        "model": {"tokenizer": {"_target_": "r1lab.model.tiny.tiny_tokenizer"}},
        "task": {
            "_target_": "r1lab.task.arithmetic.Arithmetic",
            "template": {"_target_": "r1lab.task.template.Template", "text": "User: {question} Assistant:"},
            "question": "{chain}",
            "num_steps": [2],
            "harder_num_steps": [5],
            "operands": {"+": [1, 9]},
        },
        "rollout": {"engine": {"_target_": "r1lab.rollout.hf.CachedLoop", "batch_size": 0}},
    }
    parts = build_policy_parts(config)
    assert parts["task"].tokenizer is parts["engine"].tokenizer is parts["tokenizer"]
    mine = tiny_tokenizer()
    parts = build_policy_parts(config, mine)
    assert parts["task"].tokenizer is parts["engine"].tokenizer is parts["tokenizer"] is mine


def test_samplings():
    settings = {"temperature": 0.7, "max_new_tokens": 9, "top_k": 3, "top_p": 0.9}
    assert rollout_sampling({"rollout": settings}) == Sampling(0.7, 9, 3, 0.9)
    assert evaluation_sampling({"evaluation": settings}) == Sampling(0.7, 9, 3, 0.9)


MODEL = {"policy": {"_target_": "r1lab.model.policy.load_policy", "_partial_": True, "name": "tiny", "dtype": "float32",
                    "attention": "sdpa", "experts": "grouped_mm"}}  # fmt: skip


def test_with_reuse_weights_are_read_once_and_each_run_has_its_own(monkeypatch):
    import r1lab.model.policy as model

    read, load = [], model.load_policy
    monkeypatch.setattr(model, "load_policy", lambda **config: read.append(config) or load(**config))
    _made_of.cache_clear()
    first, second = (policy_maker({"model": MODEL, "reuse": True})() for _ in range(2))
    assert len(read) == 1
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    third = policy_maker({"model": MODEL, "reuse": True})()
    fresh = policy_maker({"model": MODEL, "reuse": False})()
    assert len(read) == 2
    assert policy_hash(second) == policy_hash(third) == policy_hash(fresh) != policy_hash(first)
    _made_of.cache_clear()


def test_what_is_made_once_is_told_apart_by_its_whole_config():
    config = {"_target_": "builtins.dict", "a": [1, {"b": 2}]}
    assert made_once(config) is made_once(dict(reversed(config.items())))
    assert made_once(config) is not made_once(config | {"a": [1, {"b": 3}]})


def test_an_error_of_evaluations_sampling_names_evaluations_setting():
    settings = {"temperature": 1.0, "max_new_tokens": 8, "top_k": 0, "top_p": 1.0}
    for name, wrong in (("temperature", 1e-40), ("max_new_tokens", 0), ("top_p", 0.0)):
        config = {"evaluation": settings | {name: wrong}}
        with pytest.raises(ValueError, match=f"^evaluation.{name} must be"):
            evaluation_sampling(config)
        with pytest.raises(ValueError, match=f"^{name} must be"):  # as the commands that only sample call it
            evaluation_sampling(config, prefix="")
