"""Greenlets that are parked between two tasks, for short work of the gateway's own: a sixth of what making one costs.

Not for code of users: what it keeps for each greenlet (``threading.local``) would be there in the next task. A task runs in a copy
of its maker's context, like everything that belongs to a request (tasks.py).

States of a greenlet: parked, scheduled (it has a task, and its turn comes), running. An Interruption is thrown into it in the hub
only, between the greenlets, and only while it runs; one that is scheduled skips a task that is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from gevent import get_hub
from gevent.hub import Waiter
from greenlet import greenlet

from .interruption import Interruption

MOST = 256


class GreenletPool:
    """The greenlets of one event loop; at most ``most`` are idle."""

    def __init__(self, hub: Any, most: int = MOST) -> None:
        self.hub = hub
        self.most = most
        self.idle: list[PooledGreenlet] = []

    def take(self) -> PooledGreenlet:
        return self.idle.pop() if self.idle else PooledGreenlet(self)

    def __repr__(self) -> str:
        return f"GreenletPool({len(self.idle)} parked)"


class PooledGreenlet:
    """Runs one task after the other. ``group`` is what its task belongs to, None while it is parked."""

    __slots__ = ("pool", "group", "task", "context", "running", "cancelled", "greenlet")

    def __init__(self, pool: GreenletPool) -> None:
        self.pool = pool
        self.group: TaskGroup | None = None
        self.task: Callable[[], Any] | None = None
        self.context: Context | None = None
        self.running = False
        self.cancelled = False
        self.greenlet = greenlet(self._loop, pool.hub)

    def _loop(self, *_: Any) -> None:
        pool = self.pool
        while True:
            self._run()
            if len(pool.idle) >= pool.most:
                return
            pool.idle.append(self)
            pool.hub.switch()

    def _run(self) -> None:
        task, context, group = self.task, self.context, self.group
        assert task is not None and context is not None and group is not None
        try:
            if not self.cancelled:
                self.running = True
                context.run(task)
        except Interruption:
            pass
        except BaseException as error:                   # a task handles its errors: a defect, or the end of the process
            self.pool.hub.handle_error(task, type(error), error, error.__traceback__)
        finally:
            self.running = self.cancelled = False
            self.task = self.context = self.group = None
        group.remove(self)

    def interrupt(self, group: TaskGroup) -> None:
        """In the hub: end the task of ``group``, if it still runs."""
        if self.group is group and self.running:
            self.greenlet.throw(Interruption())


class TaskGroup:
    """Tasks of one purpose: ``start`` them, ``wait`` until none is left, ``cancel`` them all. ``pool`` is that of the caller's
    event loop where none is given."""

    __slots__ = ("_pool", "_greenlets", "_waiter", "_cancelled")

    def __init__(self, pool: GreenletPool | None = None) -> None:
        self._pool = pool
        self._greenlets: set[PooledGreenlet] = set()
        self._waiter: Any = None
        self._cancelled = False

    def start(self, task: Callable[[], Any]) -> None:
        """Run ``task()`` beside the caller, from the next turn of the loop on; nothing any more after ``cancel``."""
        if self._cancelled:
            return
        pool = self._pool
        if pool is None:
            pool = self._pool = greenlet_pool_of(get_hub())
        runner = pool.take()
        runner.group, runner.task, runner.context = self, task, copy_context()
        self._greenlets.add(runner)
        pool.hub.loop.run_callback(runner.greenlet.switch)

    def wait(self) -> None:
        """Until all have ended, also those that start meanwhile."""
        while self._greenlets:
            self._waiter = Waiter(self._pool.hub if self._pool is not None else None)
            try:
                self._waiter.get()
            finally:
                self._waiter = None

    def cancel(self) -> None:
        """End those that run at their next wait; what has not begun does not begin."""
        self._cancelled = True
        for runner in self._greenlets:
            if runner.running:
                runner.pool.hub.loop.run_callback(runner.interrupt, self)
            else:
                runner.cancelled = True

    def remove(self, runner: PooledGreenlet) -> None:
        """Its task has ended."""
        self._greenlets.discard(runner)
        if not self._greenlets and self._waiter is not None:
            runner.pool.hub.loop.run_callback(self._waiter.switch, None)

    def __repr__(self) -> str:
        return f"TaskGroup({len(self._greenlets)} tasks)"


def greenlet_pool_of(hub: Any) -> GreenletPool:
    pool = getattr(hub, "wicketgate_greenlet_pool", None)
    if pool is None:
        pool = hub.wicketgate_greenlet_pool = GreenletPool(hub)
    return pool
