"""Text files that grow by whole lines while a run goes on: what a killed process leaves behind is still readable."""

import os
from collections.abc import Iterable
from pathlib import Path


def complete_lines(path: Path) -> list[str]:
    """The lines of a file without their ends; none where there is no file.

    A last line without its end was being written when the process died, and is left out.
    """
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """All lines in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write("".join(f"{line}\n" for line in lines))


def replace_lines(path: Path, lines: Iterable[str]) -> None:
    """The file with these lines instead of its own: the old or the new ones at any moment, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
