"""How a purge reaches what nginx in front keeps (``edge``): by the generation in the key of all that it keeps.

Stock nginx forgets nothing on demand. But it sees where a symbolic link leads (``$realpath_root``), anew for each request, and what
``gateway nginx`` renders has that in the key. So there is a link to an empty folder beside it, and a step makes it one to another
folder, of a name that never was and never comes again: nothing that nginx has kept is found any more, and the answers to what it
has asked before are kept under the old name.

Each worker makes a step when it has heard of a purge, one for all that it hears of at the same time. What nginx asks a worker
after that worker's step is answered as the purge wants it, and what it asked before is not found any more after it: so after the
last step nothing older than the purge is found. An instance on another machine, whose steps are for the nginx there, hears of it
within a second: one more step, SETTLED seconds later, is for what this nginx got from it meanwhile.

Steps are for purges that somebody asks for, not for what unsafe requests make invalid: each POST would empty all that nginx keeps.

nginx needs no right but to enter the folder. Where it does not see the generation it keeps nothing, and says so in its log.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...bus.clock import now
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
    """What the generations of other workers hear behind a purge."""
    return Notice(TOPIC, "", None, False, at)


class Generation:
    """What nginx keeps, by ``link``. ``advance`` makes the step for a purge made here, ``hear`` for one made elsewhere.
    ``can_step``: the last step could be made."""

    def __init__(self, link: str | os.PathLike[str], settle_time: float = SETTLE_TIME, timer: MonotonicClock = CLOCK) -> None:
        self.link = Path(link)
        self.folder = self.link.parent
        self.settle_time = settle_time
        self.timer = timer
        self.can_step = True
        self._began = self._until = self._sweep_at = 0.0
        self._soon: Any = None
        self._last: Any = None

    def start(self) -> None:
        """There is a generation from now on, else nginx keeps nothing."""
        self._began = now()
        try:
            run_in_thread(self._make_folder)
        except Exception as error:
            log.error("nginx keeps nothing: there is no folder for its generation: %s", error)
            return
        if not run_in_thread(os.path.exists, self.link):       # nor where what it led to was tidied away
            self.step()

    def _make_folder(self) -> None:
        """With all above it; what is made here can be entered whatever the umask, since nginx has a user of its own."""
        for folder in [each for each in (self.folder, *self.folder.parents) if not each.exists()][::-1]:
            with suppress(FileExistsError):              # another worker has made it
                folder.mkdir()
                folder.chmod(0o755)

    def advance(self) -> Any:
        """Begin a step; its greenlet, which is the same for all purges made at the same time, and whose value is whether it could
        be made."""
        self._settle()
        return self._next()

    def hear(self, notice: Notice) -> None:
        """A step, when all is known that was heard at the same time. A purge from before this worker began needs only the step of
        others: this one has answered nothing without knowing it."""
        if notice.at <= self._began and notice.at <= run_in_thread(self.since):
            return
        self._next()
        self._settle()

    def _next(self) -> Any:
        """The step that is about to be made: everything that is known now goes before it."""
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
        """When the last step was made; 0 when there was none, or nobody knows."""
        try:
            match = NAME.fullmatch(os.readlink(self.link))
        except OSError:
            return 0.0
        moment = int(match[1], 16) / 1e9 if match is not None else 0.0
        return moment if moment <= now() else 0.0        # by a clock that was stepped since

    def step(self) -> bool:
        """In a native thread, as is whatever else touches the disk: that may hang."""
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
        name = f"{int(now() * 1e9):x}-{os.getpid()}"
        temporary = self.folder / f".{name}"
        (self.folder / name).mkdir()
        temporary.symlink_to(name)
        temporary.replace(self.link)

    def _tidy(self) -> None:
        """Beside the requests: there may be thousands, and a disk takes its time."""
        try:
            run_in_thread(self._sweep)
        except Exception as error:
            log.error("old generations of nginx stay: %s", error)

    def _sweep(self) -> None:
        """Remove what nobody can be looking at any more, but not what is current."""
        current, oldest = os.readlink(self.link), (now() - SWEPT) * 1e9
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
