"""What the processes of one instance (a Gunicorn master and its workers) know of each other: files in one private directory.

``<parent>/greengate-<uid>-<random>/``, mode 0700; the parent is ``GATEWAY_RUN_DIR`` or the system's temporary directory::

    worker.<slot>    "<pid> <state>" of the worker in that slot
    config           the text of the last configuration that was valid
    problems         JSON list: what is wrong with the configuration file now
    metrics.<slot>   written by telemetry; they outlive their worker, so that the next one in the slot counts on

Slots are small integers the master gives out, the lowest free one first; a slot is free again when its worker was reaped, so
the workers of an old and a new generation never share one. States of a worker::

    starting --> serving --> draining                told to end, or has nobody to wait for
        |           |
        |           +--> leaving  --> draining       told to end; serves on until its successor does
        |           +--> retiring --> draining       max_requests; the same, and the master counts it out already
        +--> failed                                  could not start; those that serve go on

Every write is a temporary file and a rename: a reader sees the old or the new, never half. The directory is locked (flock(2)) as
long as any process of the instance lives. So those of instances that died are found and removed when a new one starts, which
pids, being reused, would not allow; and systemd-tmpfiles leaves a locked directory alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

ACCEPTING = frozenset({"serving", "leaving", "retiring"})
STATES = ACCEPTING | {"starting", "draining", "failed"}
FAILED = 0.5                    # seconds after which a failed worker counts: one that was told to end says so until then


class Worker(NamedTuple):
    pid: int
    state: str


class RunDir:
    """The directory at ``path``, seen from the worker in ``slot``."""

    def __init__(self, path: str | os.PathLike[str], slot: int = 0) -> None:
        self.path = Path(path)
        self.slot = slot
        self._taken: set[int] = set()
        self._lock: int | None = None

    def create(self) -> RunDir:
        """Make the directory, readable by its owner only, and hold its lock until every process that inherited it has ended."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def remove(self) -> None:
        """Delete everything; the instance has ended."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # Slots: only the master gives and frees them.

    def take_slot(self) -> int:
        """The lowest free slot, for a worker about to be forked. It counts as starting from now on."""
        slot = 0
        while slot in self._taken:
            slot += 1
        self._taken.add(slot)
        self._write(f"worker.{slot}", f"{os.getpid()} starting")         # the worker puts its own pid there
        return slot

    def free_slot(self, slot: int) -> None:
        """The worker in ``slot`` was reaped. Its metrics stay."""
        self._taken.discard(slot)
        (self.path / f"worker.{slot}").unlink(missing_ok=True)

    # States: a worker writes its own and reads those of the others.

    def set_state(self, state: str) -> None:
        """Say what the calling process, the worker in ``slot``, does. Raises ValueError for a state that does not exist."""
        if state not in STATES:
            raise ValueError(f"{state!r} is none of {', '.join(sorted(STATES))}")
        self._write(f"worker.{self.slot}", f"{os.getpid()} {state}")

    def states(self) -> dict[int, Worker]:
        """``slot: (pid, state)`` of the workers that live, by slot."""
        found = {}
        for entry in self.path.glob("worker.*"):
            words = (self._read(entry.name) or "").split()
            if len(words) == 2 and alive(int(words[0])):
                found[int(entry.name.partition(".")[2])] = Worker(int(words[0]), words[1])
        return dict(sorted(found.items()))

    def others(self) -> dict[int, str]:
        """Pid and state of the other workers that live."""
        return {worker.pid: worker.state for slot, worker in self.states().items() if slot != self.slot}

    def serves_without_me(self) -> bool:
        """Does another worker take new connections?"""
        return not ACCEPTING.isdisjoint(self.others().values())

    def ready(self) -> bool:
        """Does any worker take new connections?"""
        return any(worker.state in ACCEPTING for worker in self.states().values())

    # Configuration: the last one that was valid, and what is wrong with the present file.

    def offer_config(self, text: str) -> None:
        """What the master has read: workers use this, so that a file being edited is not live before HUP."""
        self._write("offered", text)

    def offered_config(self) -> str | None:
        return self._read("offered")

    def keep_config(self, text: str) -> None:
        """What a worker has made an application of."""
        self._write("config", text)

    def kept_config(self) -> str | None:
        return self._read("config")

    def report_config(self, problems: list[str]) -> None:
        """What is wrong with the configuration file; an empty list: nothing."""
        self._write("problems", json.dumps(problems))

    def config_problems(self) -> list[str]:
        return json.loads(self._read("problems") or "[]")

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)

    def _read(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def __repr__(self) -> str:
        return f"RunDir({self.path}, slot {self.slot})"


class Succession:
    """When may a worker that is to leave do so? ``others`` are those there are when it begins to ask.

    Told to end, it goes as soon as nobody is starting: then its successors serve, or none were coming. Going by itself, it waits
    for one that was not there before. A successor that failed, and was not itself told to end, is a broken deployment: it stays.
    """

    def __init__(self, others: dict[int, str]) -> None:
        self._known = others.keys()
        self._failed_at = 0.0

    def may_leave(self, others: dict[int, str], told: bool, now: float) -> bool | None:
        """True: leave. False: stay for good. None: not known yet. ``now`` is in seconds."""
        states = set(others.values())
        if told and not states & {"starting", "failed"}:
            return True
        if not told and any(pid not in self._known and state in ACCEPTING for pid, state in others.items()):
            return True
        if "failed" not in states or "starting" in states:
            self._failed_at = 0.0
            return None
        self._failed_at = self._failed_at or now
        return False if now > self._failed_at + FAILED else None


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
    """A new run directory for the instance whose master calls this; the process is in it from now on.

    ``uid`` and ``gid`` are those the workers run as (-1: unchanged). Directories that dead instances left are removed.
    """
    parent = Path(parent or tempfile.gettempdir())
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_stale(parent)
    hidden = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))            # nobody takes it for stale before it is locked
    place = RunDir(hidden).create()
    if (uid, gid) != (-1, -1):
        os.chown(hidden, uid, gid)
    place.path = parent / f"greengate-{os.geteuid()}-{hidden.name[5:]}"
    hidden.rename(place.path)
    enter(place)
    return place


def remove_stale(parent: Path) -> None:
    """Remove the directories of this user's instances whose lock nobody holds."""
    for path in parent.glob(f"greengate-{os.geteuid()}-*"):
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


def alive(pid: int) -> bool:
    """Is there a process ``pid``?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
