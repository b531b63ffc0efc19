"""A selector for asyncio, made of the watchers of the gevent hub; and asyncio's queue of callbacks, given out a few at a time.

``select`` is where a loop lets others run. A loop that always has something to do would never wait there, and one that does so for
every callback would be slow: it goes on for ``turn`` seconds before the hub has its turn.

A watcher is level-triggered: while the loop is held up in a callback (a blocking call), a ready descriptor fires in every turn of
the hub. So a watcher that fires once more before ``select`` has reported it is stopped until the next ``select``.
"""

from __future__ import annotations

import selectors
from collections import deque
from time import perf_counter
from typing import Any

import gevent.os
from gevent.hub import Waiter

TURN = 0.001                                             # seconds
FEW, MOST = 8, 64                                        # callbacks in a row: at first, and when they are quick
# Descriptors that a patched os.close has still to close, after the hub's next poll (gevent 25.8.1 and later).
CLOSING: Any = getattr(gevent.os, "_closing_fd_to_event", ())


class ReadyQueue(deque[Any]):
    """The callbacks that are ready. asyncio runs as many in a row as it has length: a hundred of 5 ms would hold the hub for half a
    second. So it says that it has at most ``few``, which become fewer when a turn takes too long. ``is_cut``: it said less than it
    has. ``is_whole``: it says all."""

    few = FEW
    is_cut = is_whole = False

    def __len__(self) -> int:
        length = super().__len__()
        self.is_cut = length > self.few and not self.is_whole
        return self.few if self.is_cut else length

    def adapt(self, seconds: float, turn: float) -> None:
        """The loop has gone on for so long, and should for a ``turn``."""
        if seconds > 2 * turn:
            self.few = max(1, self.few // 8)
        elif self.few < MOST:
            self.few *= 2


SelectorBase: Any = getattr(selectors, "_BaseSelectorImpl")


class HubSelector(SelectorBase):
    """For one loop, in the native thread of ``hub``. A ``turn`` of 0 is asyncio's own way: all callbacks, then others."""

    def __init__(self, hub: Any, ready: ReadyQueue, turn: float = TURN) -> None:
        super().__init__()
        self._hub = hub
        self._ready = ready
        self._turn = turn
        self._watchers: dict[int, Any] = {}              # by descriptor
        self._fired: dict[int, int] = {}                 # descriptor: events that select has still to report
        self._stopped: list[tuple[int, Any]] = []
        self._waiter: Any = None                         # of the loop's greenlet, while it waits in select
        self._since = 0.0                                # when the hub had its last turn

    @property
    def is_waiting(self) -> bool:
        """Does the loop wait for something to do? While it is False, it runs a callback, or that one waits."""
        return self._waiter is not None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        watcher = self._watchers[key.fd] = self._hub.loop.io(key.fd, key.events)     # libev has the same bits for them
        self._start(key.fd, watcher)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        watcher = self._watchers.pop(key.fd)
        watcher.stop()
        watcher.close()
        self._fired.pop(key.fd, None)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self.get_key(fileobj)
        if key.events != events:
            self.unregister(fileobj)
            return self.register(fileobj, events, data)
        key = self._fd_to_key[key.fd] = key._replace(data=data)                      # the watcher can stay
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        for fd, watcher in self._stopped:
            if self._watchers.get(fd) is watcher:
                self._start(fd, watcher)
        self._stopped.clear()
        took = perf_counter() - self._since
        if self._turn:
            self._ready.adapt(took, self._turn)
        if not self._fired:
            if timeout == 0 and took < self._turn:
                return []
            self._wait(0 if CLOSING else timeout)        # else a pipe that was closed so would not bring its end
            self._since = perf_counter()
        fired, self._fired = self._fired, {}
        keys = self._fd_to_key
        return [(keys[fd], events & keys[fd].events) for fd, events in fired.items() if fd in keys]

    def _wait(self, timeout: float | None) -> None:
        waiter = self._waiter = Waiter(self._hub)
        timer = None
        if timeout is not None:
            # Also for 0: the hub runs up to a thousand callbacks in a row before it looks at the sockets again. What is ready in
            # the same turn goes first.
            timer = self._hub.loop.timer(max(0.0, timeout), priority=-1)
            timer.start(self.wake, update=True)
        try:
            waiter.get()
        finally:
            self._waiter = None
            if timer is not None:
                timer.close()

    def wake(self) -> None:
        """In the hub: the loop goes on, if it waits."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.switch(None)

    def poke(self) -> None:
        """As ``wake``, from any greenlet of this native thread."""
        if self._waiter is not None:
            self._hub.loop.run_callback(self._wake, self._waiter)

    def _wake(self, waiter: Any) -> None:
        """In the hub. The wait may have ended otherwise meanwhile, and another one begun."""
        if waiter is self._waiter:
            self.wake()

    def _start(self, fd: int, watcher: Any) -> None:
        watcher.start(self._on_ready, fd, watcher, pass_events=True)

    def _on_ready(self, events: int, fd: int, watcher: Any) -> None:
        """In the hub."""
        if fd in self._fired:
            self._fired[fd] |= events
            watcher.stop()
            self._stopped.append((fd, watcher))
        else:
            self._fired[fd] = events
            self.poke()                                  # at the end of the turn, with all that is ready

    def close(self) -> None:
        for watcher in self._watchers.values():
            watcher.stop()
            watcher.close()
        self._watchers.clear()
        self._stopped.clear()
        super().close()
