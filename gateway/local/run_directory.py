"""The run directory: files and state shared by the processes of one instance (a Gunicorn master and its workers).

**Shared memory** (shared_memory.py) has the worker of each slot with its state (``Board``), and the metrics of each slot: they
outlive the worker, and the next one in the slot continues to count. **Files** are in one private directory,
``<parent>/wicketgate-<uid>-<random>/``, mode 0700; the parent is ``GATEWAY_RUN_DIR`` or the system's temporary directory::

    workers    a link to the shared memory, for processes outside the instance
    offered    the text of the configuration that the master has read
    config     the text of the last valid configuration
    problems   JSON list: the mistakes in the configuration file now

Slots are small integers that the master assigns, the lowest free one first. A slot is free again when its worker was reaped, so
workers of an old and a new generation never share one. States of a worker::

    starting --> serving --> draining                told to end, and no successor is to be waited for
        |           |
        |           +--> leaving  --> draining       told to end; serves until its successor does
        |           +--> retiring --> draining       reached max_requests; the same, but the master no longer counts it
        +--> failed                                  could not start; workers that serve are not affected

**The directory may be lost at any time**: deleted by a cleaner, replaced, on a full or read-only disk. After the start no operation
on it raises OSError: a file that cannot be read counts as missing, one that cannot be written is logged and kept in memory, and
``mend``, called every second, restores the directory and its files. No worker needs the disk to live and serve.

Files are written by a temporary file and a rename: a reader sees the old or the new content, never a part. The directory is locked
(flock(2)) as long as any process of the instance lives. By that lock the next start finds and removes directories of dead
instances, where pids would mislead, as they are reused; and systemd-tmpfiles does not touch a locked directory.
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
    """The directory at ``path``, for the worker in ``slot``. ``uid`` and ``gid`` are those of its owner (-1: this process's)."""

    def __init__(self, path: str | os.PathLike[str], slot: int = 0, uid: int = -1, gid: int = -1) -> None:
        self.path = Path(path)
        self.slot = slot
        self._owner = uid, gid
        self._master = 0                                     # the pid of the process that makes the directory
        self._slots: set[int] = set()
        self._lock: int | None = None
        self._memory: SharedMemory | None = None
        self._board: Board | None = None
        self._state = ""                                     # of this process, once it is a worker
        self._own: dict[str, str] = {}                       # the files that this process writes
        self._unwritten: set[str] = set()                    # those of them that are not yet as they should be
        self._offer: str | None = None
        self._trouble = ""
        self._aside: set[str] = set()                        # what was no file where one belongs

    def create(self) -> RunDir:
        """Create the directory, accessible to its owner only, with a lock that is held until the last process that inherits it has
        ended. Raises OSError."""
        self._master = os.getpid()
        self._use(SharedMemory.make())
        self._make()
        return self

    def _make(self) -> None:
        """Create the directory under a hidden name, lock it, then rename it: so no process takes it for stale before it is locked.
        Raises OSError."""
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
            elif self.path.is_dir():                         # created meanwhile, not by this instance
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
        """Use ``memory`` for the board, and return that. Raises ValueError when the memory is not an instance's."""
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
        """Delete the directory, and release its lock: the instance has ended."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # Recovery

    def mend(self) -> None:
        """Restore what is lost: the master the directory, every process the files that it has written. Never raises OSError."""
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
        status = os.stat(self.path, follow_symlinks=False) if os.path.lexists(self.path) else None
        if status is None or not os.path.samestat(status, os.fstat(self._lock)):
            self._make()
            self._board.count_repairs(1)
            log.error("the run directory %s was lost, and has been made again", self.path)
        elif stat.S_IMODE(status.st_mode) & 0o700 != 0o700:
            os.chmod(self.path, 0o700)
        if not self._is_linked():
            self._link(self.path)
        aside = move_all_aside(self.path, but="workers")
        self._board.count_repairs(len(aside - self._aside))  # including those that a worker has moved
        self._aside = aside

    def _complain(self, trouble: str) -> None:
        """Log ``trouble`` when it is new, and publish on the board whether there is any."""
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
        """How often the directory was restored, or something that is no file was moved aside."""
        board = self._attach()
        return board.repairs if board is not None else 0

    @property
    def usable(self) -> bool:
        """Can all processes of the instance read and write their files?"""
        board = self._attach()
        return board is None or not board.trouble()

    # Slots: only the master assigns and frees them.

    def take_slot(self) -> int:
        """Assign the lowest free slot to a worker about to be forked, with the state ``starting``."""
        slot = 0
        while slot in self._slots:
            slot += 1
        self._slots.add(slot)
        self.board.put(slot, os.getpid(), "starting")        # the worker puts its own pid there
        return slot

    def free_slot(self, slot: int) -> None:
        """Free the slot of a worker that was reaped. The slot's metrics stay."""
        self._slots.discard(slot)
        self.board.clear(slot)

    def free_others(self, used: set[int]) -> None:
        """Free the slots that are not ``used``: their workers could not be forked."""
        for slot in self._slots - used:
            self.free_slot(slot)

    def enter_slot(self, slot: int) -> None:
        """Take ``slot`` in a worker just forked, with the state ``starting``. Only the master restores the master's files."""
        self.slot, self._own, self._unwritten, self._trouble = slot, {}, set(), ""
        self.set_state("starting")

    # States: a worker publishes its own and reads those of the others.

    @property
    def board(self) -> Board:
        """The board of the workers' states. Outside an instance, memory is created for it. Raises OSError."""
        board = self._attach()
        if board is None:
            board = self._use(SharedMemory.make())
            self._link(self.path)
        return board

    @property
    def memory(self) -> SharedMemory:
        """The shared memory of the instance. Outside an instance it is created. Raises OSError."""
        self.board
        assert self._memory is not None
        return self._memory

    def _attach(self) -> Board | None:
        """The board in inherited memory, else in the memory that the directory links to; None when there is neither."""
        if self._board is None:
            try:
                return self._use(SharedMemory.at(self.path / "workers"))
            except (OSError, ValueError):                    # no instance, or it has ended
                return None
        return self._board

    def adopt(self) -> None:
        """Link to the shared memory through this process: the master, through which the link led, has died."""
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
        """The live workers by slot."""
        board = self._attach()
        return board.workers() if board is not None else {}

    def other_workers(self) -> dict[int, str]:
        """The states of the other live workers by pid."""
        return {worker.pid: worker.state for slot, worker in self.states().items() if slot != self.slot}

    def serves_without_me(self) -> bool:
        """Does another worker accept new connections?"""
        return not ACCEPTING.isdisjoint(self.other_workers().values())

    def has_served(self) -> bool:
        """Has any worker of the instance ever accepted connections?"""
        board = self._attach()
        return board is not None and board.has_served

    def ready(self) -> bool:
        """Does any worker accept new connections?"""
        return any(worker.state in ACCEPTING for worker in self.states().values())

    # Configuration: the last valid one, and the mistakes in the present file.

    def offer_config(self, text: str) -> None:
        """Publish the configuration that the master has read. Workers use this text, so that an edit of the file takes effect with
        HUP only. Forked workers inherit it in memory."""
        self._offer = text
        self._write("offered", text)

    def offered_config(self) -> str | None:
        return self._offer if self._offer is not None else self._read("offered")

    def keep_config(self, text: str) -> None:
        """Store the configuration with which a worker has started as the last valid one."""
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
        """Write a file now, or when that fails, with a later ``mend``."""
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
            with suppress(OSError):                          # an incomplete file, on a full disk
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


def enter(run_dir: RunDir | None) -> None:
    """Make ``run_dir`` the run directory of this process and of those it starts; None: of none."""
    global _current
    _current = run_dir
    if run_dir is None:
        os.environ.pop("GATEWAY_INSTANCE_DIR", None)
    else:
        os.environ["GATEWAY_INSTANCE_DIR"] = str(run_dir.path)


def start(parent: str | os.PathLike[str] | None = None, uid: int = -1, gid: int = -1) -> RunDir:
    """Create the run directory of an instance, in its master, and make it that of this process. Raises OSError.

    ``uid`` and ``gid`` are those the workers run as (-1: unchanged). Directories of dead instances are removed.
    """
    parent = Path(parent or tempfile.gettempdir())
    remove_stale(parent)
    run_dir = RunDir(parent / f"wicketgate-{os.geteuid()}-{os.urandom(6).hex()}", uid=uid, gid=gid).create()
    enter(run_dir)
    return run_dir


def remove_stale(parent: Path) -> None:
    """Remove this user's run directories whose lock no process holds."""
    for path in parent.glob(f"wicketgate-{os.geteuid()}-*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:                                                    # just removed by another start, or not a directory
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:                                            # the instance lives
            continue
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
