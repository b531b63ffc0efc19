"""Coroutines for sync code, and sync code for coroutines: ``run_async`` and ``run_sync``.

::

    answer = run_async(fetch(7))                         # in a view: waits for the coroutine, others run
    rows = await run_sync(query, 7)                      # in a coroutine: query runs in a greenlet of its own

One loop of the process runs all coroutines of ``run_async``, so that they share sessions, pools and locks. It starts with the first
of them, after the fork, and ends with ``close_shared_loop``: its tasks are cancelled, their ``finally`` blocks have run.

Each side sees the context variables of the other (Flask's request, the gateway's with its deadline), also what the other has set.
Errors come through as they are. What is thrown into a greenlet that waits for a coroutine (its deadline, its death) ends that, at
its next wait: by CancelledError, or as it is where the coroutine itself waits in a blocking call. Then it has GRACE seconds to
clean up, or to answer after all. A coroutine that is cancelled kills the greenlet of its ``run_sync`` and waits for its end.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

import gevent
from gevent import get_hub, getcurrent
from gevent.event import Event

from .asyncio_loop import HubLoop

log = logging.getLogger("gateway")

GRACE = 1.0                                              # seconds
CLOSING_TIME = 5.0                                       # seconds that the end of the shared loop may take
MISSING = object()

T = TypeVar("T")


class SharedLoop:
    """A loop that runs in the background, and what waits for its tasks.

    A task has ``grace`` seconds to end after its caller was interrupted, and all of them ``closing_time`` at the end of the loop.
    """

    def __init__(self, grace: float = GRACE, closing_time: float = CLOSING_TIME) -> None:
        self.grace = grace
        self.closing_time = closing_time
        self.loop = HubLoop()
        self.greenlet = self.loop.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What ``coroutine`` returns, waited for."""
        if getcurrent() is self.greenlet:
            coroutine.close()
            raise RuntimeError("run_async() was called by a coroutine of the loop that it would wait for: await the other"
                               " coroutine, or call what calls run_async() by await run_sync(...)")
        context = copy_context()
        task = self.loop.create_task(coroutine, context=context)
        ended = Event()
        task.add_done_callback(lambda _: ended.set())
        try:
            ended.wait()
        except BaseException as error:
            self.loop.interrupt(self.greenlet, task, error)
            ended.wait(self.grace)
            if not task.done() or task.cancelled() or task.exception() is error or not isinstance(error, Exception):
                raise
            return task.result()
        finally:
            adopt(context)
        return task.result()

    def close(self) -> None:
        """Cancel what runs, wait for it, and close the loop: all of it in ``closing_time``. What runs on is named in the log."""
        try:
            with gevent.Timeout(self.closing_time):
                self.run(finish(self.loop))
                self.loop.stop()
                self.greenlet.join()
            self.loop.close()
        except gevent.Timeout:
            for task in asyncio.all_tasks(self.loop):
                log.warning("a task did not end when it was cancelled, and is given up: %r", task)
                setattr(task, "_log_destroy_pending", False)             # asyncio would say it again when the process ends

    def __repr__(self) -> str:
        return f"SharedLoop({self.loop!r})"


async def finish(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks but this one, and what else asyncio.run does before it closes a loop."""
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def adopt(context: Context) -> None:
    """Set the context variables that have changed in a copy of this context."""
    for variable, value in context.items():
        if variable.get(MISSING) is not value:
            variable.set(value)


_shared: SharedLoop | None = None


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` on the shared loop and return what it returns; the caller waits, and other greenlets run.

    In another native thread than the main one it runs on a loop of its own. Raises what the coroutine raises, and RuntimeError
    when a coroutine of the shared loop calls it.
    """
    global _shared
    if not get_hub().main_hub:
        with asyncio.Runner(loop_factory=HubLoop) as runner:
            return runner.run(coroutine)
    if _shared is None:
        _shared = SharedLoop()
    return _shared.run(coroutine)


async def run_sync(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Run ``function(*args, **kwargs)`` in a greenlet of its own and return what it returns; other coroutines run meanwhile."""
    loop = asyncio.get_running_loop()
    context = copy_context()
    ended = loop.create_future()
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(context.run(function, *args, **kwargs))
        except BaseException as error:
            errors.append(error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(ended.set_result, None)

    greenlet = gevent.spawn(call)
    try:
        await asyncio.wait((ended,))
    except asyncio.CancelledError:
        greenlet.kill(block=False)
        await asyncio.wait((ended,))
        raise
    adopt(context)
    if errors:
        try:
            raise errors.pop()
        finally:
            errors.clear()
    return results.pop()


def close_shared_loop() -> None:
    """At the end of a process, or of a test: the next ``run_async`` starts another one."""
    global _shared
    shared, _shared = _shared, None
    if shared is not None:
        shared.close()


def _forget() -> None:
    """In a child process: the loop is the parent's."""
    global _shared
    _shared = None


os.register_at_fork(after_in_child=_forget)
atexit.register(close_shared_loop)
