"""The idle connections of a worker, and the end of those that are idle for too long.

Only while it waits can a connection be dismissed: because it has waited ``keepalive`` seconds, because its place is needed, or
because the worker drains. Dismissing runs in the hub, between the greenlets, and looks first: a connection whose next request has
begun to arrive is not idle any more, whether its greenlet has noticed or not.
"""

from __future__ import annotations

from gevent import get_hub

from ..loop.monotonic_clock import CLOCK, MonotonicClock
from .client_socket import Client


class Dismissal(BaseException):
    """Thrown into the greenlet of a connection that waits for a request: it is to end now."""


class WaitingClients(dict[Client, None]):
    """The clients that wait for a request, the longest first."""

    def __init__(self, clock: MonotonicClock = CLOCK) -> None:
        super().__init__()
        self.clock = clock

    def enter(self, client: Client) -> None:
        client.since = self.clock.now()
        self[client] = None

    def leave(self, client: Client) -> None:
        del self[client]

    def dismiss_idle(self, fresh: bool = False) -> None:
        """End those of whose next request nothing has come. ``fresh``: also those that never had one."""
        for client in self:
            if not client.mid_head and (client.request_count or fresh):
                get_hub().loop.run_callback(self._dismiss, client, client.since, False)

    def dismiss_longest(self) -> bool:
        """End the one that has been idle for longest; whether there is one."""
        for client in self:
            if not client.mid_head and client.quiet():
                get_hub().loop.run_callback(self._dismiss, client, client.since, False)
                return True
        return False

    def dismiss_overdue(self, seconds: float) -> None:
        """End those that have waited for ``seconds``, for all of a head or the rest of it."""
        before = self.clock.now() - seconds
        for client in self:
            if client.since > before:
                return
            get_hub().loop.run_callback(self._dismiss, client, client.since, True)

    def _dismiss(self, client: Client, since: float, overdue: bool) -> None:
        """In the hub: end the wait that began at ``since``, if it still goes on. One with half a head only when it is overdue."""
        if client in self and client.since == since and (overdue if client.mid_head else client.quiet()):
            client.greenlet.throw(Dismissal())

    def __repr__(self) -> str:
        return f"WaitingClients({len(self)} clients)"
