"""The workers of an instance and what each does, in memory that the master shares with those it forks (memfd_create(2), sealed).

Nobody can delete, fill or shorten it, so whether an instance lives and is ready never depends on a disk. From outside it is read
through a link to it in the run directory (run_directory.py).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path
from typing import NamedTuple

STATES = ("starting", "serving", "leaving", "retiring", "draining", "failed")


class Worker(NamedTuple):
    pid: int
    state: str


class Board:
    """Pid and state of the worker in each slot. ``repairs`` counts how often the run directory was made again, ``served`` says
    whether a worker of the instance has ever taken connections. A worker's number is ``pid * 256 + 16 (trouble with the directory)
    + state``: one store, so never half of it."""

    FIRST = 8                                                # before it: repairs, served, trouble of the master
    NUMBERS = 1024
    TROUBLE = 16

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._numbers = memoryview(mmap.mmap(fd, self.NUMBERS * 8)).cast("q")

    @classmethod
    def make(cls) -> Board:
        fd = os.memfd_create("gateway-workers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, cls.NUMBERS * 8)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(fd)

    @classmethod
    def at(cls, path: Path) -> Board:
        """That of another process. Raises OSError, and ValueError for what is none."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(fd)
        finally:
            os.close(fd)                                     # the map has its own

    def put(self, slot: int, pid: int, state: str, trouble: bool = False) -> None:
        self._numbers[self.FIRST + slot] = pid << 8 | trouble * self.TROUBLE | STATES.index(state)

    def clear(self, slot: int) -> None:
        self._numbers[self.FIRST + slot] = 0

    def workers(self) -> dict[int, Worker]:
        """Those that live, by slot."""
        return {slot: Worker(number >> 8, STATES[number & 15]) for slot, number in enumerate(self._numbers[self.FIRST:])
                if number and alive(number >> 8)}

    @property
    def repairs(self) -> int:
        return self._numbers[0]

    def count_repairs(self, number: int) -> None:
        self._numbers[0] += number

    @property
    def served(self) -> bool:
        return bool(self._numbers[1])

    def set_served(self) -> None:
        self._numbers[1] = 1

    def set_trouble(self, trouble: bool) -> None:
        """Of the master with the directory."""
        self._numbers[2] = trouble

    def trouble(self) -> bool:
        """Has the master, or a worker that lives, trouble with the directory?"""
        return bool(self._numbers[2]) or any(self._numbers[self.FIRST + slot] & self.TROUBLE for slot in self.workers())


def alive(pid: int) -> bool:
    """Is there a process ``pid``?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
