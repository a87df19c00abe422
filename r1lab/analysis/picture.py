"""Figures as files."""

import os
from pathlib import Path

from matplotlib.figure import Figure


def write_picture(figure: Figure, path: Path) -> None:
    """The whole picture or none: one that looks meanwhile sees the old one."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    figure.savefig(temporary)
    os.replace(temporary, path)
