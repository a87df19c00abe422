"""The Optuna study of a sweep: where it is stored, what it is about, and what may not change between two starts."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

RECORD = "sweep"  # the study's user attribute that says what it is about
# What makes trials of one study comparable. Trials may be added; how they are watched does not matter.
_FIXED = ("shared", "blocks", "objectives", "steps")
_PARAMS = "params/"
CONFIG = "config"  # in the record: the settings that all points share, by their dotted names
# Who began it, and with which settings: each run's own are with its results.
_BEGUN = ("command", "commit", "versions", "device", "shared", CONFIG)
_LOCK_SECONDS = 10  # after which the lock of a process that was killed while it wrote is broken

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # TPE for conditional parameters


class StudyError(ValueError):
    """A study that is another sweep's, or one with other settings; the message says which."""


def open_storage(storage: str) -> BaseStorage:
    """A database URL (`sqlite:///...`, `postgresql://...`) or the path of a journal file, which is made where needed.

    A journal file is safe for several processes of one machine; several machines need a database.
    """
    try:
        if "://" in storage:
            return optuna.storages.get_storage(storage)  # as a study wraps it: both must know of each other's trials
        return _open_journal(Path(storage))
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        hint = "" if "://" in storage else "; git may have it whole, else remove the line that is damaged"
        raise StudyError(f"hydra.sweeper.storage={storage} cannot be read: {told}{hint}") from error


def _open_journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Optuna's default, a symbolic link, never yields where its path is relative and its owner was killed.
    lock = JournalFileOpenLock(str(path), grace_period=_LOCK_SECONDS)
    _drop_torn_line(path, lock)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _drop_torn_line(path: Path, lock: JournalFileOpenLock) -> None:
    """A process that was killed while it wrote leaves half a line, behind which nothing would be read any more."""
    if not path.exists() or not path.stat().st_size:
        return
    lock.acquire()  # nobody is writing now
    try:
        with open(path, "r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def open_study(
    storage: BaseStorage,
    *,
    name: str,
    directions: Sequence[str],
    record: Mapping[str, Any],
    sampler: optuna.samplers.BaseSampler | None = None,
) -> optuna.Study:
    """The study of that name, made where there is none.

    Raises:
        StudyError: the study that is there has other directions, or was made with other settings.
    """
    if has_study(storage, name):  # to make one that is there would add a line to the journal at each start
        study = optuna.load_study(storage=storage, study_name=name, sampler=sampler)
        try:
            return _goes_on(study, directions, record)
        except StudyError:
            if study.get_trials(deepcopy=False):
                raise
            optuna.delete_study(study_name=name, storage=storage)  # begun with settings that could not run
    study = optuna.create_study(
        storage=storage, study_name=name, directions=directions, sampler=sampler, load_if_exists=True
    )
    return _goes_on(study, directions, record)


def _goes_on(study: optuna.Study, directions: Sequence[str], record: Mapping[str, Any]) -> optuna.Study:
    """The study with what it is about brought up to date. Raises StudyError as `open_study`."""
    name = study.study_name
    found = [direction.name.lower() for direction in study.directions]
    if found != list(directions):
        raise StudyError(
            f"the study {name!r} was begun with direction {', '.join(found)}, not {', '.join(directions)}; "
            "give this sweep another name, or remove the study"
        )
    before = study.user_attrs.get(RECORD, {})
    _refuse_other(name, before, record)
    # What the record of an older study lacks and nobody asks for needs no line of its own in the journal.
    asked = {key: value for key, value in record.items() if key in before or value or not before}
    now = {**before, **asked, **{key: before[key] for key in _BEGUN if key in before}}
    if now != before:
        study.set_user_attr(RECORD, now)
    return study


def has_study(storage: BaseStorage, name: str) -> bool:
    return name in (study.study_name for study in storage.get_all_studies())


def _refuse_other(name: str, before: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    resolved = CONFIG in before and CONFIG in record
    was, now = (_compared(given, resolved=resolved) for given in (before, record))
    # A setting that came or went since keeps no study from going on: its default is what was done before.
    names = was.keys() & now.keys() | {key for key in was.keys() ^ now.keys() if before and key.startswith(_PARAMS)}
    changed = sorted(key for key in names if was.get(key) != now.get(key))
    had, asked = before.get("seeds", record["seeds"]), record["seeds"]
    if asked[: len(had)] != had:
        if asked and had[: len(asked)] == asked:
            raise StudyError(f"the study {name!r} has been run with more seeds: set hydra.sweeper.seeds={had}")
        was["seeds"], now["seeds"] = had, asked
        changed.append("seeds")
    elif asked != had and record.get("sampler") != "grid":
        raise StudyError(
            f"the study {name!r} is a search, whose points were chosen by {len(had)} seeds: run its best ones with "
            "more seeds in a grid of their own"
        )
    if changed:
        told = "; ".join(
            f"{key.removeprefix(_PARAMS)} was {was.get(key, 'not varied')} and is now {now.get(key, 'not varied')}"
            for key in changed
        )
        raise StudyError(f"the study {name!r} was begun as another sweep ({told}); give this one another name")


def _compared(record: Mapping[str, Any], *, resolved: bool) -> dict[str, Any]:
    """What may not change, by name: a parameter by its levels or its bounds.

    Args:
        resolved: the shared settings by their values, whoever set them, instead of by what the command line said.
    """
    levels = {
        f"{_PARAMS}{name}": (p["levels"] or [p["low"], p["high"]]) if isinstance(p, Mapping) else p
        for name, p in record.get("params", {}).items()
    }
    fixed = [key for key in _FIXED if key in record and not (resolved and key == "shared")]
    return {key: record[key] for key in fixed} | levels | record.get(CONFIG, {})
