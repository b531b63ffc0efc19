"""A number in memory that the workers of a machine share: it changes when there is news in the journal (journal.py).

Whoever has appended lines puts another number there. Reading it takes no system call, so a worker compares it with the one of its
last reading before it serves anything that depends on the news.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import MutableSequence
from pathlib import Path

from ..move_aside import move_aside

SIZE = 8                        # bytes


class Bell:
    """``shared[0]`` is the number, ``heard`` what it was when all news was read. Without a file nobody shares it."""

    __slots__ = ("shared", "heard", "_inode")

    def __init__(self) -> None:
        self.shared: MutableSequence[int] | memoryview[int] = [0]
        self.heard = 0
        self._inode = 0

    @property
    def hangs(self) -> bool:
        return self._inode != 0

    def hang(self, path: Path) -> None:
        """Share the number in the file at ``path``, also when another file has taken its place. Raises OSError, ValueError."""
        try:
            move_aside(path)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                found = os.fstat(file)
                if found.st_ino != self._inode:
                    if found.st_size < SIZE:
                        os.ftruncate(file, SIZE)
                    self.shared = memoryview(mmap.mmap(file, SIZE)).cast("Q")
                    self._inode = found.st_ino
            finally:
                os.close(file)
        except (OSError, ValueError):
            self._inode = 0
            raise

    def ring(self) -> None:
        """There is news, whatever others put there at the same time: each reads again."""
        self.shared[0] = secrets.randbits(8 * SIZE)

    def __repr__(self) -> str:
        return f"Bell({'shared' if self.hangs else 'not shared'})"
