"""Free text and paths in Hydra's override grammar, which gives commas, quotes, brackets and numbers a meaning."""

import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Settings whose value is always the text that was typed, apart from quotes around the whole.
QUESTIONS = ("prompt",)
# Settings that hold a path or a text, or null, an interpolation, or the values of a sweep.
TEXTS = (
    "callback.*.dirpath",
    "callback.*.folder",
    "callback.*.path",
    "callback.gate.provenance.command",
    "checkpoint",
    "ckpt_path",
    "data.curriculum.measured",
    "data.documents.sources.*.path",
    "data.folder",
    "evaluation.cache",
    "folder",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweeper.question",
    "hydra.sweeper.storage",
    "logger.*.name",
    "logger.*.project",
    "logger.*.save_dir",
    "logger.*.version",
    "model.chain_question",
    "model.name",
    "model.policy.name",
    "model.template",
    "model.tokenizer.name",
    "module.teacher.name",
    "name",
    "output",
    "pipeline.*.teacher",
    "pipeline.student",
    "pipeline.teacher",
    "pipeline.teachers.*",
    "reward.*.scorer.name",
    "task.files.*",
    "task.path",
    "task.template.text",
)
_SWEEPING = ("-m", "--multirun", "-cn", "--config-name")  # a config of another name may be a sweep


def literal_words(words: Sequence[str]) -> list[str]:
    """The words of a command line, with free text and paths as Hydra reads them back."""
    sweeps = any(word.partition("=")[0] in (*_SWEEPING, "hydra.mode") for word in words)
    return [literal(word, sweeps=sweeps) for word in words]


def literal(word: str, *, sweeps: bool = False) -> str:
    """`KEY=TEXT` with the text in quotes, where KEY holds text and Hydra would not read it as one; else the word.

    Args:
        sweeps: the command may be a sweep, where `a,b` and `choice(a,b)` are two values.
    """
    key, equals, text = word.partition("=")
    setting = key.lstrip("+")
    if not equals or setting not in QUESTIONS and not any(fnmatchcase(setting, name) for name in TEXTS):
        return word
    override = _parsed(f"_={text}")
    if setting in QUESTIONS:
        in_quotes = override and isinstance(override._value, QuotedString) and text[0] in "'\""
        return f"{key}={quoted(override._value.text if in_quotes else text)}"
    if override and _is_text(override, text, sweeps):
        return word
    return f"{key}={_in_quotes(text if _is_readable(text) else _escaped(text))}"


def quoted(value: Any) -> str:
    """Plain data in Hydra's override grammar, with every text in quotes: it is read back as the same value."""
    return Override._get_value_element_as_str(_with_quotes(value))


def _with_quotes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_quotes(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_quotes(inner) for inner in value]
    plain = value is None or isinstance(value, (bool, int, float))
    return value if plain else QuotedString(_escaped(str(value)), Quote.single)


def _in_quotes(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _escaped(text: str) -> str:
    """The text as OmegaConf reads it, to which `${` opens an interpolation."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)


def _parsed(word: str) -> Override | None:
    """None where it is not in the grammar."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _is_text(override: Override, text: str, sweeps: bool) -> bool:
    """Whether Hydra's reading is the one that is meant: null, some values of a sweep, or text.

    Hydra takes escapes and white space around a text away; a path that exists as it stands is that path.
    """
    if override.is_sweep_override():
        return sweeps
    value = override.value()
    if value is None:
        return True
    return isinstance(value, str) and (value == text or not os.path.lexists(os.path.expanduser(text)))


def _is_readable(text: str) -> bool:
    """Whether what stands in `${...}` is an interpolation."""
    try:
        OmegaConf.create({"_": text})
    except OmegaConfBaseException:
        return False
    return True
