"""Reward terms that name what they want: prompts, completions, and columns of the data set."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1lab.types import Completion, Prompt

# Fields of a prompt that a term may ask for as it does for columns.
FIELDS = ("answer", "index", "kind", "language", "difficulty")


def by_name(term: Callable[..., Any], name: str, bound: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """A term that is given the arguments it names: `def my_reward(completions, answer, **columns)`.

    Args:
        term: a function, or an object that is called; plain or `async def`. Its parameters are any of these, each a
            list with an entry a completion:
            `prompts`, `completions`: the records of `r1lab.types`;
            `answer`, `kind`, `language`, `difficulty`, `index`: those fields of the prompts;
            any column of the data set (`Prompt.columns`), None for prompts without it; a parameter with a default
            keeps that where no prompt has the column;
            `**columns`: all columns that are not named.
        name: of the term, for errors.
        bound: arguments that the config gives, which go before columns of the same name.

    Returns:
        (prompts, completions) -> what the term returns. Its `check_prompts` takes prompts alone and calls that of the
        term, if there is one. Both raise ValueError where a column is in no prompt.
    """
    bound = dict(bound or {})
    parameters = inspect.signature(term).parameters
    if list(parameters) == ["prompts", "completions"] and not bound:
        return term
    takes_rest = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    asked = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = sorted(set(bound) - {p.name for p in asked})
    if unknown and not takes_rest:
        raise ValueError(f"reward.{name} has no argument {', '.join(unknown)}; it takes {', '.join(parameters)}")

    def arguments(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, Any]:
        known = sorted({column for prompt in prompts for column in prompt.columns})
        given = dict(bound)
        for parameter in asked:
            column = parameter.name
            if column in given:
                continue
            if column in ("prompts", "completions"):
                given[column] = prompts if column == "prompts" else completions
            elif column in FIELDS:
                given[column] = [getattr(prompt, column) for prompt in prompts]
            elif column in known:
                given[column] = [prompt.columns.get(column) for prompt in prompts]
            elif parameter.default is parameter.empty and prompts:
                raise ValueError(
                    f"it asks for {column!r}, which is no column of these prompts; there are "
                    f"{', '.join(['prompts', 'completions', *FIELDS, *known])}, and what reward.{name} sets"
                )
            elif parameter.default is parameter.empty:
                given[column] = []
        if takes_rest:
            rest = [column for column in known if column not in given]
            given |= {column: [prompt.columns.get(column) for prompt in prompts] for column in rest}
        return given

    def call(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Any:
        return term(**arguments(prompts, completions))

    def check_prompts(prompts: Sequence[Prompt]) -> None:
        arguments(prompts, [])
        if hasattr(term, "check_prompts"):
            term.check_prompts(prompts)

    call.check_prompts = check_prompts
    return call
