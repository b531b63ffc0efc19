"""Greenlets that are parked between two jobs, for short work of the gateway's own: a sixth of what making one costs.

Not for code of users: what it keeps for each greenlet (``threading.local``) would be there in the next job. A job runs in a copy of
its maker's context, like everything that belongs to a request (tasks.py).

A hand is parked, told (its job is set, its turn comes), or at work. It is thrown at in the hub only, between the greenlets, and
only at work; one that was told and has not begun skips its job. At most MOST are parked.
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
    """The hands of one event loop."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.parked: list[ParkedGreenlet] = []

    def hand(self) -> ParkedGreenlet:
        return self.parked.pop() if self.parked else ParkedGreenlet(self)

    def __repr__(self) -> str:
        return f"GreenletPool({len(self.parked)} parked)"


class ParkedGreenlet:
    __slots__ = ("crew", "team", "task", "context", "at_work", "cancelled", "greenlet")

    def __init__(self, crew: GreenletPool) -> None:
        self.crew = crew
        self.team: Team | None = None
        self.task: Callable[[], Any] | None = None
        self.context: Context | None = None
        self.at_work = False
        self.cancelled = False
        self.greenlet = greenlet(self._live, crew.hub)

    def _live(self, *_: Any) -> None:
        hub, parked = self.crew.hub, self.crew.parked
        while True:
            self._work()
            if len(parked) >= MOST:
                return
            parked.append(self)
            hub.switch()

    def _work(self) -> None:
        task, context, team = self.task, self.context, self.team
        assert task is not None and context is not None and team is not None
        try:
            if not self.cancelled:
                self.at_work = True
                context.run(task)
        except Interruption:
            pass
        except BaseException as error:                   # a job sees to its own errors: this is a defect, or the end of the process
            self.crew.hub.handle_error(task, type(error), error, error.__traceback__)
        finally:
            self.at_work = self.cancelled = False
            self.task = self.context = self.team = None
        team.ended(self)

    def throw(self, team: Team) -> None:
        """In the hub: end the job for ``team``, if it still goes on."""
        if self.team is team and self.at_work:
            self.greenlet.throw(Interruption())


class Team:
    """Jobs of one purpose: ``start`` them, ``wait`` until none is left, ``cancel`` them all."""

    __slots__ = ("_crew", "_hands", "_waiter", "_cancelled")

    def __init__(self) -> None:
        self._crew: GreenletPool | None = None
        self._hands: set[ParkedGreenlet] = set()
        self._waiter: Any = None
        self._cancelled = False

    def start(self, task: Callable[[], Any]) -> None:
        """Run ``task()`` beside the caller, from the next turn of the loop on; nothing any more after ``cancel``."""
        if self._cancelled:
            return
        crew = self._crew
        if crew is None:
            crew = self._crew = greenlet_pool_of(get_hub())
        hand = crew.hand()
        hand.team, hand.task, hand.context = self, task, copy_context()
        self._hands.add(hand)
        crew.hub.loop.run_callback(hand.greenlet.switch)

    def wait(self) -> None:
        """Until all have ended, also those started meanwhile."""
        while self._hands:
            self._waiter = Waiter(self._crew.hub if self._crew is not None else None)
            try:
                self._waiter.get()
            finally:
                self._waiter = None

    def cancel(self) -> None:
        """End those at work at their next wait; what has not begun does not begin."""
        self._cancelled = True
        for hand in self._hands:
            if hand.at_work:
                hand.crew.hub.loop.run_callback(hand.throw, self)
            else:
                hand.cancelled = True

    def ended(self, hand: ParkedGreenlet) -> None:
        self._hands.discard(hand)
        if not self._hands and self._waiter is not None:
            hand.crew.hub.loop.run_callback(self._waiter.switch, None)

    def __repr__(self) -> str:
        return f"Team({len(self._hands)} at work)"


def greenlet_pool_of(hub: Any) -> GreenletPool:
    found = getattr(hub, "wicketgate_crew", None)
    if found is None:
        found = hub.wicketgate_crew = GreenletPool(hub)
    return found
