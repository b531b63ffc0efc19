"""The numbers of one worker slot, in files that outlive the process.

``metrics.<slot>`` is an array of doubles in the machine's order, mapped into memory: counting is a store to memory, and what was
counted is there after ``kill -9``, because the pages belong to the file. ``metrics.<slot>.keys`` says what the numbers are: a
line with the format, then one JSON object for each key, in the order of their indexes. A histogram has one number for each
bucket (not cumulative), one for what is above the last bound, and the sum; anything else has one number.

- A key is written before its numbers are used, and numbers never move: a reader takes the keys first, then the numbers.
- Room is allocated before it is used (posix_fallocate): a full disk is an OSError here and not a SIGBUS later.
- The array only grows. A broken one is replaced by a new file, not emptied: somebody may still have it mapped.
- One writer a slot; whoever gives out the slots sees to that. It inherits the counters of the one before; gauges start at 0.
"""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

import orjson

from ..move_aside import move_aside

HEADER = b'{"format":1}\n'
FIRST_SIZE = 65536
DOUBLE = 8

Labels = tuple[tuple[str, str], ...]
Identity = tuple[str, str, Labels, tuple[float, ...]]


class CorruptSlotFile(ValueError):
    """A slot's files do not fit together. The text says what is wrong."""


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


class ProcessMemory:
    """Numbers of this process alone: before a slot is taken, and where there is none."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.values: memoryview[float] = memoryview(bytearray(FIRST_SIZE)).cast("d")

    def add(self, kind: str, name: str, help: str, labels: Labels, bounds: tuple[float, ...]) -> Key:
        """A new key with numbers of 0. ``values`` may be another view afterwards."""
        key = Key(kind, name, help, labels, bounds, self.keys[-1].end if self.keys else 0)
        if key.end > len(self.values):
            grown = bytearray(self.values.nbytes * 2)
            grown[:self.values.nbytes] = self.values.cast("B")
            self.values = memoryview(grown).cast("d")
        self.keys.append(key)
        return key

    def lost(self) -> bool:
        """Can nobody else see the numbers?"""
        return True

    def close(self) -> None:
        """Nothing to let go of."""

    def __repr__(self) -> str:
        return f"ProcessMemory({len(self.keys)} keys)"


class SlotFile:
    """The files of a slot, taken over by this process. ``replaced`` says why the ones found could not be used ("": they could).

    Raises OSError when the files cannot be had at all.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.replaced = ""
        for each in (path, path + ".keys"):
            move_aside(each)
        try:
            self.keys = self._inherit()
        except FileNotFoundError:
            self.keys = self._create()
        except CorruptSlotFile as error:
            self.replaced = str(error)
            self.keys = self._create()
        self._names = os.open(path + ".keys", os.O_WRONLY | os.O_APPEND)
        self._numbers = os.open(path, os.O_RDWR)
        self.values = self._map()
        for key in self.keys:
            if key.kind == "gauge":
                self.values[key.at] = 0.0

    def _inherit(self) -> list[Key]:
        """The keys left by the process before. A last line without its end was never used: it goes."""
        keys, complete = parse(read_bytes(self.path + ".keys"))
        os.truncate(self.path + ".keys", complete)
        checked_size(keys, os.stat(self.path).st_size)
        return keys

    def _create(self) -> list[Key]:
        """New files, each put in place by a rename. Between the two there are numbers of 0 under the old keys, or under none."""
        fresh = f"{self.path}.{os.getpid()}.new"
        for path, header, size in ((self.path, b"", FIRST_SIZE), (self.path + ".keys", HEADER, 0)):
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(fd, header)
                if size:
                    os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
            os.rename(fresh, path)
        return []

    def _map(self) -> memoryview[float]:
        size = checked_size([], os.fstat(self._numbers).st_size)
        return memoryview(mmap.mmap(self._numbers, size)).cast("d")

    def add(self, kind: str, name: str, help: str, labels: Labels, bounds: tuple[float, ...]) -> Key:
        """A new key with numbers of 0. ``values`` may be another view afterwards. Raises OSError when the disk is full."""
        key = Key(kind, name, help, labels, bounds, self.keys[-1].end if self.keys else 0)
        if key.end > len(self.values):
            os.posix_fallocate(self._numbers, 0, self.values.nbytes * 2)
            self.values = self._map()
        line, size = key.line(), os.fstat(self._names).st_size
        if os.write(self._names, line) < len(line):
            os.truncate(self.path + ".keys", size)
            raise OSError("no room for another key")
        self.keys.append(key)
        return key

    def lost(self) -> bool:
        """Is one of the files not at its place any more?"""
        try:
            return any(os.stat(path).st_ino != os.fstat(fd).st_ino
                       for path, fd in ((self.path, self._numbers), (self.path + ".keys", self._names)))
        except OSError:
            return True

    def close(self) -> None:
        """Let go of the descriptors; the map lives as long as somebody counts in it."""
        os.close(self._names)
        os.close(self._numbers)

    def __repr__(self) -> str:
        return f"SlotFile({self.path}, {len(self.keys)} keys)"


def read(path: str) -> tuple[list[Key], memoryview[float]]:
    """The keys and numbers of any slot, also while its process counts. Raises OSError and Corrupt."""
    keys, _ = parse(read_bytes(path + ".keys"))
    with open(path, "rb", opener=at_once) as file:
        size = checked_size(keys, os.fstat(file.fileno()).st_size)
        return keys, memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)).cast("d")


def parse(text: bytes) -> tuple[list[Key], int]:
    """The keys in a slot's key file, and the length of its complete lines. Raises Corrupt."""
    complete = text.rfind(b"\n") + 1
    lines = text[:complete].splitlines(keepends=True)
    if not lines or lines[0] != HEADER:
        raise CorruptSlotFile("the format is unknown")
    keys: list[Key] = []
    end = 0
    for line in lines[1:]:
        try:
            fields = orjson.loads(line)
            key = Key(fields["kind"], fields["name"], fields["help"], tuple(sorted(fields["labels"].items())),
                      tuple(fields["bounds"]), fields["at"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptSlotFile(f"a key cannot be read: {error}") from error
        if key.at != end:
            raise CorruptSlotFile(f"key {key.name} is at {key.at} instead of {end}")
        end = key.end
        keys.append(key)
    return keys, complete


def checked_size(keys: list[Key], size: int) -> int:
    """The bytes of whole numbers in an array of ``size`` bytes. Raises Corrupt when it is too short for ``keys``."""
    if size < max(FIRST_SIZE, keys[-1].end * DOUBLE if keys else 0):
        raise CorruptSlotFile(f"the numbers end at {size} bytes")
    return size // DOUBLE * DOUBLE


def read_bytes(path: str) -> bytes:
    with open(path, "rb", opener=at_once) as file:
        return file.read()


def at_once(path: str, flags: int) -> int:
    """It may be a pipe, until it is moved aside, which nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)
