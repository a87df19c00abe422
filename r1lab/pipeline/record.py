"""The record of a stage, `stage.json`: what it was made from, what it made, and so whether it still stands."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from r1lab.run_folder import write_whole

RUNNING, DONE = "running", "done"
# What of a stage's settings does not touch what it makes.
WATCHING = ("callback", "logger", "ckpt_path", "show")
# A change of these takes the samples as they are.
FILTERING = ("filters", "per_prompt")


@dataclass
class Record:
    """What a stage was told (`settings`, flat) and given (`inputs`, name -> SHA-256), and what came of it (`product`).

    why: the reason for which it ran. people: whether people's data entered it. facts: counts, seconds, versions.
    """

    stage: str
    status: str
    why: str
    command: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    people: bool
    product: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def read_record(folder: Path) -> Record | None:
    """None where there is none, or one of another form."""
    path = folder / "stage.json"
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_record(folder: Path, record: Record) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "stage.json", json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n")


def portable(settings: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Settings as JSON has them, without where the pipeline lies, and without what only watches."""
    text = json.dumps(dict(settings), sort_keys=True, default=str, ensure_ascii=False)
    plain = json.loads(text.replace(str(root), "."))
    return {key: value for key, value in plain.items() if key.split(".")[0] not in WATCHING}


def changes(record: Record, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> list[str]:
    """In words, what the stage would be made from today and was not made from; inputs first."""
    changed = [
        f"{name} is another" for name in [*inputs, *record.inputs] if record.inputs.get(name) != inputs.get(name)
    ]
    missing = object()
    for key in [*settings, *(key for key in record.settings if key not in settings)]:
        was, now = record.settings.get(key, missing), settings.get(key, missing)
        # A setting that came since and is null is what was done before.
        if was != now and not (was is missing and now is None):
            changed.append(f"{key} {_say(was, missing)} -> {_say(now, missing)}")
    return list(dict.fromkeys(changed))


def _say(value: Any, missing: object) -> str:
    return "(not set)" if value is missing else json.dumps(value, ensure_ascii=False)[:60]


def only_filters(record: Record, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether nothing but the filters changed."""
    keys = [*settings, *record.settings]
    changed = {key for key in keys if record.settings.get(key) != settings.get(key)}
    return record.inputs == dict(inputs) and all(key.split(".")[0] in FILTERING for key in changed)


def documents_hash(path: Path) -> str:
    """SHA-256 of prompts and completions, in order."""
    table = pq.read_table(path, columns=["prompt", "completion"])
    digest = hashlib.sha256()
    for prompt, completion in zip(*(table[name].to_pylist() for name in ("prompt", "completion")), strict=True):
        digest.update(f"{prompt}\t{completion}\n".encode())
    return digest.hexdigest()
