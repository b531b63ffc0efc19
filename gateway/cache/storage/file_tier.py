"""A folder as the persistent tier that the workers of one machine share.

A record is one file, named by the hash of its key. It is written to a temporary file and renamed, so that a reader sees a complete
record or none. Its modification time is its expiry, its access time that of its last read (set explicitly, whatever the mount
options). As the disk may block, native threads do all operations.

Sweeps bound the folder: a worker that has written a SHARE of ``limit`` sweeps, unless another does. A sweep removes expired files,
and the least recently read ones until a tenth is free; it stats every file twice and sorts nothing. Between two sweeps the folder
may exceed its limit by a SHARE for each worker.

A body that nginx in front sends is a file of its own, named by the hash of its content and created when it is first needed. It is
counted and swept like a record; a process that has it open can still send it to its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...bus.clock import BUS_CLOCK
from ...bus.journal import private
from ...loop.native_threads import native_thread, run_in_thread
from ...tasks import spawn
from ..entry import Entry
from .codec import LARGEST
from .tiers import Operation

SHARE = 1 / 16
FREE = 0.1
TOUCH_INTERVAL = 60.0           # seconds: within them, being asked for again is not written down
ABANDONED_AFTER = 3600.0        # seconds after which a file that was not finished belongs to nobody
BODIES = "bodies"               # the folder for bodies that nginx sends, readable for the group
BODY_KEPT = 86400.0             # seconds such a file is kept after it was last asked for, and room allows it
AGES = 64                       # classes of age, each a half longer than the one before

log = logging.getLogger("gateway")


class FileTier:
    """Records in the folder ``path``, of ``limit`` bytes. ``on_failure`` and ``on_eviction`` are called with a number of files. The
    machine's own clock, by which files are dated, is ``ahead`` of ``clock``."""

    name = "file"
    shift = margin = 0.0
    usable = True

    def __init__(self, path: str | os.PathLike[str], limit: int, *, largest: int = LARGEST,
                 on_failure: Callable[[float], None] = lambda number: None,
                 on_eviction: Callable[[float], None] = lambda number: None,
                 clock: Callable[[], float] = BUS_CLOCK.now, ahead: Callable[[], float] = BUS_CLOCK.ahead) -> None:
        self.path = Path(path)
        self.limit = limit
        self.largest = largest
        self.on_failure = on_failure
        self.on_eviction = on_eviction
        self.clock = clock
        self.ahead = ahead
        self._bytes_written = limit                      # the first write finds out what is there
        self._sweeping = False

    def get(self, key: str) -> bytes | None:
        data, error = run_in_thread(self._read, self._path_of(key))
        if error is not None:
            self._report(error)
        return data

    def put(self, key: str, data: bytes, seconds: float) -> bool:
        if len(data) > self.limit * SHARE:
            self.delete(key)
            return False
        error = run_in_thread(self._write, self._path_of(key), data, self.clock() + seconds)
        if error is not None:
            self._report(error)
            return False
        self._count_bytes(len(data))
        return True

    def _count_bytes(self, size: int) -> None:
        self._bytes_written += size
        if self._bytes_written > self.limit * SHARE and not self._sweeping:
            self._sweeping, self._bytes_written = True, 0
            spawn(self._sweep_apart)

    def delete(self, key: str) -> None:
        run_in_thread(remove, self._path_of(key))

    def write(self, operations: Sequence[Operation]) -> int:
        """Carry out puts and deletes; returns how many were lost."""
        return [getattr(self, name)(*arguments) for name, *arguments in operations].count(False)

    def file_of(self, entry: Entry) -> str | None:
        """The name, below BODIES, of a file with the body of ``entry``, which is created unless it exists. None when that fails or
        the body is too large."""
        if len(entry.body) > self.limit * SHARE:
            return None
        is_new, error = run_in_thread(self._body, entry)
        if error is not None:
            self._report(error)
            return None
        if is_new:
            self._count_bytes(len(entry.body))
        return f"{entry.digest[:2]}/{entry.digest[2:]}"

    def close(self) -> None:
        """Does nothing: no file is held open."""

    def _path_of(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return self.path / name[:2] / name[2:]

    def _report(self, error: OSError) -> None:
        self.on_failure(1.0)
        log.warning("the cache's folder %s: %s", self.path, error)

    # In native threads

    def _read(self, path: Path) -> tuple[bytes | None, OSError | None]:
        moment = self.clock()
        try:
            with open(path, "rb", opener=at_once) as file:
                status = os.fstat(file.fileno())
                if status.st_mtime <= moment or not stat.S_ISREG(status.st_mode):
                    return None, None
                data = file.read(self.largest)           # a record that is cut is none
                if status.st_atime < moment - TOUCH_INTERVAL:
                    os.utime(file.fileno(), (moment, status.st_mtime))
                return data, None
        except FileNotFoundError:
            return None, None
        except OSError as error:
            return None, error

    def _body(self, entry: Entry) -> tuple[bool, OSError | None]:
        """Create the file of a body unless it exists with the right size; returns whether it was created."""
        entry.digest = entry.digest or hashlib.sha256(entry.body).hexdigest()
        path = self.path / BODIES / entry.digest[:2] / entry.digest[2:]
        moment, until = self.clock(), self.clock() + BODY_KEPT
        try:
            status = path.stat(follow_symlinks=False)
            if status.st_size == len(entry.body) and status.st_mtime > moment and stat.S_ISREG(status.st_mode):
                if status.st_atime < moment - TOUCH_INTERVAL:
                    os.utime(path, (moment, until), follow_symlinks=False)
                return False, None
        except FileNotFoundError:
            pass                                         # it is made now
        except OSError as error:
            return False, error
        return True, self._write(path, entry.body, until, group_readable=True)

    def _write(self, path: Path, data: bytes, until: float, group_readable: bool = False) -> OSError | None:
        """Write a file that expires at ``until``. ``group_readable``: readable for the folder's group."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{native_thread()}")
        try:
            for folder in (path.parent.parent, path.parent) if group_readable else ():
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(temporary, "wb", opener=for_group if group_readable else private) as file:
                file.write(data)
                file.flush()
                os.utime(file.fileno(), (self.clock(), until))
            temporary.replace(path)
        except OSError as error:
            remove(temporary)
            return error
        return None

    # Sweeping

    def _sweep_apart(self) -> None:
        try:
            removals, error = run_in_thread(self.sweep)
        finally:
            self._sweeping = False
        self.on_eviction(removals)
        if error is not None:
            self._report(error)

    def sweep(self) -> tuple[int, OSError | None]:
        """Remove expired files, then evict until the folder is below its limit; returns the number of evictions. Runs in a native
        thread."""
        try:
            with open(self.path / ".lock", "wb", opener=private) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self._remove_older(*self._oldest()), None
        except BlockingIOError:
            return 0, None                               # another worker does it
        except OSError as error:
            return 0, error

    def _oldest(self) -> tuple[int, float]:
        """Remove expired files. Returns the age class from which on files are evicted, and the bytes of it that stay."""
        moment = self.clock()
        sizes = [0] * AGES
        for entry, status in self._files():
            is_temporary = entry.name.startswith(".")
            if status.st_ctime - self.ahead() < moment - ABANDONED_AFTER if is_temporary else status.st_mtime <= moment:
                remove(Path(entry.path))
            else:
                sizes[age_class(moment - status.st_atime)] += status.st_size
        room = self.limit * (1 - FREE)
        if sum(sizes) <= self.limit:
            return AGES, 0.0
        for number, size in enumerate(sizes):
            if size > room:
                return number, room
            room -= size
        return AGES, 0.0

    def _remove_older(self, oldest: int, room: float) -> int:
        """Evict files older than an age class, and those of that class beyond ``room`` bytes; returns their number."""
        if oldest == AGES:
            return 0
        moment, removals = self.clock(), 0
        for entry, status in self._files():
            age = age_class(moment - status.st_atime)
            if age < oldest or entry.name.startswith("."):
                continue
            if age == oldest and status.st_size <= room:
                room -= status.st_size
                continue
            remove(Path(entry.path))
            removals += 1
        return removals

    def _files(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        bodies = self.path / BODIES
        for folder in [*os.scandir(self.path), *(os.scandir(bodies) if bodies.is_dir() else ())]:
            if folder.is_dir(follow_symlinks=False) and len(folder.name) == 2:
                for entry in os.scandir(folder.path):
                    try:
                        yield entry, entry.stat(follow_symlinks=False)
                    except FileNotFoundError:            # removed meanwhile
                        continue

    def __repr__(self) -> str:
        return f"file {self.path}: at most {self.limit} bytes"


def at_once(path: str, flags: int) -> int:
    """An opener that does not block on what is no regular file, such as a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def for_group(path: str, flags: int) -> int:
    """An opener: the file is readable for its group."""
    return os.open(path, flags, 0o640)


def remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:                                      # it is gone, or the next sweep meets it again
        return


def age_class(seconds: float) -> int:
    """The logarithmic age class: 0 up to a second, then one more for each factor of 1.5."""
    number = 0
    while seconds > 1.0 and number < AGES - 1:
        seconds /= 1.5
        number += 1
    return number
