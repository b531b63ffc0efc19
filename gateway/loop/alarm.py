"""A timer of the event loop that keeps nothing alive: neither the loop nor whom it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

from gevent import get_hub


class Alarm:
    """Calls ``method``, a bound one, in the hub; it must not wait there."""

    __slots__ = ("is_set", "_method", "_timer")

    def __init__(self, method: Callable[[], None]) -> None:
        self._method = WeakMethod(method)
        self._timer: Any = None
        self.is_set = False

    def set(self, seconds: float) -> None:
        """Ring in ``seconds``, unless it is set already."""
        if not self.is_set:
            self.is_set = True
            self._timer = get_hub().loop.timer(max(0.0, seconds), ref=False)
            self._timer.start(_ring, self._method, update=True)

    def stop(self) -> None:
        if self.is_set:
            self.is_set = False
            self._timer.close()


def _ring(method: WeakMethod[Callable[[], None]]) -> None:
    ring = method()
    if ring is not None:
        ring()
