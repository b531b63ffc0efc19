"""Detection of clients that disconnect: the greenlet that works for one gets ClientDisconnected where it waits, and can stop the
upstream's work.

::

    token = watch(connection.socket)         # for the calling greenlet
    try:
        ...                                  # may raise errors.ClientDisconnected at any wait
    finally:
        unwatch(token)

Watching costs a dict entry, and requests that are over soon cost no system call. One timer of the process looks, every half
second, at the sockets watched for longer than that, with one poll(2) for all of them. It runs only while something is watched. A
client that has closed its sending side counts as gone, as in nginx.

The timer and the throwing run in the hub, between the greenlets: a token taken back before is never thrown at, and no token twice.
"""

from __future__ import annotations

import itertools
import select
from typing import Any

from gevent import get_hub, getcurrent, monkey

from ..errors import ClientDisconnected

POLL = monkey.get_original("select", "poll")             # gevent's own waits; this one only asks for what is known already
HANGUP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Sweeper:
    """Watches sockets; ``interval`` is in seconds."""

    def __init__(self, interval: float = 0.5) -> None:
        self.interval = interval
        self._watches: dict[int, tuple[Any, Any, int]] = {}              # token: socket, greenlet, round in which it came
        self._tokens = itertools.count(1)
        self._round = 0
        self._timer: Any = None

    def watch(self, sock: Any) -> int:
        """Throw ClientDisconnected into the calling greenlet when the peer of ``sock`` goes away, until ``unwatch``."""
        token = next(self._tokens)
        self._watches[token] = (sock, getcurrent(), self._round)
        if self._timer is None:
            self._timer = get_hub().loop.timer(self.interval, self.interval, ref=False)
            self._timer.start(self._sweep)
        return token

    def unwatch(self, token: int) -> None:
        """Stop watching. Harmless when the token is no longer watched."""
        self._watches.pop(token, None)

    def _sweep(self) -> None:
        if not self._watches:
            self._timer.stop()
            self._timer.close()
            self._timer = None
            return
        poller = POLL()
        tokens: dict[int, list[int]] = {}                                # several greenlets may work for one client
        for token, (sock, _, since) in self._watches.items():
            if since < self._round and (fd := sock.fileno()) >= 0:
                poller.register(fd, HANGUP)
                tokens.setdefault(fd, []).append(token)
        self._round += 1
        for fd, events in poller.poll(0) if tokens else ():
            if events & HANGUP:
                for token in tokens[fd]:
                    get_hub().loop.run_callback(self._throw, token)

    def _throw(self, token: int) -> None:
        _, greenlet, _ = self._watches.pop(token, (None, None, 0))
        if greenlet is not None and not greenlet.dead:
            greenlet.throw(ClientDisconnected("the client closed the connection"))

    def __repr__(self) -> str:
        return f"Sweeper({len(self._watches)} watched, every {self.interval:g} s)"


SWEEPER = Sweeper()
watch = SWEEPER.watch
unwatch = SWEEPER.unwatch
