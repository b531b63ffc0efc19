"""The numbers of one worker slot, in memory that outlives the process (local/shared_memory.py): counting is a store to memory, and
what was counted is there after ``kill -9``.

The first four fifths of the memory say what the numbers are: the length of the text that follows (8 bytes), a line with the format,
then one JSON object for each key, in the order of their indexes. The rest is an array of doubles in the machine's order. A
histogram has one number for each bucket (not cumulative), one for what is above the last bound, and the sum; anything else has one
number.

- A key's numbers are 0 before its line counts, and never move: a reader takes the keys first, then the numbers.
- A line counts when the length says so, which is written last: a process that is killed leaves no half a key.
- One writer a slot; whoever gives out the slots sees to that. It inherits the counters of the one before; gauges start at 0.
"""

from __future__ import annotations

import errno
import mmap
import sys
from typing import NamedTuple

import orjson

from ..errors import with_cause
from ..local.shared_memory import SharedMemory

HEADER = b'{"format":1}\n'
LENGTH = 8                      # bytes of the length
DOUBLE = 8
PRIVATE = 8 * 1024 ** 2         # bytes, where no other process is to see the numbers

Labels = tuple[tuple[str, str], ...]
Identity = tuple[str, str, Labels, tuple[float, ...]]


class CorruptSlot(ValueError):
    """The keys of a slot cannot be read. The text says what is wrong."""


class Key(NamedTuple):
    """What the numbers from ``at`` on are. ``kind`` is counter, gauge or histogram; ``bounds`` are a histogram's, in order."""

    kind: str
    name: str
    help: str
    labels: Labels
    bounds: tuple[float, ...]
    at: int

    @property
    def identity(self) -> Identity:
        return self.kind, self.name, self.labels, self.bounds

    @property
    def end(self) -> int:
        return self.at + width(self.kind, self.bounds)

    def line(self) -> bytes:
        return orjson.dumps({**self._asdict(), "labels": dict(self.labels)}, option=orjson.OPT_APPEND_NEWLINE)


def width(kind: str, bounds: tuple[float, ...]) -> int:
    """How many numbers a key of this kind has."""
    return len(bounds) + 2 if kind == "histogram" else 1


class SlotMemory:
    """The memory of a slot, taken over by this process. ``mismatch`` says why the keys there could not be used ("": they could).
    Without ``memory`` the numbers are those of this process alone."""

    def __init__(self, memory: memoryview | None = None) -> None:
        if memory is None:
            memory = memoryview(mmap.mmap(-1, PRIVATE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        size = text_size(memory.nbytes)
        self._length: memoryview[int] = memory[:LENGTH].cast("q")
        self._text = memory[LENGTH:size]
        self.values: memoryview[float] = memory[size:memory.nbytes // DOUBLE * DOUBLE].cast("d")
        self.keys: list[Key] = []
        self.mismatch = ""
        if self._length[0]:
            self._inherit()
        else:
            self._begin()

    def _inherit(self) -> None:
        try:
            self.keys = parse(bytes(self._text[:max(0, self._length[0])]), len(self.values))
        except CorruptSlot as error:
            self.mismatch = str(error)
            self._begin()
        for key in self.keys:
            if key.kind == "gauge":
                self.values[key.at] = 0.0

    def _begin(self) -> None:
        self._length[0] = 0
        self._append(HEADER)

    def _append(self, line: bytes) -> None:
        start = self._length[0]
        end = start + len(line)
        if end > len(self._text):
            raise OSError(errno.ENOSPC, "no room for another key")
        self._text[start:end] = line
        self._length[0] = end

    def add(self, kind: str, name: str, help: str, labels: Labels, bounds: tuple[float, ...]) -> Key:
        """A new key with numbers of 0. Raises OSError when there is no room for it."""
        key = Key(kind, name, help, labels, bounds, self.keys[-1].end if self.keys else 0)
        if key.end > len(self.values):
            raise OSError(errno.ENOSPC, "no room for another number")
        for index in range(key.at, key.end):                 # what was there before the slot was begun anew
            self.values[index] = 0.0
        self._append(key.line())
        self.keys.append(key)
        return key

    def __repr__(self) -> str:
        return f"SlotMemory({len(self.keys)} keys)"


def text_size(room: int) -> int:
    """The bytes before the numbers, in memory of ``room`` bytes."""
    return room * 4 // 5 // DOUBLE * DOUBLE


def read(memory: SharedMemory, slot: int) -> tuple[list[Key], memoryview[float]]:
    """The keys and numbers of any slot, also while its process counts; none of a slot that was never used. Raises CorruptSlot."""
    length = int.from_bytes(memory.read(slot, 0, LENGTH), sys.byteorder, signed=True)
    size = text_size(memory.room)
    keys = parse(memory.read(slot, LENGTH, min(max(0, length), size)), (memory.room - size) // DOUBLE) if length else []
    numbers = memory.read(slot, size, keys[-1].end * DOUBLE if keys else 0)
    return keys, memoryview(numbers).cast("d")


def parse(text: bytes, most: int) -> list[Key]:
    """The keys in a slot's text, of at most ``most`` numbers. Raises CorruptSlot."""
    lines = text.splitlines(keepends=True)
    if not lines or lines[0] != HEADER:
        raise CorruptSlot("the format is unknown")
    keys: list[Key] = []
    end = 0
    for line in lines[1:]:
        try:
            fields = orjson.loads(line)
            key = Key(fields["kind"], fields["name"], fields["help"], tuple(sorted(fields["labels"].items())),
                      tuple(fields["bounds"]), fields["at"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise with_cause(CorruptSlot(f"a key cannot be read: {error}"), error)
        if key.at != end:
            raise CorruptSlot(f"key {key.name} is at {key.at} instead of {end}")
        if key.end > most:
            raise CorruptSlot(f"key {key.name} ends at {key.end} of {most}")
        end = key.end
        keys.append(key)
    return keys
