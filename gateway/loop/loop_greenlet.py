"""A greenlet that runs an asyncio loop and takes "the running loop" along.

asyncio keeps the running loop for each native thread (from Python 3.14 on the running task too), and greenlets share the thread. So
a LoopGreenlet takes both off the thread when it waits, and puts them back when it goes on: greenlets beside it see no running loop,
and may run loops of their own. gevent calls ``switch_out`` before a greenlet waits on the hub, and comes back through ``switch`` or
``throw``. Other greenlets pay nothing.

A raw greenlet (not one of gevent's) that is made within a coroutine and itself waits on the hub is not covered.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events, tasks
from typing import Any

from gevent import Greenlet

TASK_PER_THREAD = sys.version_info >= (3, 14)
swap_current_task: Any = getattr(tasks, "_swap_current_task", None)


class LoopGreenlet(Greenlet):
    """``loop`` and ``task`` are what runs in it, while it waits; else None."""

    loop: asyncio.AbstractEventLoop | None = None
    task: asyncio.Task[Any] | None = None

    def switch_out(self) -> None:
        loop = self.loop = events._get_running_loop()
        if loop is None:
            return
        if TASK_PER_THREAD:
            self.task = swap_current_task(loop, None)
        else:
            self.task = asyncio.current_task(loop)
        events._set_running_loop(None)

    def switch(self, *values: Any) -> Any:
        self._restore()
        return super().switch(*values)

    def throw(self, *error: Any) -> Any:
        self._restore()
        return super().throw(*error)

    def _restore(self) -> None:
        loop, task = self.loop, self.task
        if loop is None:
            return
        self.loop = self.task = None
        events._set_running_loop(loop)
        if TASK_PER_THREAD:
            swap_current_task(loop, task)
