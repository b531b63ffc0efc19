"""Greenlets that belong to a request: they run at once, each sees the request, and none outlives the call that started it.

A greenlet made by gevent starts with empty context variables, so that in it ``flask.request`` is an error and the deadline is
unknown. Here each one gets a copy of its maker's context: Flask's request and application, the current request with its
deadline and its list of attempts, the trace. A copy: what a child sets in a context variable of its own, nobody else sees; the
objects are the same, so ``g`` and ``session`` are shared. Flask's teardown runs once, with the maker.

States of a child: waiting (above ``limit``), running, done. ``gather`` ends only when no child is left, whichever way it ends:
the result, the first error, a timeout, or the death of its own greenlet.

``current_request`` is the request that is being answered, None outside of one; the application sets it around a view.

A view that catches errors and tries again is ordinary code, and may neither stop its worker nor outlive its time. ``Guard`` ends it
in two stages, and whatever refuses work because a deadline is over gives way first (``give_way``): a loop of refusals would
otherwise never let anybody else run, the timer that is to end it among them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.lock import Semaphore
from gevent.queue import Empty, SimpleQueue

from .deadline import Deadline
from .errors import DeadlineExceeded, GatewayError, GatherTimeout
from .loop.time_limit import Turns, catch_up

if TYPE_CHECKING:
    from .message import Request

GRACE = 1.0                     # seconds after its deadline in which code may clean up, or answer after all
PAUSE = 0.01                    # seconds: what is refused a hundred times a second costs the worker nothing

current_request: ContextVar[Request | None] = ContextVar("current_request", default=None)


def spawn(task: Callable[..., Any], *args: Any, **kwargs: Any) -> gevent.Greenlet:
    """Run ``task(*args, **kwargs)`` in a greenlet of its own, in a copy of the caller's context, and return that greenlet.

    Nothing ends it when the request ends: it is for work that may go on. Its calls still have only the request's time.
    """
    return gevent.spawn(copy_context().run, task, *args, **kwargs)


def spawn_apart(task: Callable[..., Any], *args: Any) -> gevent.Greenlet:
    """Like ``spawn``, for work that belongs to no request: its context is empty, and it keeps nothing of its maker's alive."""
    return gevent.spawn(Context().run, task, *args)


Killed = gevent.GreenletExit                             # what is raised in a greenlet that is told to end


def gather(*tasks: Callable[[], Any], timeout: float | None = None, limit: int | None = None,
           return_exceptions: bool = False) -> list[Any]:
    """What each of ``tasks`` returns, in their order, all run at once (at most ``limit`` at a time).

    The first error is raised as it was, and the other tasks are killed: their ``finally`` blocks have run when it arrives.
    With ``return_exceptions`` errors take their places in the list instead. ``timeout`` is in seconds and for all together;
    the deadline of the current request holds as well. Raises GatherTimeout (a TimeoutError) for the one, DeadlineExceeded for
    the other, ValueError for a ``limit`` below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: at least one task must be able to run")
    limits = Limits(timeout)
    children = [Task(task) for task in tasks]
    waiting = children[::-1]
    running: set[gevent.Greenlet] = set()
    results: SimpleQueue[Task] = SimpleQueue()
    try:
        while waiting or running:
            left = limits.left(bool(waiting))
            while waiting and (limit is None or len(running) < limit):
                running.add(waiting.pop().start(results))
            try:
                child = results.get(timeout=left)
            except Empty:
                child = limits.late_result(results)
            running.discard(child.greenlet)
            if child.error is not None and not (return_exceptions and child.may_be_returned):
                child.fail()
    finally:
        gevent.killall(running)
    return [child.result if child.error is None else child.error for child in children]


def give_way(deadline: Deadline) -> None:
    """If ``deadline`` is over, let other greenlets run before its error is raised: see above."""
    if deadline.at <= deadline.clock():
        gevent.sleep(PAUSE)


class Task:
    """One task of a gather: its greenlet, then its result or its error."""

    __slots__ = ("task", "context", "greenlet", "result", "error")

    def __init__(self, task: Callable[[], Any]) -> None:
        self.task = task
        self.context = copy_context()
        self.greenlet: gevent.Greenlet | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def start(self, results: SimpleQueue[Task]) -> gevent.Greenlet:
        self.greenlet = gevent.spawn(self._run)
        self.greenlet.link(lambda _: results.put(self))
        return self.greenlet

    def _run(self) -> None:
        try:
            self.result = self.context.run(self.task)
        except BaseException as error:                   # whatever it is, it is the gatherer's to see, not stderr's
            self.error = error

    def fail(self) -> None:
        """Raise the error, keeping no reference to it: its traceback refers to this child."""
        error, self.error = self.error, None
        try:
            raise error  # type: ignore[misc]
        finally:
            del error

    @property
    def may_be_returned(self) -> bool:
        """May the error be an entry of the list? Not one that ends a program or a greenlet: that is always raised."""
        return not isinstance(self.error, (KeyboardInterrupt, SystemExit, gevent.GreenletExit))

    def __repr__(self) -> str:
        return f"Task({self.task!r})"


class Limits:
    """How long a gather may take: ``seconds``, and no longer than the current request."""

    __slots__ = ("until", "own")

    def __init__(self, seconds: float | None) -> None:
        request = current_request.get()
        whole = request.deadline if request is not None else None
        if whole is not None:
            self.until: Deadline | None = whole.within(seconds)
        else:
            self.until = None if seconds is None else Deadline(seconds)
        self.own = self.until is not whole

    def left(self, starting: bool) -> float | None:
        """Seconds left; None without a limit. Raises what ``error`` returns when there are none and something is to start."""
        if self.until is None:
            return None
        left = self.until.at - self.until.clock()
        if left <= 0 and starting:
            give_way(self.until)
            raise self.error()
        return max(left, 0.0)

    def late_result(self, results: SimpleQueue[Task]) -> Task:
        """A task that has ended while the loop was busy. Raises what ``error`` returns when there is none."""
        catch_up()
        try:
            return results.get_nowait()
        except Empty:
            raise self.error() from None

    def error(self) -> GatewayError:
        seconds = self.until.seconds if self.until is not None else 0.0
        if self.own:
            return GatherTimeout(f"not all tasks were done after {seconds:g} s")
        return DeadlineExceeded(f"the {seconds:g} s of the request are over")

    def __repr__(self) -> str:
        return f"Limits({self.until!r})"


class Overdue(BaseException):
    """The deadline and its grace are over. Not an Exception: a loop of tries with ``except Exception`` does not catch it."""


class Guard:
    """``with Guard(deadline):`` ends the block when the deadline has passed: it raises DeadlineExceeded where the block waits.

    States: running, over (DeadlineExceeded was raised inside, and may have been caught), ended. While the block is over and does
    not end, Overdue is raised inside every ``grace`` seconds. What leaves the block is DeadlineExceeded in either case.
    """

    __slots__ = ("deadline", "_grace", "_greenlet", "_timer", "_over")

    def __init__(self, deadline: Deadline, grace: float = GRACE) -> None:
        self.deadline = deadline
        self._grace = grace
        self._greenlet: Any = None
        self._timer: Any = None                          # None while the clock stands still
        self._over = False

    def __enter__(self) -> Guard:
        left = self.deadline.left()
        self._greenlet = gevent.getcurrent()
        self._start(left)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._greenlet = None
        self._stop()
        if isinstance(error, Overdue):
            raise self._deadline_error() from error

    def suspend_while(self, wait: Callable[..., Any], *args: Any) -> Any:
        """``wait(*args)``; the time it takes is added to the deadline, unless that is over or was moved meanwhile."""
        if self._timer is None or self._over:
            return wait(*args)
        self._stop()
        start, at = self.deadline.clock(), self.deadline.at
        try:
            return wait(*args)
        finally:
            now = self.deadline.clock()
            if self.deadline.at == at:
                self.deadline.at += now - start
            if self._greenlet is not None:
                self._start(max(0.0, self.deadline.at - now))

    def _start(self, seconds: float) -> None:
        self._timer = gevent.get_hub().loop.timer(seconds, priority=-1)        # a LimitTimer, written out: every request has one
        self._timer.start(self._on_timer, update=True)

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _on_timer(self) -> None:
        """In the hub: the timer has run out."""
        self._stop()
        self._timer = Turns(self._check)

    def _check(self) -> None:
        """In the hub. The deadline may have been moved meanwhile."""
        self._stop()
        left = self.deadline.at - self.deadline.clock()
        if left > 0 and not self._over:
            self._start(left)
            return
        error = Overdue() if self._over else self._deadline_error()
        self._over = True
        self._start(self._grace)
        self._greenlet.throw(error)

    def _deadline_error(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the view ran for the whole {self.deadline.seconds:g} s")

    def __repr__(self) -> str:
        return f"Guard({self.deadline!r}{', over' if self._over else ''})"


__all__ = ["Event", "Guard", "Killed", "Overdue", "Semaphore", "current_request", "gather", "give_way", "spawn", "spawn_apart"]
