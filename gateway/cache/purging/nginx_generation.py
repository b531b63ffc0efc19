"""Purges the cache of nginx in front (``edge``) by a generation in its cache key.

Stock nginx cannot purge on demand. But it resolves a symbolic link for each request (``$realpath_root``), and the configuration of
``gateway nginx`` has that path in the cache key. The link leads to an empty folder beside it; a step replaces it by one to a new
folder, whose name is never used again. After that nginx finds nothing that it has cached, and stores responses to earlier requests
under the old name.

Each worker makes a step when it is notified of a purge, one for all purges that arrive together. Requests that nginx sends to a
worker after that worker's step get answers from after the purge, and answers from before are not found after it: so after the last
worker's step nginx serves nothing older than the purge. An instance on another machine, whose steps are for the nginx there, is
notified within a second: one more step, SETTLED seconds later, invalidates what this nginx got from it meanwhile.

Only explicit purges make a step. Invalidation by unsafe requests does not: each POST would empty the whole cache of nginx.

nginx needs only permission to enter the folder. Without the generation it caches nothing, and logs that.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...bus.clock import BUS_CLOCK
from ...bus.notice import Notice
from ...loop.monotonic_clock import CLOCK, MonotonicClock
from ...loop.native_threads import run_in_thread
from ...tasks import spawn_apart

TOPIC = "edge"
SETTLE_TIME = 2.0               # seconds
SWEPT = 60.0                    # seconds after which nobody is still looking at an old one
NAME = re.compile(r"\.?([0-9a-f]+)-[0-9]+")

log = logging.getLogger("gateway")


def edge_notice(at: float) -> Notice:
    """The notice behind a purge, which causes a step in other workers."""
    return Notice(TOPIC, "", None, False, at)


class Generation:
    """The generation of nginx's cache, at ``link``. ``advance`` makes the step for a purge of this worker, ``hear`` that for one of
    another. ``can_step``: the last step succeeded."""

    def __init__(self, link: str | os.PathLike[str], settle_time: float = SETTLE_TIME, timer: MonotonicClock = CLOCK,
                 clock: Callable[[], float] = BUS_CLOCK.now) -> None:
        self.link = Path(link)
        self.folder = self.link.parent
        self.settle_time = settle_time
        self.timer = timer
        self.clock = clock
        self.can_step = True
        self._began = self._until = self._sweep_at = 0.0
        self._soon: Any = None
        self._last: Any = None

    def start(self) -> None:
        """Create the folder and the link; without them nginx caches nothing."""
        self._began = self.clock()
        try:
            run_in_thread(self._make_folder)
        except Exception as error:
            log.error("nginx keeps nothing: there is no folder for its generation: %s", error)
            return
        if not run_in_thread(os.path.exists, self.link):       # nor where what it led to was tidied away
            self.step()

    def _make_folder(self) -> None:
        """Create the folder and its parents, with permission to enter for all users, as nginx runs as another one."""
        for folder in [each for each in (self.folder, *self.folder.parents) if not each.exists()][::-1]:
            with suppress(FileExistsError):              # another worker has made it
                folder.mkdir()
                folder.chmod(0o755)

    def advance(self) -> Any:
        """Start a step and return its greenlet, whose value is whether it succeeded. Concurrent purges share one."""
        self._settle()
        return self._next()

    def hear(self, notice: Notice) -> None:
        """Make a step after all notices that arrive together. None is needed for a purge from before the start of this worker,
        which never served without it, if another worker has made one."""
        if notice.at <= self._began and notice.at <= run_in_thread(self.since):
            return
        self._next()
        self._settle()

    def _next(self) -> Any:
        """The greenlet of the next step, which follows everything that was delivered until now."""
        if self._soon is None or self._soon.dead:
            self._soon = spawn_apart(self.step)
        return self._soon

    def _settle(self) -> None:
        self._until = self.timer.now() + self.settle_time
        if self._last is None or self._last.dead:
            self._last = spawn_apart(self._at_last)

    def _at_last(self) -> None:
        while (left := self._until - self.timer.now()) > 0:
            self.timer.sleep(left)
        self.step()

    def since(self) -> float:
        """The time of the last step; 0 when there was none, or it is unknown."""
        try:
            match = NAME.fullmatch(os.readlink(self.link))
        except OSError:
            return 0.0
        moment = int(match[1], 16) / 1e9 if match is not None else 0.0
        return moment if moment <= self.clock() else 0.0        # by a clock that was stepped since

    def step(self) -> bool:
        """Make a step, in a native thread as the disk may hang; returns whether it succeeded."""
        try:
            run_in_thread(self._make)
            self.can_step = True
        except Exception as error:
            log.error("purges do not reach nginx: %s", error)
            self.can_step = False
        if self._sweep_at <= self.timer.now():
            self._sweep_at = self.timer.now() + SWEPT
            spawn_apart(self._tidy)
        return self.can_step

    def _make(self) -> None:
        name = f"{int(self.clock() * 1e9):x}-{os.getpid()}"
        temporary = self.folder / f".{name}"
        (self.folder / name).mkdir()
        temporary.symlink_to(name)
        temporary.replace(self.link)

    def _tidy(self) -> None:
        """Remove old generations in the background: there may be thousands."""
        try:
            run_in_thread(self._sweep)
        except Exception as error:
            log.error("old generations of nginx stay: %s", error)

    def _sweep(self) -> None:
        """Remove folders that have not been current for SWEPT seconds."""
        current, oldest = os.readlink(self.link), (self.clock() - SWEPT) * 1e9
        for name in os.listdir(self.folder):
            if (match := NAME.fullmatch(name)) and name != current and int(match[1], 16) < oldest:
                with suppress(OSError):                  # another worker has done it
                    (os.unlink if name.startswith(".") else os.rmdir)(self.folder / name)

    def stop(self) -> None:
        for greenlet in (self._soon, self._last):
            if greenlet is not None:
                greenlet.kill()

    def __repr__(self) -> str:
        return f"Generation({self.link})"
