"""How the workers of one machine hear of each other's purges: a file to which each appends, and which each looks at.

One JSON list a line. A worker that starts reads all of it, then every POLL seconds what was added. A file that has become too
long is replaced by one that says the same: of several purges of one thing the latest, and no keys that were forgotten before its
newer half. URLs and tags are numbers of buckets by then (purge.py), of which there are so many and no more. Only when that is still
too long, for about 100,000 prefixes, half of it is dropped, under a purge of everything at the time of the last one dropped.

Writers hold the lock of the file (flock(2)), so that none writes into one that was replaced.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import sleep
from typing import IO, Any

from ..tasks import spawn
from .purge import KINDS, Purge

POLL = 0.25                     # seconds
LONGEST = 8 * 1024 ** 2         # bytes
SHORTER = 3 / 4                 # of that, a file that says the same has to have to be worth it
FLEETING = (b'["key"', b'["view"', b'["edge"')      # about what living workers have in memory, and nginx

log = logging.getLogger("gateway")


class Journal:
    """The file at ``path``. ``read`` gives what came since the last time, ``start`` follows it in a greenlet. With ``make``, its
    folder is made."""

    def __init__(self, path: str | os.PathLike[str], limit: int = LONGEST, *, make: bool = False) -> None:
        self.path = Path(path)
        self.make = make
        self.limit = limit
        self._file: IO[bytes] | None = None              # held open, so that no other file gets its inode
        self._greenlet: Any = None

    def start(self, heard: Callable[[Purge], None]) -> None:
        """Hear everything there is before this returns, and then whatever comes."""
        if self.make:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._deliver(heard)
        self._greenlet = spawn(self._follow, heard)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
        self.close()

    def _follow(self, heard: Callable[[Purge], None]) -> None:
        while True:
            sleep(POLL)
            self._deliver(heard)

    def _deliver(self, heard: Callable[[Purge], None]) -> None:
        try:
            purges = self.read()
        except OSError as error:
            log.error("purges by other workers cannot be read: %s", error)
            return
        for purge in purges:
            heard(purge)

    def write(self, purge: Purge) -> bool:
        """Tell the others; whether that was possible."""
        try:
            with self._locked() as file:
                file.write(line_of(purge))
                if file.tell() > self.limit:
                    self._shorten(file)
        except OSError as error:
            log.error("the other workers do not hear of the purge of %s %s: %s", purge.kind, purge.value, error)
            return False
        return True

    def waiting_purges(self) -> int:
        return 0

    def _locked(self) -> IO[bytes]:
        """The file, opened for appending and locked; not one that was replaced meanwhile."""
        while True:
            file = open(self.path, "ab", opener=private)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file.fileno()).st_ino == os.stat(self.path).st_ino:
                    return file
            except FileNotFoundError:                    # replaced between the two: again
                pass
            except BaseException:
                file.close()
                raise
            file.close()

    def _shorten(self, file: IO[bytes]) -> None:
        """Say the same in fewer lines, else keep the newer half, under a floor at the time of the last one dropped."""
        file.flush()
        lines = self.path.read_bytes().splitlines(keepends=True)
        half = len(lines) // 2
        kept = latest([line for line in lines[:half] if not line.startswith(FLEETING)] + lines[half:])
        if sum(map(len, kept)) > self.limit * SHORTER:
            half = len(kept) // 2
            floor = max((purge.at for purge in parsed(kept[:half])), default=0.0)
            kept[:half] = [line_of(Purge("everything", "", False, floor))]
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with open(temporary, "wb", opener=private) as shorter:
            shorter.write(b"".join(kept))
        temporary.replace(self.path)

    def read(self) -> list[Purge]:
        """What was written since the last call; all of it the first time, and again when the file was replaced."""
        file = self._file
        try:
            found = os.stat(self.path)
            if file is None or os.fstat(file.fileno()).st_ino != found.st_ino:
                self.close()
                file = self._file = open(self.path, "rb")
        except FileNotFoundError:
            return []
        if found.st_size == file.tell():
            return []
        text = file.read()
        whole = text.rfind(b"\n") + 1
        file.seek(whole - len(text), os.SEEK_CUR)
        return list(parsed(text[:whole].splitlines()))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __repr__(self) -> str:
        return f"Journal({self.path})"


def private(path: str, flags: int) -> int:
    """Open for the owner only."""
    return os.open(path, flags, 0o600)


def line_of(purge: Purge) -> bytes:
    return json.dumps(purge, separators=(",", ":")).encode() + b"\n"


def latest(lines: Iterable[bytes]) -> list[bytes]:
    """Of those lines that differ in their time alone, the one with the latest, where it first stood."""
    found: dict[bytes, tuple[float, bytes]] = {}
    for line in lines:
        what, _, at = line.rpartition(b",")
        try:
            moment = float(at.strip(b"] \n"))
        except ValueError:                               # no purge
            continue
        if what not in found or found[what][0] < moment:
            found[what] = moment, line
    return [line for _, line in found.values()]


def parsed(lines: Iterable[bytes]) -> Iterator[Purge]:
    """The purges of these lines; what is none is passed over."""
    for line in lines:
        purge = purge_of(line)
        if purge is not None:
            yield purge


def purge_of(text: bytes) -> Purge | None:
    """A purge from its JSON; None when it is none."""
    try:
        kind, value, soft, at = json.loads(text)
    except (ValueError, TypeError):
        return None
    if kind not in KINDS or not isinstance(value, str) or not isinstance(at, (int, float)):
        return None
    return Purge(kind, value, bool(soft), float(at))
