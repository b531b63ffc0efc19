"""The demo's child processes: started, watched, and ended together.

Each child has a session of its own, so that Ctrl-C reaches the demo alone and the children are stopped in order: last started,
first stopped. On Linux the kernel ends them when the demo is gone without having been able to, even by SIGKILL. What a child
prints goes to a file, whose end is shown when it dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1                        # prctl(2)
GRACE = 10.0                                # seconds


class ChildDied(Exception):
    """A child ended by itself. The text names it and ends with the last lines it printed."""


class ChildProcess:
    """A running process. ``name`` is for people; ``log`` is the file that its output goes to."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, *, cwd: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output,
                                            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=ended_with(os.getpid()))

    def check(self) -> None:
        """Raises ChildDied when the process has ended."""
        status = self.process.poll()
        if status is not None:
            how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
            raise ChildDied(f"{self.name} ended ({how}). The last lines of its output:\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace").rstrip().splitlines()[-lines:]
        return "\n".join(f"    {line}" for line in text) or "    (nothing)"

    def __repr__(self) -> str:
        return f"ChildProcess({self.name}, pid {self.process.pid})"


class Children:
    """All children. ``folder`` is where they run and where their output goes, ``env`` their environment, ``grace`` the seconds
    from SIGTERM to SIGKILL."""

    def __init__(self, folder: Path, env: Mapping[str, str], grace: float = GRACE) -> None:
        self.folder = folder
        self.env = env
        self.grace = grace
        self.children: list[ChildProcess] = []

    def start(self, name: str, command: Sequence[str | Path], *, cwd: Path | None = None,
              env: Mapping[str, str] | None = None) -> ChildProcess:
        log = self.folder / f"{name.replace(' ', '-')}.log"
        child = ChildProcess(name, command, log, cwd=cwd or self.folder, env={**self.env, **(env or {})})
        self.children.append(child)
        return child

    def check(self) -> None:
        for child in self.children:
            child.check()

    def stop(self) -> None:
        """End every child, in reverse order of their start; one that does not end within ``grace`` seconds is killed."""
        deadline = time.monotonic() + self.grace
        for child in reversed(self.children):
            if child.process.poll() is None:
                child.process.terminate()
        for child in reversed(self.children):
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.children.clear()


def ended_with(parent: int) -> Callable[[], None] | None:
    """What a new child runs before its program: have the kernel send it SIGTERM when ``parent`` ends. None where that is not
    supported."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:              # it ended before we could ask
            os._exit(1)

    return ask
