"""The arrows of the package, held by reading its imports: who may know whom. The map is in `r1lab/__init__.py`."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, CONF, TESTS = ROOT / "r1lab", ROOT / "conf", ROOT / "tests"

# What starts runs and knows Hydra; nothing below imports it.
ENTRY = {
    "train",
    "evaluate",
    "generate",
    "pipeline",
    "export",
    "memory",
    "planner",
    "plan_inputs",
    "advice",
    "entry",
    "limits",
    "override",
    "build",
    "load",
}
STAGES = {"task", "rollout", "reward", "advantage", "loss", "kernel", "model", "strategy", "metric"}
# What of r1lab each package may import beside itself: a package, or one module of it.
MAY_IMPORT = {
    "types": set(),
    "run_folder": set(),
    "dtype": set(),
    "packages": set(),
    "plain_pickle": set(),
    "advantage": set(),
    "loss": set(),
    # Definitions say what is refused, and what is handed back.
    "kernel": {"loss"},
    "model": {"dtype", "packages"},
    # A folder of shards is verified as a file is.
    "strategy": {"dtype", "plain_pickle"},
    "metric": set(),
    # The bilingual tasks ask in the words that the bilingual base has; prompts begin as the tokenizer has it.
    "task": {"types", "packages", "model.bilingual", "model.tokenizer"},
    # A learned reward is read from a model's folder, may be in few bits, and reads text as its tokenizer has it.
    "reward": {"types", "dtype", "packages", "model.folder", "model.quantize", "model.tokenizer", "model.capacity"},
    # A model is probed before it is sampled, and what is sampled must fit it. What is drawn from and what is trained is
    # one distribution, at one temperature.
    "rollout": {"types", "model.probe", "model.capacity", "loss.logprob"},
    # Passes that probe a model are no part of what a run computes.
    "callback": {"types", "packages", "model.probe"},
    # The tiny bases' corpora write those bases' words, about those bases' tasks.
    # What a teacher stored is of its own tokens.
    "data": {"types", "task", "rollout.collate", "model.tiny", "model.bilingual", "model.tokenizer"},
    "module": {"types", "dtype", "plain_pickle", *STAGES},
    # A pruner is replayed by the name that conf gives it.
    "analysis": {"types", "run_folder", "entry", "module", "callback.line_file", *STAGES},
    "sweeper": {"run_folder", "entry", "override"},
}
# Where a library may be imported.
HOMES = {
    "triton": {"kernel"},
    "vllm": {"rollout"},
    "hydra": {*ENTRY, "sweeper"},
    "omegaconf": {*ENTRY, "sweeper"},
    "optuna": {"analysis", "sweeper"},
    "trl": set(),
}
# Folders of conf that are no package: what a run needs beside the parts of r1lab.
OTHER_GROUPS = {
    "optimizer",
    "adapter",
    "reference",
    "routing",
    "evaluation",
    "trainer",
    "logger",
    "experiment",
    "preset",
    "debug",
    "hydra",
}
# Folders of tests that are no package.
OTHER_TESTS = {"invariant", "benchmark"}
VAGUE = {"utils", "util", "common", "core", "helpers", "helper", "misc"}

FILES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted({f.relative_to(PACKAGE).parts[0] for f in FILES if f.parent != PACKAGE})


def owner(file: Path) -> str:
    """The package of a file, or the name of a module that is in none."""
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else file.stem


def imports(source: str) -> set[str]:
    """The dotted names of all modules that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are absolute here"
            # `from r1lab import loss` imports r1lab.loss
            names = [f"r1lab.{a.name}" for a in node.names] if node.module == "r1lab" else [node.module]
            found |= set(names)
    return found


def violations(source: str, package: str) -> list[str]:
    """The imports of a source that its package may not have."""
    bad = []
    for name in sorted(imports(source)):
        top, _, rest = name.partition(".")
        if package not in HOMES.get(top, {package}):
            bad.append(name)
        part = rest.partition(".")[0]
        if top == "r1lab" and package in MAY_IMPORT and part != package:
            if not any(f"{rest}.".startswith(f"{allowed}.") for allowed in MAY_IMPORT[package]):
                bad.append(name)
    return bad


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import torch", "loss", []),
        ("from r1lab.loss.kl import k3", "loss", []),
        ("from r1lab.types import Prompt", "loss", ["r1lab.types"]),
        ("from r1lab import types", "loss", ["r1lab.types"]),
        ("def f():\n    import r1lab.task.template", "reward", ["r1lab.task.template"]),
        ("from r1lab.model.tiny import FILLER", "data", []),
        ("from r1lab.model.policy import load_policy", "data", ["r1lab.model.policy"]),
        ("from hydra.utils import instantiate", "module", ["hydra.utils"]),
        ("from hydra.utils import instantiate", "train", []),
        ("import r1lab.train", "module", ["r1lab.train"]),
        ("import triton.language as tl", "kernel", []),
        ("import triton.language as tl", "loss", ["triton.language"]),
    ],
)
def test_a_violation_is_seen(source, package, expected):
    assert violations(source, package) == expected


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_arrows(file):
    assert violations(file.read_text(), owner(file)) == []


def test_every_part_has_its_arrows():
    assert {owner(f) for f in FILES} - {"__init__"} <= {*MAY_IMPORT, *ENTRY}


def test_names_say_what_is_inside():
    names = {part for f in FILES for part in f.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & VAGUE


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_its_tests(package):
    assert list((TESTS / package).glob("test_*.py"))


def test_tests_mirror_the_package():
    folders = {f.parent.name for f in TESTS.rglob("test_*.py") if f.parent != TESTS}
    assert folders <= {*PACKAGES, *OTHER_TESTS}
    # test_config tests the folder of conf that has the package's name.
    for package in PACKAGES:
        tested = {f.stem.removeprefix("test_") for f in (TESTS / package).glob("test_*.py")} - {"config"}
        assert tested <= {f.stem for f in (PACKAGE / package).glob("*.py")}, package


def test_a_group_of_conf_is_named_like_its_package():
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    assert groups <= {*PACKAGES, *OTHER_GROUPS}


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_targets_exist_where_their_group_says(file):
    group = file.relative_to(CONF).parts[0]
    for target in re.findall(r"^[ -]*_target_: *(r1lab\.\S+)", file.read_text(), re.MULTILINE):
        module, _, name = target.rpartition(".")
        assert hasattr(importlib.import_module(module), name)
        # A trained reward model is read as it was trained.
        if group in PACKAGES and target != "r1lab.module.reward_model.load_reward_model":
            assert target.split(".")[1] == group, target
