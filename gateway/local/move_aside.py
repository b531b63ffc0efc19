"""Clearing of a file's place where something else is: a folder, a pipe, a link to nowhere. It is moved aside, within its folder,
and not deleted: it is not known whose it is. Opening it would fail for good, and a pipe would wait for good.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

ASIDE = ".found-"               # what the names begin with

log = logging.getLogger("gateway")


def move_aside(path: str | os.PathLike[str]) -> None:
    """Make way for a file at ``path``. Raises OSError."""
    if os.path.isfile(path) or not os.path.lexists(path):
        return
    aside = Path(path).with_name(f"{ASIDE}{os.urandom(6).hex()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:                            # another process was first
        return
    log.error("%s is no file, and was moved to %s", path, aside.name)


def move_all_aside(folder: Path, but: str) -> set[str]:
    """Move aside everything in ``folder`` that is not a file. Returns the names of all that was ever moved. Raises OSError."""
    for name in os.listdir(folder):
        if name != but and not name.startswith(".found"):
            move_aside(folder / name)
    return {name for name in os.listdir(folder) if name.startswith(ASIDE)}
