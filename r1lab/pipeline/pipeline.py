"""The pipeline itself: each seed's stages one after the other, those that stand skipped, and the table at the end."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from r1lab.analysis.stages import contrast_figure, contrasts, markdown, seeds_frame, stage_figure, stage_frame, verdicts
from r1lab.entry import Stopped, describe
from r1lab.loss.logprob import check_temperature
from r1lab.pipeline.record import (
    DONE,
    RUNNING,
    Record,
    changes,
    only_filters,
    portable,
    read_record,
    write_record,
)
from r1lab.pipeline.run import KINDS, Context, Work, base_hash, composed, teacher_hash
from r1lab.pipeline.score import score_policy
from r1lab.pipeline.stage import BASE, Stage, make_stages, people_of
from r1lab.run_folder import claim, write_whole

log = logging.getLogger("r1lab.pipeline")

SCORES = "scores.json"


class Pipeline:
    """The stages of a config in a folder.

    Args:
        config: resolved, see conf/pipeline.yaml. model: the overrides that choose the model.
    """

    def __init__(self, config: Mapping[str, Any], model: Sequence[str]):
        self.config, self.folder = config, Path(config["folder"])
        seeds = config["seeds"]
        whole = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
        if not whole or not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be a list of different whole numbers, as seeds=[1,2,3], got {seeds}")
        if min(seeds) < 0:
            raise ValueError(f"seeds must be at least 0, got {min(seeds)}")
        self.stages = make_stages(config["pipeline"]["stages"])
        self.people = people_of(self.stages)
        self.contexts = [
            Context(
                name=config["pipeline"]["name"],
                root=self.folder / f"seed_{seed}",
                seed=seed,
                model=tuple(model),
                common=tuple(config["pipeline"]["common"]),
                overrides=tuple(config["overrides"]),
                starts=frozenset(stage.init for stage in self.stages if stage.run == "train"),
                isolate=config["isolate"],
            )
            for seed in config["seeds"]
        ]
        rows = [stage.row for stage in self.stages if stage.row]
        if unknown := [row for pair in config["pipeline"]["contrasts"] for row in pair if row not in rows]:
            raise ValueError(f"pipeline.contrasts names {', '.join(unknown)}; the rows are {', '.join(rows)}")

    # ---- what there is to do --------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ValueError for a stage or an evaluation whose settings cannot be, however late its turn would come."""
        temperature = self.config["pipeline"]["evaluation"]["temperature"]
        check_temperature(temperature, "pipeline.evaluation.temperature", greedy=True)
        for stage in self.stages:
            KINDS[stage.run](stage, self.contexts[0]).check()

    def dry_run(self) -> None:
        """Print of each stage whether it would run, and why."""
        for context in self.contexts:
            waiting: set[str] = set()
            for stage in self.stages:
                upstream = [name for name in stage.inputs if name in waiting]
                if upstream:
                    waiting.add(stage.name)
                    reason = f"runs after {' and '.join(upstream)}, if what that makes is another"
                    print(f"seed {context.seed}  {stage.name:<12} {reason}")
                    continue
                work = KINDS[stage.run](stage, context)
                reason = self.reason(work, self.inputs(work))
                waiting |= {stage.name} if reason else set()
                print(f"seed {context.seed}  {stage.name:<12} {f'runs: {reason}' if reason else 'stands'}")
                if reason:
                    print(f"    {work.command}")

    def inputs(self, work: Work) -> dict[str, str]:
        """What the stage would consume today -> SHA-256, read from the records of the stages before it."""
        stage, context = work.stage, work.context
        found = {BASE: base_hash(context)} if stage.init == BASE else {}
        found |= {"teacher": teacher_hash(stage.teacher)} if stage.teacher else {}
        return found | {name: read_record(context.folder(name)).product for name in stage.inputs}

    def reason(self, work: Work, inputs: Mapping[str, str]) -> str | None:
        """Why a stage has to run; None where it stands."""
        record = read_record(work.folder)
        if record is None:
            return "it was not run yet"
        if changed := changes(record, portable(work.settings, work.context.root), inputs):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            return f"{', '.join(changed[:3])}{more}"
        if record.status != DONE:
            return f"it was interrupted; it goes on {work.progress}".rstrip()
        try:
            found = work.product()
        except Exception as error:  # whatever a damaged file makes its reader raise
            return f"what it made cannot be read ({' '.join(str(error).split())[:80]})"
        return None if found == record.product else "what it made was changed since"

    # ---- doing it -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All stages of all seeds, and the table."""
        with claim(self.folder, goes_on=True):
            write_whole(self.folder / "pipeline.yaml", yaml.safe_dump(dict(self.config), sort_keys=False))
            for context in self.contexts:
                for number, stage in enumerate(self.stages, 1):
                    prefix = f"[{number}/{len(self.stages)}] seed {context.seed}  {stage.name:<12}"
                    try:
                        self.step(KINDS[stage.run](stage, context), prefix)
                    except (Stopped, KeyboardInterrupt):
                        raise Stopped(f"stopped in {stage.name}; the same command goes on") from None
                    except ValueError as error:
                        told = describe(error, "train")
                        where = "" if told.startswith("stage ") else f"stage {stage.name}: "
                        raise ValueError(f"{where}{told}") from error
            self.write_table()

    def step(self, work: Work, prefix: str) -> None:
        """One stage: skipped where it stands, else made; then scored where it has a row."""
        inputs = self.inputs(work)
        reason = self.reason(work, inputs)
        started = time.perf_counter()
        if reason:
            log.info(f"{prefix} runs: {reason}")
            self.make(work, inputs, reason)
        if work.stage.row:
            scores = self.score(work)
        done = f"done in {time.perf_counter() - started:.0f} s" if reason else "stands"
        facts = read_record(work.folder).facts
        counts = f"  {facts['kept']} documents kept" if "kept" in facts else ""
        if taken := {name: count for name, count in facts.get("taken", {}).items() if count}:
            counts += f" of {facts['sampled']}; " + ", ".join(f"{name} took {count}" for name, count in taken.items())
        told = f"  {say_scores(scores)}" if work.stage.row else counts
        log.info(f"{prefix} {done}{told}")

    def make(self, work: Work, inputs: Mapping[str, str], reason: str) -> None:
        """Make a stage, with its record: running before, done after."""
        settings = portable(work.settings, work.context.root)
        record, aside = read_record(work.folder), None
        if record is None or changes(record, settings, inputs):
            if record is not None and not only_filters(record, settings, inputs):
                aside = self.put_aside(work)
            elif record is None and work.folder.exists():
                aside = self.put_aside(work)
            record = Record(work.stage.name, RUNNING, reason, work.command, settings, dict(inputs), False)
        elif record.status == DONE:  # what it made is gone or damaged, and is made again from nothing
            self.put_aside(work)
        record.status, record.people = RUNNING, self.people[work.stage.name]
        write_record(work.folder, record)
        started = time.perf_counter()
        try:
            facts = work.make()
        except Exception:
            if aside is not None and not work.began():
                # Refused before anything was made: what was there stays.
                shutil.rmtree(work.folder)
                shutil.move(aside, work.folder)
            raise
        seconds = record.facts.get("seconds", 0.0) + time.perf_counter() - started
        record.facts = {**facts, "seconds": round(seconds, 1)}
        record.product, record.status = work.product(), DONE
        write_record(work.folder, record)

    def put_aside(self, work: Work) -> Path:
        """What a stage made otherwise is kept, under superseded/; returns where."""
        place = self.folder / "superseded" / f"{work.context.root.name}_{work.stage.name}"
        number = 1
        while (free := place.with_name(f"{place.name}_{number}")).exists():
            number += 1
        free.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(work.folder, free)
        return free

    def score(self, work: Work) -> dict[str, dict[str, float]]:
        """The scores of a stage's policy; read where it was scored in this way before."""
        evaluation = dict(self.config["pipeline"]["evaluation"])
        names = {part: name for part, name in evaluation.pop("tasks").items() if name}
        tasks = {
            part: composed("train", [*work.context.model, f"task={name}"], work.folder)["task"]
            for part, name in names.items()
        }
        policy = read_record(work.folder).product
        asked = {"policy_sha256": policy, "evaluation": evaluation, "tasks": tasks}
        if evaluation.get("teacher"):
            asked["teacher_sha256"] = teacher_hash(evaluation["teacher"])
        asked = json.loads(json.dumps(asked))
        path = work.folder / SCORES
        if path.exists() and (before := json.loads(path.read_text()))["asked"] == asked:
            return before["scores"]
        scores = score_policy(str(work.folder), tasks, **evaluation)
        write_whole(path, json.dumps({"asked": asked, "scores": scores}, indent=2) + "\n")
        return scores

    def write_table(self) -> None:
        """table.csv, seeds.csv, table.md, stages.png and contrasts.png from the scores of all seeds."""
        rows = [stage for stage in self.stages if stage.row]
        scores = {stage.row: [self.scores_of(stage, context) for context in self.contexts] for stage in rows}
        frame = stage_frame(scores, {stage.row: self.people[stage.name] for stage in rows})
        seeds = seeds_frame(scores, [context.seed for context in self.contexts])
        for name, rows_of in (("table.csv", frame), ("seeds.csv", seeds)):
            write_whole(self.folder / name, rows_of.to_csv(index=False))
        pairs = self.config["pipeline"]["contrasts"]
        text = "\n".join(part for part in (markdown(frame), verdicts(scores, pairs), contrasts(scores, pairs)) if part)
        write_whole(self.folder / "table.md", text)
        stage_figure(frame, self.folder / "stages.png")
        if pairs:
            contrast_figure(scores, pairs, self.folder / "contrasts.png")
        print(text)
        print(f"everything is in {self.folder}")

    def scores_of(self, stage: Stage, context: Context) -> dict[str, dict[str, float]]:
        return json.loads((context.folder(stage.name) / SCORES).read_text())["scores"]


def say_scores(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The scores in a line."""
    return ", ".join(_said(scores))


def _said(scores: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for name in ("pass_at_1", "language_consistency", "general_score"):
        if scores.get(name, {}).get("value") is not None:
            yield f"{name} {scores[name]['value']:.3f}"
