"""Native threads beside the event loop, for calls that block where gevent cannot help: a disk, a name server.

Each kind of wait has threads of its own (``disk_threads``, ``dns_threads``): a disk that hangs delays no lookup, nor what gevent or
others do in gevent's own threads. ``SerialThread`` runs calls in their order, beside all others.

What a call raises is raised where it is waited for, and nowhere else: gevent alone would also write it to stderr.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

from ..deadline import Deadline
from .time_limit import TimeLimit

_thread_id = monkey.get_original("_thread", "get_ident")
_allocate_lock = monkey.get_original("_thread", "allocate_lock")


class NativeThreads:
    """At most ``number`` native threads for one kind of wait. They belong to the main loop; any other loop uses those that gevent
    gives it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._pool: ThreadPool | None = None

    def run(self, function: Callable[..., Any], *args: Any, deadline: Deadline | None = None) -> Any:
        """``function(*args)``, waited for until ``deadline``, whose error is raised then; the thread goes on until it is done."""
        if deadline is None:
            return call_in(self.pool(), function, args)
        with TimeLimit(deadline.left(), deadline.over()):
            return call_in(self.pool(), function, args)

    def pool(self) -> ThreadPool:
        hub = gevent.get_hub()
        if not hub.main_hub:
            return hub.threadpool
        if self._pool is None or self._pool.hub is not hub:
            self._pool = ThreadPool(self.number, hub=hub)
        return self._pool

    def __repr__(self) -> str:
        return f"NativeThreads({self.number})"


class SerialThread:
    """One native thread, for calls that may block and have to happen in order. It begins with the first ``run``."""

    __slots__ = ("_pool", "_owner")

    def __init__(self) -> None:
        self._pool: ThreadPool | None = None
        self._owner = native_thread()                    # the only native thread whose loop is sure to go on

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)`` when it is its turn, waited for. In another native thread than the owner's it runs at once, there."""
        if native_thread() != self._owner:
            return function(*args)
        if self._pool is None:
            self._pool = ThreadPool(1)
        return call_in(self._pool, function, args)

    def stop(self, seconds: float) -> bool:
        """End it when its calls are done, within that time; whether it has ended. One that hangs is left behind."""
        pool, self._pool = self._pool, None
        if pool is None:
            return True
        with gevent.Timeout(seconds, False):
            pool.kill()
            return True
        return False


def call_in(pool: ThreadPool, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """``function(*args)`` in a thread of ``pool``, waited for."""
    result, error = pool.apply(outcome, (function, args))
    if error is None:
        return result
    try:
        raise error
    finally:
        del error                                        # its traceback refers to this frame


def outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """What a function returns, or else the error that it raises."""
    try:
        return function(*args), None
    except Exception as error:
        return None, error


disk_threads = NativeThreads(10)
dns_threads = NativeThreads(32)
run_in_thread = disk_threads.run                         # for a disk, and for work that would hold up the loop


def native_thread() -> int:
    """Which operating system thread this is, the same for all its greenlets."""
    return _thread_id()


def native_lock() -> Any:
    """A lock between native threads. Hold it for some lines that do not wait: it stops the loop of whoever waits for it."""
    return _allocate_lock()


def event_loop() -> gevent.hub.Hub:
    """The loop of this native thread. Sockets, and whatever else waits, belong to one and are useless under another."""
    return gevent.get_hub()
