"""From the resolved config to objects: the one place that knows which part needs which."""

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from hydra.utils import get_object, instantiate
from transformers import PreTrainedTokenizerBase

from r1lab.data.documents import Documents
from r1lab.model.adapter import check_adapter, with_adapters
from r1lab.reward.columns import by_name
from r1lab.reward.schedule import Schedule
from r1lab.reward.weighted import WeightedSum
from r1lab.rollout.sampling import Sampling
from r1lab.task.protocol import Task
from r1lab.types import Prompt

_LOOKED_AT = 1000  # prompts, for a kind that a reward is for
_CHECKED, _MOST_ROWS = 64, 10_000  # prompts that rewards must be able to score: of a task without end, of a data set


def build_reward(
    config: Mapping[str, Mapping[str, Any]],
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    max_steps: int | None = None,
) -> WeightedSum:
    """The weighted terms of `reward`: `{name: {_target_, weight, ...}}`.

    A class is made with what its config holds beside `_target_` and `weight`; a function gets that at each call. Those
    that take `task`, `is_correct` or `tokenizer` are given it, unless their config does. What else they are called
    with they name: see `r1lab.reward.columns.by_name`. `max_steps`, of the run, is for weights with a schedule.
    """
    at_hand = {"task": task, "is_correct": task.is_correct, "tokenizer": tokenizer}
    terms, weights = {}, {}
    for name, term in config.items():
        term = dict(term)
        if "_target_" not in term or "weight" not in term:
            raise ValueError(f"reward.{name} needs both _target_ and weight, got {', '.join(term) or 'nothing'}")
        weights[name] = _weight(name, term.pop("weight"), max_steps)
        if name == "accuracy":
            term.pop("checker", None)  # the task's, see build_task
        try:
            target = get_object(term["_target_"])
        except Exception as error:
            cause = error.__cause__ or error  # Hydra's own says the name again
            told = f"reward.{name}._target_={term['_target_']} cannot be loaded ({type(cause).__name__}: "
            told += f"{' '.join(str(cause).split())[:200]})"
            if isinstance(cause, ModuleNotFoundError) and f"{term['_target_']}.".startswith(f"{cause.name}."):
                told += ": your own file must lie in the folder you start from"
            raise ValueError(told) from error
        if not callable(target):
            raise ValueError(
                f"reward.{name}._target_={term['_target_']} is no function and no class, but {target!r:.80}"
            )
        _refuse_absent_kinds(name, term, task)
        made = instantiate(term, _partial_=True, _convert_="all")
        taken = inspect.signature(target).parameters
        given = {key: value for key, value in at_hand.items() if key in taken} | made.keywords
        if inspect.isclass(target):
            try:
                inspect.signature(target).bind(**given)
            except TypeError as error:
                takes = ", ".join(taken) or "nothing"
                raise ValueError(f"reward.{name}: {target.__name__} takes {takes}, and there is {error}") from error
            terms[name] = by_name(target(**given), name)
        else:
            terms[name] = by_name(target, name, given)
    return WeightedSum(terms, weights)


def _refuse_absent_kinds(name: str, term: Mapping[str, Any], task: Task) -> None:
    """Raise ValueError where none of the prompts is of the kinds that a term is for."""
    kinds = term.get("kinds")
    if not kinds or not term["_target_"].startswith("r1lab.reward."):
        return
    seen = set()
    for index in range(_LOOKED_AT):
        seen.add(task.sample("train", index).kind)
        if seen & set(kinds):
            return
    raise ValueError(
        f"reward.{name}.kinds={list(kinds)} is for none of the first {_LOOKED_AT} prompts; the task's kinds are "
        f"{', '.join(sorted(seen))}"
    )


def refuse_unscorable(terms: Mapping[str, Callable[..., Any]], task: Task) -> None:
    """Raise ValueError where a term cannot score some of the first prompts: before anything is sampled."""
    checks = {f"reward.{name}": term.check_prompts for name, term in terms.items() if hasattr(term, "check_prompts")}
    if checks:
        rows = task.unencoded("train", _MOST_ROWS) if hasattr(task, "unencoded") else []
        drawn = [task.sample("train", i) for i in range(_CHECKED)]  # a mix has parts without rows, too
        check_scorable(checks, [*rows, *drawn], "train")


def check_scorable(
    checks: Mapping[str, Callable[[Sequence[Prompt]], None]], prompts: Sequence[Prompt], split: str
) -> None:
    """Raise ValueError, with the name of the check, where one raises for the prompts of a split."""
    for name, check_prompts in checks.items():
        try:
            check_prompts(prompts)
        except Exception as error:  # a checker may be anyone's
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise ValueError(f"{name} cannot score the prompts of {split}: {kind}{error}") from error


def _weight(name: str, weight: Any, max_steps: int | None) -> float | Schedule:
    if isinstance(weight, (int, float)) and not isinstance(weight, bool):
        return weight
    if not isinstance(weight, list):
        raise ValueError(f"reward.{name}.weight must be a number or a list [[when, weight], ...], got {weight!r}")
    try:
        return Schedule(weight, max_steps)
    except ValueError as error:
        raise ValueError(f"reward.{name}.weight: {error}") from None


def make(config: Mapping[str, Any], **given: Any) -> Any:
    """The object that `config` names by its `_target_`, made with its values and the given objects.

    Lists and mappings of the config arrive as plain ones. The given objects go past OmegaConf, which would put a proxy
    in the place of a dataclass such as `Sampling`.
    """
    return instantiate(config, _partial_=True, _convert_="all")(**given)


def made_once(config: Mapping[str, Any]) -> Any:
    """As `make` with nothing given, but the same object for the same config: what a process needs again and again."""
    return _made_of(json.dumps(config, sort_keys=True))


@lru_cache(maxsize=4)
def _made_of(text: str) -> Any:
    made = instantiate(json.loads(text), _convert_="all")
    return made() if isinstance(made, partial) else made


def policy_maker(config: Mapping[str, Any]) -> partial:
    """What makes the policy to be trained. With `reuse`, its weights are read once a process, and copied."""
    policy = config["model"]["policy"]
    if config.get("reuse"):
        made = partial(lambda: copy.deepcopy(made_once(policy)))
    else:
        made = instantiate(policy, _convert_="all")
    adapter = config.get("adapter")  # checkpoints from before there were adapters have none
    if adapter is None:
        return made
    check_adapter(**adapter)
    return partial(lambda: with_adapters(made(), **adapter))


def quantized_settings(config: Mapping[str, Any]) -> list[str]:
    """What of a config bitsandbytes does to the models and the optimizer that are trained, as settings."""
    optimizer = config["optimizer"]["optimizer"]
    paged = "_paged" if optimizer.get("paged") else ""
    named = [f"optimizer=adamw_8bit{paged}"] if optimizer["_target_"].endswith("adamw_8bit") else []
    precisions = {group: config.get(group, {}).get("quantize") for group in ("reference", "adapter")}
    return named + [f"{group}.quantize={precision}" for group, precision in precisions.items() if precision]


def build_policy_parts(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None = None) -> dict[str, Any]:
    """Tokenizer (the config's own unless one is given), task and engine: what training and evaluation both need."""
    if tokenizer is None:
        made = made_once if config.get("reuse") else make
        tokenizer = made(config["model"]["tokenizer"])
    task = build_task(config, tokenizer)
    return {"tokenizer": tokenizer, "task": task, "engine": make(config["rollout"]["engine"], tokenizer=tokenizer)}


def make_documents(config: Mapping[str, Any], task: Task) -> Documents:
    """Documents for supervised training. A corpus is about the task; documents that were written before are not."""
    takes_task = "task" in inspect.signature(get_object(config["_target_"])).parameters
    return make(config, **({"task": task} if takes_task else {}))


def build_task(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Task:
    """The task. Where `reward.accuracy.checker` is set, that is its `is_correct`: in training and in every score."""
    return _checked_by(
        make_task(config["task"], tokenizer), config.get("reward", {}).get("accuracy", {}).get("checker")
    )


def make_task(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Task:
    """The task; one that has tasks as its `parts` makes those of them that it needs. Each may have a `checker`."""
    own = dict(config)
    checker = own.pop("checker", None)
    if "parts" not in own:
        return _checked_by(make(own, tokenizer=tokenizer), checker)
    parts = {name: partial(make_task, part, tokenizer) for name, part in own.pop("parts").items()}
    return _checked_by(make(own, parts=parts), checker)


def _checked_by(task: Task, checker: Mapping[str, Any] | None) -> Task:
    """The task with another `is_correct`, which is given the task's own where it takes one."""
    if checker:
        takes = inspect.signature(get_object(checker["_target_"])).parameters
        own = {"is_correct": task.is_correct} if "is_correct" in takes and "is_correct" not in checker else {}
        task.is_correct = make(checker, **own)
    return task


def rollout_sampling(config: Mapping[str, Any]) -> Sampling:
    """How training samples: `rollout.temperature`, `max_new_tokens`, `top_k`, `top_p`."""
    return _sampling(config, "rollout", "rollout.")


def evaluation_sampling(config: Mapping[str, Any], *, prefix: str = "evaluation.") -> Sampling:
    """How evaluation samples: the same fields under `evaluation`. prefix: of the settings' names in errors."""
    return _sampling(config, "evaluation", prefix)


def _sampling(config: Mapping[str, Any], group: str, prefix: str) -> Sampling:
    settings = config[group]
    try:
        return Sampling(*(settings[name] for name in ("temperature", "max_new_tokens", "top_k", "top_p")))
    except ValueError as error:
        raise ValueError(str(error).replace("rollout.", prefix, 1)) from None
