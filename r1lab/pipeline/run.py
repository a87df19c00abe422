"""A stage made: a policy trained, completions sampled and filtered, or a task's own answers written as documents."""

import hashlib
import json
import math
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import open_dict

from r1lab.build import make, make_task
from r1lab.data.filtered import FilteredDocuments
from r1lab.data.filters import keep, make_filters
from r1lab.data.prompts import PROMPTS_A_SEED
from r1lab.entry import CONF, Stopped, describe, flat, plain
from r1lab.generate import generate
from r1lab.limits import check_numbers
from r1lab.load import load, policy_hash
from r1lab.model.policy import load_policy
from r1lab.module.checkpoint import checkpoint_file, read_checkpoint
from r1lab.override import literal, quoted
from r1lab.pipeline.record import documents_hash
from r1lab.pipeline.stage import BASE, Stage
from r1lab.reward.format import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, opens_reasoning
from r1lab.run_folder import FINISHED, read_summary
from r1lab.task.protocol import Task
from r1lab.train import train_in
from r1lab.types import TOP

DOCUMENTS, POLICY = "documents.parquet", "policy"
# Columns that documents need no more.
_BULKY = ("completion_ids", "sampling_logprobs", *TOP)


@dataclass(frozen=True)
class Context:
    """What all stages of a seed share.

    root: the seed's folder. model: the overrides that choose the model. common, overrides: of every train stage, before
    and after its own.
    starts: the stages whose policy others start from.
    isolate: each train stage in a process of its own, as several devices need.
    """

    name: str
    root: Path
    seed: int
    model: tuple[str, ...]
    common: tuple[str, ...]
    overrides: tuple[str, ...]
    starts: frozenset[str]
    isolate: bool

    def folder(self, stage: str) -> Path:
        return self.root / stage

    def first_prompt(self, stage: str) -> int:
        """Where the prompts of the train split begin that a stage samples: apart from those of other seeds, of other
        stages, and of RL, which counts from the seed's first."""
        return self.seed * PROMPTS_A_SEED + PROMPTS_A_SEED // 2 + zlib.crc32(stage.encode()) % (PROMPTS_A_SEED // 2)


class Work:
    """A stage in its place: the command that it amounts to, its settings, and the making of it."""

    def __init__(self, stage: Stage, context: Context):
        self.stage, self.context = stage, context
        self.folder = context.folder(stage.name)

    @property
    def words(self) -> list[str]:
        """The overrides of the command."""
        raise NotImplementedError

    @property
    def command(self) -> str:
        """The command that does the same, as one would type it."""
        return shlex.join(["python", "-m", f"r1lab.{self.verb}", *self.words])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the stage is told, flat."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError for settings that cannot be, as far as that shows before the stages before it are done."""

    def make(self) -> dict[str, Any]:
        """Do it, from where it was stopped; returns facts for the record."""
        raise NotImplementedError

    def product(self) -> str:
        """SHA-256 of what was made; raises OSError where it is not there."""
        raise NotImplementedError

    def began(self) -> bool:
        """Whether there is anything in the folder that took time to make: more than records of what was asked."""
        return any(file.suffix in (".ckpt", ".parquet", ".safetensors", ".part") for file in self.folder.rglob("*"))

    @property
    def progress(self) -> str:
        """How far an interrupted stage got, in words."""
        return ""


class Train(Work):
    """`python -m r1lab.train`; its policy is then also a Hugging Face folder, from which the next stage starts."""

    verb = "train"

    @cached_property
    def asked(self) -> list[str]:
        """The overrides, but for the number of steps that its data come to."""
        stage, context = self.stage, self.context
        own = [f"seed={context.seed}", f"name={context.name}_{stage.name}"]
        if stage.teacher:
            own.append(f"module.teacher.name={quoted(stage.teacher)}")
        if stage.init != BASE:
            own.append(f"model.name={quoted(context.folder(stage.init) / POLICY)}")
        if stage.data:
            sources = {
                name: {"path": str(context.folder(name) / DOCUMENTS), "weight": w} for name, w in stage.data.items()
            }
            own.append(f"data.documents.sources={quoted(sources)}")
        return [*context.model, *context.common, *map(self.placed, stage.overrides), *own, *context.overrides]

    def check(self) -> None:
        composed("train", self.asked, self.folder)

    @cached_property
    def words(self) -> list[str]:
        stage, context, words = self.stage, self.context, [*self.asked]
        if stage.epochs:
            config = composed("train", words, self.folder)
            documents = len(FilteredDocuments(config["data"]["documents"]["sources"], seed=context.seed))
            steps = math.ceil(stage.epochs * documents / config["data"]["batch_size"])
            # What is asked for on the command line goes before what the data come to.
            words.insert(len(words) - len(context.overrides), f"trainer.max_steps={steps}")
        return words

    def placed(self, override: str) -> str:
        """An override with the folders of the stages that it names."""
        for name in (*self.stage.models, *self.stage.samples):
            override = override.replace(f"<{name}>", str(self.context.folder(name)))
        return literal(override)

    @cached_property
    def config(self) -> dict[str, Any]:
        return composed("train", self.words, self.folder)

    @cached_property
    def settings(self) -> dict[str, Any]:
        return dict(flat(self.config))

    def make(self) -> dict[str, Any]:
        if read_summary(self.folder).get("status") != FINISHED:
            goes_on = self.can_go_on()
            if not goes_on:
                # Killed before there was anything to go on from.
                shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
            self.train("last" if goes_on else None)
        self.export()
        summary = read_summary(self.folder)
        return {key: summary.get(key) for key in ("steps", "train_seconds", "commit", "versions", "device")}

    def can_go_on(self) -> bool:
        started = read_summary(self.folder).get("status") == "running"
        return started or (self.folder / "checkpoints" / "last.ckpt").exists()

    def train(self, ckpt_path: str | None) -> None:
        if self.context.isolate:
            words = [
                *self.words,
                f"hydra.run.dir={quoted(self.folder)}",
                *([f"ckpt_path={ckpt_path}"] * bool(ckpt_path)),
            ]
            code = subprocess.run([sys.executable, "-m", "r1lab.train", *words]).returncode
            if code in (130, -2):
                raise Stopped("stopped")
            if code:
                raise RuntimeError(f"stage {self.stage.name} failed; what it said stands above")
        else:
            config = composed("train", self.words, self.folder)
            train_in(self.folder, config | {"ckpt_path": ckpt_path})

    def export(self) -> None:
        """The policy as a Hugging Face folder, whole or not at all, where another stage starts from it."""
        if self.stage.name not in self.context.starts or (self.folder / POLICY).exists():
            return
        temporary = self.folder / f".{POLICY}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        loaded = load(str(self.folder))
        loaded.policy.save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
        temporary.rename(self.folder / POLICY)

    def product(self) -> str:
        if self.stage.name in self.context.starts and not (self.folder / POLICY).is_dir():
            raise FileNotFoundError(f"{self.folder / POLICY} is not there")
        return weights_hash(self.folder / "checkpoints" / "last.ckpt")

    @property
    def progress(self) -> str:
        steps = read_summary(self.folder).get("steps") or 0
        return f"after step {steps} or later" if steps else "from its last checkpoint"


class Generate(Work):
    """`python -m r1lab.generate` over the train split, and the filters that choose among the completions."""

    verb = "generate"

    @cached_property
    def words(self) -> list[str]:
        policy = self.stage.teacher or self.context.folder(self.stage.init)
        return [
            f"checkpoint={quoted(policy)}",
            "split=train",
            f"seed={self.context.seed}",
            f"first={self.context.first_prompt(self.stage.name)}",
            *self.stage.overrides,
            f"output={quoted(self.folder / 'samples')}",
        ]

    @cached_property
    def settings(self) -> dict[str, Any]:
        config = plain(compose_now("generate", self.words))
        filters = {"filters": self.stage.filters, "per_prompt": self.stage.per_prompt}
        return dict(flat({"generate": config, **filters}))

    def make(self) -> dict[str, Any]:
        filters = make_filters(self.stage.filters)
        generate(compose_now("generate", self.words))
        rows = [
            row for path in sorted(self.folder.glob("samples/*.parquet")) for row in pq.read_table(path).to_pylist()
        ]
        kept, taken = keep(rows, filters, per_prompt=self.stage.per_prompt)
        if not kept:
            most = max(taken, key=taken.get)
            raise ValueError(
                f"stage {self.stage.name}: none of {len(rows)} completions is left ({most} took {taken[most]}); "
                "sample more of them, or loosen pipeline.stages." + self.stage.name + ".filters"
            )
        write_documents(self.folder / DOCUMENTS, [{k: v for k, v in row.items() if k not in _BULKY} for row in kept])
        return {"sampled": len(rows), "kept": len(kept), "taken": taken}

    def product(self) -> str:
        return documents_hash(self.folder / DOCUMENTS)

    @property
    def progress(self) -> str:
        return f"{len(list(self.folder.glob('samples/*.parquet')))} files of samples are there"


class Answers(Work):
    """Documents of a task's own answers, each behind a short thought: what stands for data that people wrote."""

    @cached_property
    def words(self) -> list[str]:
        return [*self.context.model, *self.stage.overrides]

    @property
    def command(self) -> str:
        return f"the answers of {', '.join(self.stage.overrides)} to {self.stage.num_prompts} prompts"

    @cached_property
    def config(self) -> dict[str, Any]:
        return composed("train", self.words, self.folder)

    @cached_property
    def settings(self) -> dict[str, Any]:
        told = {"task": self.config["task"], "model": {"template": self.config["model"]["template"]}}
        return dict(flat(told)) | {"num_prompts": self.stage.num_prompts, "seed": self.context.seed}

    def make(self) -> dict[str, Any]:
        task: Task = make_task(self.config["task"], make(self.config["model"]["tokenizer"]))
        first = self.context.first_prompt(self.stage.name)
        rows = [answered(task, first + i) for i in range(self.stage.num_prompts)]
        write_documents(self.folder / DOCUMENTS, rows)
        return {"kept": len(rows)}

    def product(self) -> str:
        return documents_hash(self.folder / DOCUMENTS)


KINDS: dict[str, Callable[[Stage, Context], Work]] = {"train": Train, "generate": Generate, "answers": Answers}


def answered(task: Task, index: int) -> dict[str, Any]:
    """A prompt of the train split with its answer, as a well-formed completion."""
    prompt = task.sample("train", index)
    opening = "" if opens_reasoning(prompt) else f"{THINK_OPEN} "
    thought = prompt.columns.get("thought", prompt.answer)
    return {
        "prompt": prompt.text,
        "completion": f"{opening}{thought} {THINK_CLOSE} {ANSWER_OPEN} {prompt.answer} {ANSWER_CLOSE}",
        "kind": prompt.kind,
        "language": prompt.language,
    }


def write_documents(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(list(rows)), temporary)
    temporary.replace(path)


def weights_hash(path: Path) -> str:
    """SHA-256 over names and bytes of all weights in a checkpoint."""
    digest = hashlib.sha256()
    for name, weight in sorted(read_checkpoint(path)["state_dict"].items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=8)
def teacher_hash(name: str) -> str:
    """SHA-256 of the weights of a checkpoint from outside."""
    file = checkpoint_file(name)
    return policy_hash(load_policy(name, dtype="float32")) if file is None else weights_hash(file)


def base_hash(context: Context) -> str:
    """SHA-256 of the policy that the pipeline starts from."""
    config = composed("train", [*context.model], context.root)
    return _policy_hash(json.dumps(config["model"]["policy"], sort_keys=True))


@lru_cache(maxsize=8)
def _policy_hash(config: str) -> str:
    return policy_hash(make(json.loads(config)))


def composed(name: str, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """The resolved config of a stage's command, as it would be in its own process with its run in `folder`.

    Raises:
        ValueError: there is no such setting or choice, or its number is too small.
    """
    try:
        config = compose_now(name, [*words], return_hydra_config=True)
    except ConfigCompositionException as error:
        raise ValueError(f"stage {folder.name}: {describe(error, name)}") from error
    with open_dict(config), hydra_config_of(config, folder):
        del config["hydra"]
        found = plain(config)
    try:
        check_numbers(found)
    except ValueError as error:
        raise ValueError(f"stage {folder.name}: {error}") from None
    return found


@contextmanager
def hydra_config_of(config: Any, folder: Path) -> Iterator[None]:
    """Inside, `${hydra:...}` is of that config, with its output in `folder`."""
    before = HydraConfig.instance().cfg
    config.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def compose_now(name: str, words: Sequence[str], **options: Any):
    if GlobalHydra.instance().is_initialized():
        return compose(name, list(words), **options)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(words), **options)
