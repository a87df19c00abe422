"""How the commands start: Hydra, with errors of one line that say which setting is wrong and how to mend it."""

import difflib
import errno
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from r1lab.override import literal_words
from r1lab.run_folder import launcher_of_ranks, remove_unbegun, run_folder
from r1lab.strategy.lost_rank import is_of_a_lost_rank

_PACKAGE = Path(__file__).parent
# In a checkout `conf` lies beside the package, in an installed wheel inside it.
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())

OmegaConf.register_new_resolver("run_dir", run_folder, use_cache=True, replace=True)
_ALONE = 10  # seconds after which a rank that fails takes it that the first one does not
_WEIGHT = re.compile(r"reward\.\w+\.weight")
# What a wrong setting, file or package raises; anything else may be a mistake of ours, so it says where it arose.
_EXPECTED = (HydraException, OmegaConfBaseException, ValueError, OSError, ImportError)


class Stopped(RuntimeError):
    """The user stopped the run; the message says how to go on."""


def run(task: Callable[[DictConfig], object], config_name: str) -> None:
    """Compose `config_name` with the command line, call `task` with it, and end with one line if it fails.

    HYDRA_FULL_ERROR=1 shows the traceback instead.
    """
    asked = os.environ.get("HYDRA_FULL_ERROR")
    sys.argv[1:] = literal_words(sys.argv[1:])
    logging.raiseExceptions = False  # a log that cannot be written must not hide why
    # It advises a package that only speeds up 4 bits on some CPUs, whether they are asked for or not.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    # Makes Hydra raise what it would print itself, so that there is one way of telling errors.
    _show_tracebacks("1")
    failures: list[BaseException] = []
    joined = False

    def guarded(config: DictConfig) -> object:
        nonlocal joined
        _show_tracebacks(asked)  # to processes that the task starts, such as Lightning's ranks
        try:
            return task(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the sweeper's to judge
            # Past Hydra, which would add a line of its own.
            failures.append(error)
            joined = _joined()
            return None
        finally:
            _show_tracebacks("1")
            if _joined():
                # Else the ranks wait for each other as they end.
                try:
                    torch.distributed.destroy_process_group()
                except Exception as error:
                    # Behind why the run failed, if it did; and a rank that is done is, whatever became of another.
                    if not is_of_a_lost_rank(error):
                        failures.append(error)

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()
        if failures:
            raise failures[0]
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("stopped; nothing was saved yet", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if asked == "1":
            raise
        if not joined:
            _let_the_first_rank_tell()
        print(f"error: {describe(error, config_name)}", file=sys.stderr)
        known = _ours(error) or isinstance(error, _EXPECTED)
        if not known:
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"  in {where.filename}:{where.lineno}; HYDRA_FULL_ERROR=1 shows the traceback", file=sys.stderr)
        sys.exit(1)
    finally:
        remove_unbegun()


def _show_tracebacks(value: str | None) -> None:
    if value is None:
        os.environ.pop("HYDRA_FULL_ERROR", None)
    else:
        os.environ["HYDRA_FULL_ERROR"] = value


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _let_the_first_rank_tell() -> None:
    """Of the ranks that were started together on a machine, wait in all but the first.

    What they refuse before they are joined, all refuse alike; the first tells it, and as it ends what started them ends
    the others. A rank that is still there then is alone with its error, and tells it itself.
    """
    number = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    if launcher_of_ranks() and number != "0":
        time.sleep(_ALONE)


def _ours(error: Exception) -> bool:
    return type(error).__module__.startswith("r1lab") or isinstance(error, FloatingPointError)


def describe(error: Exception, config_name: str) -> str:
    """One line for an error; for an unknown choice or key, with the nearest names."""
    cause = root(error)
    if isinstance(cause, MissingConfigException) and cause.missing_cfg_file and cause.options is not None:
        group, _, choice = str(cause.missing_cfg_file).rpartition("/")
        return f"there is no {group}={choice}; {_nearest(choice, cause.options)}"
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} must be given: add {cause.full_key}=... to the command"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} cannot be read: give KEY=VALUE. A value with commas, = or brackets needs quotes, and "
            "the shell removes them unless the whole word is quoted too, as in \"overrides=['seed=2']\""
        )
    if isinstance(error, ConfigCompositionException) and "Could not override" in str(error):
        key = str(error).split("'")[1].split("=")[0]
        if config_name == "pipeline" and key.split(".")[0] in {*_default_config("train")} - {"seed"}:
            return (
                f"{key} is a setting of the stages: give \"overrides=['{key}=...']\", for every train stage, or change "
                "pipeline.stages.<stage>.overrides"
            )
        options = list(_keys(_default_config(config_name)))
        if key in options:
            return f"{key} is a setting of the default {key.split('.')[0]}, and not of the one that was chosen"
        return f"there is no setting {key}; {_nearest(key, options)}"
    text = " ".join(str(cause).split())
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return f"the disk is full{f', writing {cause.filename}' if cause.filename else ''}; make room, then start again"
    if isinstance(cause, (FileExistsError, NotADirectoryError)) and cause.filename:
        return f"{cause.filename} is a file where a folder should be: choose another place, or move it away"
    if isinstance(cause, OSError) and cause.filename and cause.strerror:
        return f"{cause.filename} cannot be read or written ({cause.strerror.lower()}): give another place"
    if isinstance(cause, InterpolationKeyError):
        key, first_line = getattr(error, "full_key", None) or "a setting", str(cause).splitlines()[0]
        return f"{key} refers to a setting that is not there ({first_line}): name another, or write \\${{"
    if "Missing [UNK]" in text:
        return (
            "the tokenizer lacks a word of the prompt; model=tiny (with model.name=FOLDER, too) knows task=arithmetic "
            "alone, model=tiny_bilingual task=bilingual and task=general; take one of them, or model=smollm2"
        )
    readable = isinstance(cause, (ValueError, RuntimeError, OSError)) and text
    return text if readable else f"{type(cause).__name__}: {text}"


def root(error: BaseException) -> BaseException:
    """What went wrong inside Hydra's `instantiate` or a resolver, which wrap it in errors of their own."""
    while isinstance(error, (InstantiationException, InterpolationResolutionError)):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error


def _nearest(name: str, options: list[str]) -> str:
    options = [option for option in options if not option.endswith("_target_")]
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    # A key that was spelt rightly but put in the wrong place.
    near = near or [option for option in options if option.rpartition(".")[2] == name.rpartition(".")[2]][:3]
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(options)[:40])}"


def _default_config(config_name: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name)


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield prefix + str(key)
        if OmegaConf.is_dict(node := config._get_node(key)) and not node._is_none():
            yield from _keys(node, f"{prefix}{key}.")


def refuse_two_checkers(overrides: list[str]) -> None:
    """Raise ValueError where `reward=[...]` has two choices of the accuracy: the later would replace the other."""
    for override in overrides:
        if override.startswith("reward=["):
            choices = [choice.strip() for choice in override.removeprefix("reward=[").rstrip("]").split(",")]
            if len(accuracies := [choice for choice in choices if _sets_accuracy(choice)]) > 1:
                raise ValueError(
                    f"{override}: {' and '.join(accuracies)} are each the accuracy; take one of them. A task=mixed may "
                    "have a checker in each part: task.parts.<part>.checker"
                )


def _sets_accuracy(choice: str) -> bool:
    file = CONF / "reward" / f"{choice}.yaml"
    if not file.is_file():
        return False
    config = OmegaConf.load(file)
    return "_target_" in config.get("accuracy", {}) or any(map(_sets_accuracy, config.get("defaults", [])))


def refuse_wrong_types(config: DictConfig, config_name: str) -> None:
    """Raise ValueError where the command line gives a value of another type than the config has there."""
    given = [override.lstrip("+~") for override in HydraConfig.get().overrides.task]
    chosen = [override for override in HydraConfig.get().overrides.task if _chooses_a_group(override)]
    usual = compose(config_name, chosen)
    for key in (override.partition("=")[0] for override in given if not _chooses_a_group(override)):
        want, got = OmegaConf.select(usual, key), OmegaConf.select(config, key)
        if _WEIGHT.fullmatch(key) and (OmegaConf.is_list(got) or OmegaConf.is_list(want)):
            continue  # a number or a schedule
        if not _fits(want, got, fractions=key.startswith("trainer.")):
            kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(want), "a list, as [1,2]")
            raise ValueError(f"{key} must be {kind}, got {got!r}")


def _chooses_a_group(override: str) -> bool:
    return (CONF / override.lstrip("+~").partition("=")[0].partition("@")[0]).is_dir()


def _fits(want: object, got: object, *, fractions: bool) -> bool:
    if isinstance(want, bool):
        return isinstance(got, bool)
    if isinstance(want, (int, float)) and got is not None:
        numbers = (int, float) if isinstance(want, float) or fractions else int
        return isinstance(got, numbers) and not isinstance(got, bool)
    return not OmegaConf.is_list(want) or OmegaConf.is_list(got)


def plain(config: DictConfig) -> dict:
    """The resolved config as plain data: no OmegaConf object goes any further."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def own_settings(config: DictConfig) -> dict[str, Any]:
    """The settings of a command on a checkpoint as plain data.

    `model` and `task` stay unresolved: their interpolations need the config that they are merged into.
    """
    groups = ("model", "task")
    own = OmegaConf.masked_copy(config, [key for key in config if key not in groups])
    return OmegaConf.to_container(own, resolve=True) | {
        key: OmegaConf.to_container(config[key]) for key in groups if config.get(key) is not None
    }


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested config with its dotted key."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
