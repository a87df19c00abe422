from fnmatch import fnmatchcase

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from r1lab.entry import CONF, flat
from r1lab.override import TEXTS as NAMES
from r1lab.override import literal, literal_words, quoted
from tests.sweeper.fake import command_line

# What a shell hands over after `prompt=` or `checkpoint=`.
TEXTS = [
    "7 + 5 \\",
    "'7' + 5",
    "'7' + '5'",
    '"7" or "5"',
    "it's",
    '6" + 5"',
    "\\'",
    "a\\b",
    "3 + 4, 5",
    "x = 4",
    "(3 + 4)",
    "f(3)",
    "[5 + 5]",
    "{a: 5}",
    "{}",
    "$5 + $3",
    "#7",
    "~7",
    "7\n+\t5",
    "сколько 2 + 2",
    "七加五 🦊",
    "5",
    "007",
    "1e5",
    "true",
    "choice(1,2)",
    "\\\\${5",
]
# These are a question, but no path.
QUESTIONS = [" 7 + 5 ", "null", "${x}", "str(5)", "a\\,b", "\\frac{${5}}{2}", ""]


def value(word):
    """What a config holds after an override."""
    return OmegaConf.to_container(OmegaConf.create({"x": OverridesParser.create().parse_override(word).value()}))["x"]


def read(word):
    return OmegaConf.to_container(
        OmegaConf.create({"x": OverridesParser.create().parse_override(word).value(), "y": "other"}), resolve=True
    )["x"]


@pytest.mark.parametrize("text", TEXTS + QUESTIONS)
def test_a_question_is_the_text_that_was_typed(text):
    assert read(literal(f"prompt={text}")) == text
    assert read(literal(f"prompt={text}", sweeps=True)) == text


def test_quotes_around_a_whole_question_are_hydras():
    assert read(literal("prompt='7 + 5'")) == "7 + 5"
    assert read(literal('prompt="it\'s"')) == "it's"


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["checkpoint", "output", "task.files.train", "+reward.mine.scorer.name"])
def test_a_path_is_the_text_that_was_typed(key, text):
    assert read(literal(f"{key}={text}")) == text
    assert literal(literal(f"{key}={text}")) == literal(f"{key}={text}")  # ranks are started with the same words


def test_what_a_path_may_be_besides_text():
    assert value(literal("ckpt_path=null")) is None
    assert value(literal("output=${oc.env:HOME}/it's")) == "${oc.env:HOME}/it's"
    assert read(literal("output=${y}/it's")) == "other/it's"
    assert read(literal("output='a,b'")) == "a,b"
    assert read(literal('output="it\'s"')) == "it's"
    assert read(literal("ckpt_path=epoch\\=1.ckpt")) == "epoch=1.ckpt"
    assert read(literal("output= a ")) == "a"


def test_a_path_that_exists_is_that_path(tmp_path):
    for name in ("a\\,b", " a ", "'a'"):
        (tmp_path / name).mkdir()
        assert read(literal(f"checkpoint={tmp_path}/{name}")) == f"{tmp_path}/{name}"


@pytest.mark.parametrize("mark", ["-m", "--multirun", "--config-name=grid", "-cn", "hydra.mode=MULTIRUN"])
def test_several_paths_are_values_of_a_sweep(mark):
    words = ["model.name=a,b", "checkpoint=choice(a,b)", "seed=1,2"]
    assert literal_words([mark, *words]) == [mark, *words]
    assert literal_words(words) == ["model.name='a,b'", "checkpoint='choice(a,b)'", "seed=1,2"]


@pytest.mark.parametrize("word", ["split='a' b", "seed=1,2", "reward=[a,b]", "--cfg", "~model.name", "prompt"])
def test_other_words_stay(word):
    assert literal(word) == word


@pytest.mark.parametrize(
    "data", ["it's \\", {"a": {"path": "x' y\\", "weight": 3}, "b": [1, None, True, 0.5, "${x}", "[1]"]}, 5, None]
)
def test_plain_data_is_read_back(data):
    assert read(f"x={quoted(data)}") == data


def test_the_command_line_takes_any_question_and_folder(monkeypatch, tmp_path, capsys):
    given = {}
    monkeypatch.setattr("r1lab.generate.generate", lambda config: given.update(OmegaConf.to_container(config)))
    command_line(monkeypatch, "prompt='7' + 5 \\", f"checkpoint={tmp_path}/o'brien, 2", module="r1lab.generate")
    assert (given["prompt"], given["checkpoint"]) == ("'7' + 5 \\", f"{tmp_path}/o'brien, 2")
    assert capsys.readouterr().err == ""


# Last parts of keys in conf that may hold a path or a text; `name` is also the name of a choice.
PATHS = {"checkpoint", "chain_question", "ckpt_path", "command", "dirpath", "folder", "measured", "output", "path",
         "project", "save_dir", "student", "teacher", "template", "version"}  # fmt: skip
# Python paths of objects, and values that are no path.
OBJECTS = {
    "hydra.help.template",
    "strategy.checkpoint",
    "callback.flops.cost.path",
    "callback.gate.measure.path",
    "_target_",
}


def test_every_path_in_conf_is_text():
    unknown = set()
    for file in CONF.rglob("*.yaml"):
        text = file.read_text()
        group = "" if "@package _global_" in text else ".".join(file.relative_to(CONF).parts[:-1])
        for key, found in flat(yaml.safe_load(text) or {}):
            setting = f"{group}.{key}".lstrip(".")
            holds_text = (found is None or isinstance(found, str)) and key.split(".")[-1] in PATHS
            if holds_text and setting not in OBJECTS and not any(fnmatchcase(setting, name) for name in NAMES):
                unknown.add(setting)
    assert unknown == set()
    assert read(literal("data.curriculum.measured=a,b")) == "a,b"
