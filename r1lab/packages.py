"""Errors that name the package that is missing: an optional one, or one that it imports."""

from collections.abc import Iterator
from contextlib import contextmanager


def absent(setting: str, package: str, remedy: str) -> ImportError:
    """The error of a setting that needs a package.

    Args:
        setting: as a user types it, such as `reward=math`.
        package: as it is called on PyPI; its module has underscores for hyphens.
        remedy: what installs it.
    """
    return ImportError(f"{setting} needs the package {package}: {remedy}")


@contextmanager
def needed(setting: str, package: str, remedy: str) -> Iterator[None]:
    """Raise ImportError with what is missing where the package, or a module that it imports, is; see `absent`."""
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        own = missing == package.replace("-", "_")
        if own and isinstance(error, ModuleNotFoundError):
            raise absent(setting, package, remedy) from error
        reason = f"it imports {missing}, which is missing" if isinstance(error, ModuleNotFoundError) else str(error)
        raise ImportError(f"{setting}: {package} cannot be imported, as {_one_line(reason)}; {remedy}") from error


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
