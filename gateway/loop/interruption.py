"""Ending work that is not needed any more, at its next wait, and quietly."""

from __future__ import annotations

from typing import Any

from gevent import GreenletExit, get_hub, getcurrent


class Interruption(GreenletExit):
    """Thrown into a greenlet whose work is not needed any more. To the work it is like being killed."""


class Interruptible:
    """``with here: work()`` ends quietly, at the next wait of the work, when another greenlet calls ``here.interrupt()``.

    The throwing runs in the hub, between the greenlets: what has left the block is never thrown at.
    """

    def __init__(self) -> None:
        self._greenlet: Any = None

    def __enter__(self) -> None:
        self._greenlet = getcurrent()

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self._greenlet = None
        return isinstance(error, Interruption)

    def interrupt(self) -> None:
        get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._greenlet is not None:
            self._greenlet.throw(Interruption())
