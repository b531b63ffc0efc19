"""A timer of the event loop that does not keep the loop alive. While it is set, the loop keeps alive whom it calls; otherwise it
refers to nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import get_hub


class Alarm:
    """Calls a function in the hub; it must not wait there, and stops the alarm."""

    __slots__ = ("is_set", "_timer")

    def __init__(self) -> None:
        self._timer: Any = None
        self.is_set = False

    def set(self, seconds: float, function: Callable[[], None]) -> None:
        """Call ``function`` in ``seconds``, unless the alarm is set already."""
        if not self.is_set:
            self.is_set = True
            self._timer = get_hub().loop.timer(max(0.0, seconds), ref=False)
            self._timer.start(function, update=True)

    def stop(self) -> None:
        if self.is_set:
            self.is_set = False
            self._timer.close()
