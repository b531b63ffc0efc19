"""Draining a worker: it takes no new connection any more, and every request that has begun ends with its answer.

1. Requests are answered with ``Connection: close``.
2. What the kernel has queued is accepted, then the listeners are closed.
3. A connection that stays idle for a moment (IDLE_GRACE) ends with a FIN and nothing else.
4. Connections end with their requests. After ``graceful_timeout`` those that are left are cut.

Whether a worker may leave at all, or waits for a successor, is in succession.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Seconds a connection gets for one more request when the worker drains: a busy one then ends with its answer, and the closing of an
# idle one seldom meets a request on its way.
IDLE_GRACE = 0.5


def drain(worker: Any, servers: Iterable[Any]) -> None:
    """Serve what has begun, accept nothing new: returns when the last connection of the ``worker`` has ended, or been cut.
    ``servers`` are gevent's StreamServers of its listeners."""
    clock, limit = worker.clock, worker.cfg.graceful_timeout
    until = clock.now() + limit - min(0.5, limit / 4)    # a master that is stopping kills when its own time is over
    for server in servers:
        accept_queued(server, worker.cfg.backlog)
        server.close()
    if not join(worker, min(IDLE_GRACE, until - clock.now())):
        worker.connections.close_idle()
    while not join(worker, min(1.0, until - clock.now())):
        if clock.now() >= until:
            worker.log.warning("Worker graceful timeout (pid:%s)", worker.pid)
            worker.connections.kill()
            return


def join(worker: Any, seconds: float) -> bool:
    """Wait for the last connection to end, at most ``seconds``; whether it has."""
    worker.notify()
    worker.connections.dismiss_overdue()
    return bool(worker.connections.join(seconds))


def accept_queued(server: Any, most: int) -> None:
    """Accept what the kernel has queued, up to ``most``: after the last listener is closed it would be reset."""
    for _ in range(most):
        if server.full():
            return
        connection = server.do_read()
        if not connection:
            return
        server.do_handle(*connection)
