"""Open an Optuna study to read it: nothing is created, migrated or written."""

from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

JOURNAL = "journal.log"


class SweepError(ValueError):
    """There is no sweep to read; the message says in one line what is missing."""


def open_study(source: str | Path, name: str | None = None) -> optuna.Study:
    """The study of a folder or of a database; arguments and errors as `r1lab.analysis.sweep.load_sweep`."""
    is_url = "://" in str(source)
    # load_study tells on the terminal which study it took.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = _database(str(source)) if is_url else _journal(Path(source))
        names = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=_choose(names, name, source, is_url), storage=storage)
    except SweepError:
        raise
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SweepError(f"{_shown(source)} cannot be read as an Optuna storage: {reason[0]}") from error


def _journal(folder: Path) -> BaseStorage:
    if folder.is_file():
        return JournalStorage(JournalFileBackend(str(folder)))
    if not folder.is_dir():
        raise SweepError(f"there is no folder {folder}")
    # The backend would create a file that is not there.
    if not (folder / JOURNAL).exists():
        raise SweepError(f"{folder} holds no sweep: it has no {JOURNAL}")
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def _database(url: str) -> BaseStorage:
    try:
        parts = make_url(url)
        is_sqlite = parts.get_backend_name() == "sqlite"
    except (ArgumentError, NoSuchModuleError) as error:
        raise SweepError(f"{_shown(url)} is no URL of a database") from error
    if is_sqlite and parts.database and not parts.database.startswith("file:"):
        if not Path(parts.database).exists():
            raise SweepError(f"there is no database {parts.database}")
        # Read-only by SQLite itself; as a plain path it would be created.
        url = f"sqlite:///file:{Path(parts.database).absolute().as_posix()}?mode=ro&uri=true"
    return RDBStorage(url, skip_table_creation=True)


def _choose(names: list[str], name: str | None, source: str | Path, is_url: bool) -> str:
    """The study asked for; else the only one, or that named like the folder."""
    listed = f"there are {', '.join(sorted(names)[:10])}" if names else "it holds none"
    if name is not None:
        if name not in names:
            raise SweepError(f"there is no study {name} in {_shown(source)}: {listed}")
        return name
    if len(names) == 1:
        return names[0]
    if not is_url and Path(source).resolve().name in names:
        return Path(source).resolve().name
    raise SweepError(f"which study of {_shown(source)}? {listed}" if names else f"{_shown(source)} holds no study")


def _shown(source: str | Path) -> str:
    """Without the password of a URL."""
    try:
        return make_url(str(source)).render_as_string(hide_password=True) if "://" in str(source) else str(source)
    except ArgumentError:
        return str(source)
