"""The workers of an instance and what each does, in memory that they share with their master (shared_memory.py).

Nobody can delete, fill or shorten it, so whether an instance lives and is ready never depends on a disk.
"""

from __future__ import annotations

import os
from typing import NamedTuple

REPAIRS, SERVED, MASTER_TROUBLE, SLOTS = range(4)            # the numbers before those of the workers
STATES = ("starting", "serving", "leaving", "retiring", "draining", "failed")


class Worker(NamedTuple):
    pid: int
    state: str


class Board:
    """Pid and state of the worker in each slot. ``repairs`` counts how often the run directory was made again, ``has_served`` says
    whether a worker of the instance has ever taken connections. A worker's number is ``pid * 256 + 16 (trouble with the directory)
    + state``: one store, so never half of it."""

    FIRST = 8
    TROUBLE = 16

    def __init__(self, memory: memoryview) -> None:
        self._numbers = memory.cast("q")

    def put(self, slot: int, pid: int, state: str, trouble: bool = False) -> None:
        self._numbers[SLOTS] = max(self.slots, slot + 1)
        self._numbers[self.FIRST + slot] = pid << 8 | trouble * self.TROUBLE | STATES.index(state)

    def clear(self, slot: int) -> None:
        self._numbers[self.FIRST + slot] = 0

    def workers(self) -> dict[int, Worker]:
        """Those that live, by slot."""
        numbers = self._numbers[self.FIRST:self.FIRST + self.slots]
        return {slot: Worker(number >> 8, STATES[number & 15]) for slot, number in enumerate(numbers)
                if number and alive(number >> 8)}

    @property
    def slots(self) -> int:
        """How many slots were ever used: the first ones."""
        return self._numbers[SLOTS]

    @property
    def repairs(self) -> int:
        return self._numbers[REPAIRS]

    def count_repairs(self, number: int) -> None:
        self._numbers[REPAIRS] += number

    @property
    def has_served(self) -> bool:
        return bool(self._numbers[SERVED])

    def set_served(self) -> None:
        self._numbers[SERVED] = 1

    def set_trouble(self, trouble: bool) -> None:
        """Of the master with the directory."""
        self._numbers[MASTER_TROUBLE] = trouble

    def trouble(self) -> bool:
        """Has the master, or a worker that lives, trouble with the directory?"""
        return bool(self._numbers[MASTER_TROUBLE]) or any(self._numbers[self.FIRST + slot] & self.TROUBLE
                                                          for slot in self.workers())


def alive(pid: int) -> bool:
    """Is there a process ``pid``?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
