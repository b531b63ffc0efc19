"""What the processes of one instance (a Gunicorn master and its workers) know of each other.

**In memory that they share** (shared_memory.py): which worker is in which slot, and its state (``Board``), and the metrics of each
slot, which outlive their worker, so that the next one in the slot counts on. **In files** of one private directory,
``<parent>/wicketgate-<uid>-<random>/``, mode 0700; the parent is ``GATEWAY_RUN_DIR`` or the system's temporary directory::

    workers    a link to the shared memory, for whoever looks from outside
    offered    the text of the configuration that the master has read
    config     the text of the last configuration that was valid
    problems   JSON list: what is wrong with the configuration file now

Slots are small integers the master gives out, the lowest free one first; a slot is free again when its worker was reaped, so
the workers of an old and a new generation never share one. States of a worker::

    starting --> serving --> draining                told to end, or has nobody to wait for
        |           |
        |           +--> leaving  --> draining       told to end; serves on until its successor does
        |           +--> retiring --> draining       max_requests; the same, and the master counts it out already
        +--> failed                                  could not start; those that serve go on

**The directory may be lost at any time**: deleted by a cleaner, replaced, on a full or read-only disk. No operation on it raises
OSError once the instance has started. What cannot be read is missing, what cannot be written is logged and kept in memory, and
``mend``, called every second, makes the directory and the files again. Whether a worker lives and serves never depends on a disk.

Every write of a file is a temporary file and a rename: a reader sees the old or the new, never half. The directory is locked
(flock(2)) as long as any process of the instance lives. So those of instances that died are found and removed when a new one
starts, which pids, being reused, would not allow; and systemd-tmpfiles leaves a locked directory alone.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from .board import STATES, Board, Worker
from .move_aside import move_all_aside, move_aside
from .shared_memory import SharedMemory

ACCEPTING = frozenset({"serving", "leaving", "retiring"})
MOST = 500                      # workers of an instance; a reload has twice as many for a while

log = logging.getLogger("gateway")


class RunDir:
    """The directory at ``path``, seen from the worker in ``slot``. ``uid`` and ``gid`` are its owner's (-1: whoever makes it)."""

    def __init__(self, path: str | os.PathLike[str], slot: int = 0, uid: int = -1, gid: int = -1) -> None:
        self.path = Path(path)
        self.slot = slot
        self._owner = uid, gid
        self._master = 0                                     # the pid of the process that makes the directory
        self._taken: set[int] = set()
        self._lock: int | None = None
        self._memory: SharedMemory | None = None
        self._board: Board | None = None
        self._state = ""                                     # of this process, once it is a worker
        self._own: dict[str, str] = {}                       # the files that this process writes
        self._unwritten: set[str] = set()                    # those of them that are not yet as they should be
        self._offered: str | None = None
        self._trouble = ""
        self._aside: set[str] = set()                        # what was no file where one belongs

    def create(self) -> RunDir:
        """Make the directory, readable by its owner only, and hold its lock until every process that inherited it has ended.
        Raises OSError."""
        self._master = os.getpid()
        self._use(SharedMemory.make())
        self._make()
        return self

    def _make(self) -> None:
        """Under a hidden name at first, so that nobody takes it for stale before it is locked. Raises OSError."""
        parent = self.path.parent
        if not parent.exists():
            parent.mkdir(mode=0o700, parents=True)
            os.chown(parent, *self._owner)
        hidden = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        lock = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._link(hidden)
            os.chown(hidden, *self._owner)
            if self.path.is_symlink() or self.path.is_file():
                self.path.unlink()
            elif self.path.is_dir():                         # somebody has put it back: it is not known who
                self.path.rename(hidden / ".found")
            hidden.rename(self.path)
        except OSError:
            shutil.rmtree(hidden, ignore_errors=True)
            os.close(lock)
            raise
        if self._lock is not None:
            os.close(self._lock)
        self._lock = lock

    def _use(self, memory: SharedMemory) -> Board:
        """Raises ValueError for memory that is not of an instance."""
        self._board = Board(memory.board())
        self._memory = memory
        return self._board

    def _target(self) -> str:
        assert self._memory is not None
        return f"/proc/{os.getpid()}/fd/{self._memory.fd}"

    def _link(self, folder: Path) -> None:
        fresh = folder / f".workers.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self._target())
        if not (folder / "workers").is_symlink():
            move_aside(folder / "workers")
        fresh.replace(folder / "workers")

    def _is_linked(self) -> bool:
        try:
            return os.readlink(self.path / "workers") == self._target()
        except OSError:                                      # not there, or no link
            return False

    def remove(self) -> None:
        """Delete everything; the instance has ended."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # What is lost is made again.

    def mend(self) -> None:
        """Make again what is lost: the master the directory, every process the files that it has written. Never raises."""
        try:
            if self._master == os.getpid():
                self._mend_directory()
            for name, text in self._own.items():
                if name in self._unwritten or not (self.path / name).is_file():
                    self._store(name, text)
        except OSError as error:
            self._complain(f"the run directory {self.path} cannot be used: {error.strerror}")
        else:
            self._complain("")

    def _mend_directory(self) -> None:
        assert self._board is not None and self._lock is not None
        found = os.stat(self.path, follow_symlinks=False) if os.path.lexists(self.path) else None
        if found is None or not os.path.samestat(found, os.fstat(self._lock)):
            self._make()
            self._board.count_repairs(1)
            log.error("the run directory %s was lost, and has been made again", self.path)
        elif stat.S_IMODE(found.st_mode) & 0o700 != 0o700:
            os.chmod(self.path, 0o700)
        if not self._is_linked():
            self._link(self.path)
        aside = move_all_aside(self.path, but="workers")
        self._board.count_repairs(len(aside - self._aside))  # also what a worker has met first
        self._aside = aside

    def _complain(self, trouble: str) -> None:
        """Log what is new, and say in the shared memory whether anything is wrong."""
        if trouble and trouble != self._trouble:
            log.error("%s; requests are served, and it is tried again", trouble)
        elif self._trouble and not trouble:
            log.info("the run directory %s is in order again", self.path)
        self._trouble = trouble
        if self._board is None:
            return
        if self._master == os.getpid():
            self._board.set_trouble(bool(trouble))
        elif self._state:
            self._board.put(self.slot, os.getpid(), self._state, bool(trouble))

    @property
    def repairs(self) -> int:
        """How often the directory was made again, or something that is no file was moved out of the place of one."""
        board = self._attached()
        return board.repairs if board is not None else 0

    @property
    def usable(self) -> bool:
        """Can every process of the instance read and write what it has to?"""
        board = self._attached()
        return board is None or not board.trouble()

    # Slots: only the master gives and frees them.

    def take_slot(self) -> int:
        """The lowest free slot, for a worker about to be forked. It counts as starting from now on."""
        slot = 0
        while slot in self._taken:
            slot += 1
        self._taken.add(slot)
        self.board.put(slot, os.getpid(), "starting")        # the worker puts its own pid there
        return slot

    def free_slot(self, slot: int) -> None:
        """The worker in ``slot`` was reaped. Its numbers stay."""
        self._taken.discard(slot)
        self.board.clear(slot)

    def free_others(self, used: set[int]) -> None:
        """Free the slots of workers that were never born: a fork has failed."""
        for slot in self._taken - used:
            self.free_slot(slot)

    def enter_slot(self, slot: int) -> None:
        """In a worker just forked: it is starting. The files of the master are the master's to mend."""
        self.slot, self._own, self._unwritten, self._trouble = slot, {}, set(), ""
        self.set_state("starting")

    # States: a worker writes its own and reads those of the others.

    @property
    def board(self) -> Board:
        """The workers and what they do. Where there is no instance, memory for one is made. Raises OSError."""
        board = self._attached()
        if board is None:
            board = self._use(SharedMemory.make())
            self._link(self.path)
        return board

    @property
    def memory(self) -> SharedMemory:
        """The memory of the instance; where there is none, it is made. Raises OSError."""
        self.board
        assert self._memory is not None
        return self._memory

    def _attached(self) -> Board | None:
        """The board in the memory that was inherited, or in that of the instance whose directory it is."""
        if self._board is None:
            try:
                return self._use(SharedMemory.at(self.path / "workers"))
            except (OSError, ValueError):                    # there is no instance, or it has ended
                return None
        return self._board

    def adopt(self) -> None:
        """The master has died: from now on the link leads to the memory by way of this process."""
        try:
            self.board
            self._link(self.path)
        except OSError as error:
            log.error("the run directory %s cannot be used: %s", self.path, error)

    def set_state(self, state: str) -> None:
        """Publish the state of the calling process, the worker in ``slot``. Raises ValueError for a state that does not exist."""
        if state not in STATES:
            raise ValueError(f"{state!r} is none of {', '.join(sorted(STATES))}")
        self._state = state
        self.board.put(self.slot, os.getpid(), state, bool(self._trouble))
        if state in ACCEPTING:
            self.board.set_served()

    def states(self) -> dict[int, Worker]:
        """``slot: (pid, state)`` of the workers that live, by slot."""
        board = self._attached()
        return board.workers() if board is not None else {}

    def others(self) -> dict[int, str]:
        """Pid and state of the other workers that live."""
        return {worker.pid: worker.state for slot, worker in self.states().items() if slot != self.slot}

    def serves_without_me(self) -> bool:
        """Does another worker take new connections?"""
        return not ACCEPTING.isdisjoint(self.others().values())

    def has_served(self) -> bool:
        """Has any worker of the instance ever taken connections?"""
        board = self._attached()
        return board is not None and board.served

    def ready(self) -> bool:
        """Does any worker take new connections?"""
        return any(worker.state in ACCEPTING for worker in self.states().values())

    # Configuration: the last one that was valid, and what is wrong with the present file.

    def offer_config(self, text: str) -> None:
        """What the master has read: workers use this, so that a file being edited is not live before HUP. Those it forks have it
        from its memory."""
        self._offered = text
        self._write("offered", text)

    def offered_config(self) -> str | None:
        return self._offered if self._offered is not None else self._read("offered")

    def keep_config(self, text: str) -> None:
        """Store the configuration with which a worker has started, as the last one that was valid."""
        self._write("config", text)

    def kept_config(self) -> str | None:
        return self._read("config")

    def report_config(self, problems: list[str]) -> None:
        """Publish the mistakes in the configuration file; an empty list when there are none."""
        self._write("problems", json.dumps(problems))

    def config_problems(self) -> list[str]:
        try:
            return [str(problem) for problem in json.loads(self._read("problems") or "[]")]
        except (ValueError, TypeError):
            return [f"{self.path / 'problems'} cannot be read; the next HUP writes it again"]

    def _write(self, name: str, text: str) -> None:
        """Write a file now if that is possible, else as soon as ``mend`` can."""
        self._own[name] = text
        self._unwritten.add(name)
        self.mend()

    def _store(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.{os.getpid()}"
        try:
            move_aside(self.path / name)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path / name)
        except OSError:
            with suppress(OSError):                          # half a file, on a full disk
                temporary.unlink()
            raise
        self._unwritten.discard(name)

    def _read(self, name: str) -> str | None:
        path = self.path / name
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.error("%s cannot be read: %s", path, error)
            return None

    def __repr__(self) -> str:
        return f"RunDir({self.path}, slot {self.slot})"


_current: RunDir | None = None


def current() -> RunDir | None:
    """The run directory of this process, inherited by fork or named by ``GATEWAY_INSTANCE_DIR``; None outside an instance."""
    if _current is None and (path := os.environ.get("GATEWAY_INSTANCE_DIR")):
        return RunDir(path)
    return _current


def enter(place: RunDir | None) -> None:
    """Make ``place`` the run directory of this process and of those it starts; None: of none."""
    global _current
    _current = place
    if place is None:
        os.environ.pop("GATEWAY_INSTANCE_DIR", None)
    else:
        os.environ["GATEWAY_INSTANCE_DIR"] = str(place.path)


def start(parent: str | os.PathLike[str] | None = None, uid: int = -1, gid: int = -1) -> RunDir:
    """A new run directory for the instance whose master calls this; the process is in it from now on. Raises OSError.

    ``uid`` and ``gid`` are those the workers run as (-1: unchanged). Directories that dead instances left are removed.
    """
    parent = Path(parent or tempfile.gettempdir())
    remove_stale(parent)
    place = RunDir(parent / f"wicketgate-{os.geteuid()}-{os.urandom(6).hex()}", uid=uid, gid=gid).create()
    enter(place)
    return place


def remove_stale(parent: Path) -> None:
    """Remove the directories of this user's instances whose lock nobody holds."""
    for path in parent.glob(f"wicketgate-{os.geteuid()}-*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:                                                    # just removed by another start, or none of ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:                                            # lives
            continue
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
