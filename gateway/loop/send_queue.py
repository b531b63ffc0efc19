"""The queue of sends of one turn of the event loop, which go out together, at its end.

A send wakes whoever waits at the other end of the connection, which on one machine takes longer than the sending; of many in a row
all but the first find it awake. So small heads and answers are posted: a tenth of what a proxied request costs. They wait until
all that is ready was looked at, or MOST of them wait: as long as it would take to serve them in the other order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.hub import get_hub

MOST = 32
LARGEST = 16384                                          # bytes: more is not held back

Deliver = Callable[[bytes], None]


class SendQueue:
    """``post(deliver, data)`` calls ``deliver(data)`` soon. It must not wait nor raise; it may run in the hub."""

    __slots__ = ("_loop", "_most", "_posts")

    def __init__(self, loop: Any, most: int = MOST) -> None:
        self._loop = loop
        self._most = most
        self._posts: list[tuple[Deliver, bytes]] = []

    def post(self, deliver: Deliver, data: bytes) -> None:
        posts = self._posts
        posts.append((deliver, data))
        if len(posts) == 1:
            self._loop.run_callback(self.flush)
        elif len(posts) >= self._most:
            self.flush()

    def flush(self) -> None:
        """Deliver everything now: before somebody else writes to one of the connections, or closes it."""
        posts, self._posts = self._posts, []
        for deliver, data in posts:
            deliver(data)

    def __repr__(self) -> str:
        return f"SendQueue({len(self._posts)} posts)"


def send_queue() -> SendQueue:
    """The send queue of this thread's event loop."""
    hub = get_hub()
    queue = getattr(hub, "wicketgate_send_queue", None)
    if queue is None:
        queue = hub.wicketgate_send_queue = SendQueue(hub.loop)
    return queue
