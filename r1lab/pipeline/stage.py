"""A stage of a pipeline: `{run, init, data, overrides}` under its name, in the order of the config."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from r1lab.data.filters import make_filters

RUNS = ("train", "generate", "answers")
BASE = "base"


@dataclass(frozen=True)
class Stage:
    """What a stage does, and what it starts from.

    run: `train`: a policy is trained; `generate`: a policy answers prompts, and filters choose among its completions;
        `answers`: the task's own answers become documents.
    init: the stage whose policy is trained or sampled, or `base`: that of `model`.
    data: stages whose documents a supervised stage trains on -> their weights.
    epochs: passes over them; sets trainer.max_steps.
    models: stages whose folders the overrides name, as `<stage>`: reward models, teachers.
    samples: stages of `generate` whose folders the overrides name in the same way.
    teacher: a checkpoint from outside: of `train` its module's teacher, of `generate` the policy that is sampled, in
        the place of init.
    filters, per_prompt: of `generate`, see `r1lab.data.filters.keep`. num_prompts: of `answers`.
    row: its row in the table, empty for none; only of `train`.
    people: data that people wrote enter here.
    overrides: of `python -m r1lab.train` or `r1lab.generate`.
    """

    name: str
    run: str
    init: str | None = None
    data: Mapping[str, int] = field(default_factory=dict)
    epochs: float | None = None
    models: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    teacher: str | None = None
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    per_prompt: int = 1
    num_prompts: int = 0
    row: str = ""
    people: bool = False
    overrides: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """The stages it needs."""
        return [name for name in (self.init, *self.data, *self.models, *self.samples) if name not in (None, BASE)]


def make_stages(config: Mapping[str, Mapping[str, Any]]) -> list[Stage]:
    """The stages of `pipeline.stages`, in order.

    Raises:
        ValueError: for an unknown kind or key, or an input that is not made before.
    """
    stages: dict[str, Stage] = {}
    for name, given in config.items():
        where = f"pipeline.stages.{name}"
        known = set(Stage.__dataclass_fields__) - {"name"}
        if unknown := set(given) - known:
            raise ValueError(f"{where} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
        if given.get("run") not in RUNS:
            raise ValueError(f"{where}.run={given.get('run')} must be one of {', '.join(RUNS)}")
        stage = Stage(
            name=name, **{**given, **{key: tuple(given.get(key) or ()) for key in ("models", "samples", "overrides")}}
        )
        of_teacher = stage.run == "generate" and stage.teacher
        needed = {"train": ("init",), "generate": () if of_teacher else ("init",), "answers": ("num_prompts",)}[
            stage.run
        ]
        if missing := [key for key in needed if not getattr(stage, key)]:
            raise ValueError(f"{where} needs {', '.join(missing)}")
        if stage.run == "answers" and (not isinstance(stage.num_prompts, int) or stage.num_prompts < 1):
            raise ValueError(f"{where}.num_prompts must be a whole number above 0, got {stage.num_prompts}")
        if stage.run == "generate" and stage.init == BASE:
            raise ValueError(f"{where} samples the policy of a stage, not the base")
        try:
            make_filters(stage.filters)
        except ValueError as error:
            raise ValueError(f"{where}.filters: {error}") from error
        if bool(stage.data) != bool(stage.epochs):
            raise ValueError(f"{where}: data and epochs go together")
        policies, documents = (stage.init, *stage.models), tuple(stage.data)
        kinds = {"policy": policies, "documents": documents, "samples": stage.samples}
        for source, kind in ((source, kind) for kind, sources in kinds.items() for source in sources):
            if source in (None, BASE):
                continue
            made = stages.get(source)
            fits = made is not None and (made.run == "train") == (kind == "policy")
            if not fits or (kind == "samples" and made.run != "generate"):
                raise ValueError(f"{where} takes the {kind} of {source}, which no stage before it makes")
        stages[name] = stage
    if not stages:
        raise ValueError("pipeline.stages is empty")
    return list(stages.values())


def people_of(stages: list[Stage]) -> dict[str, bool]:
    """Of each stage whether data that people wrote entered it, or anything that it was made from."""
    tags: dict[str, bool] = {}
    for stage in stages:
        tags[stage.name] = stage.people or any(tags[name] for name in stage.inputs)
    return tags
