"""One request while it is composed: which parts are under way, what their answers are, and what failed.

**Order.** A part starts at the moment the last answer it needs is there. Greenlets have their price, also when they are not made
anew (loop/greenlet_pool.py), so a chain runs in one: it goes on with the first part that its answer set free and starts others for
the rest. The first chain runs in the request's own greenlet, where the failure of another interrupts it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import BadRequest, DeadlineExceeded, GatewayError, PartFailed, UpstreamError, with_cause
from ..http.fields import nominations
from ..loop.greenlet_pool import TaskGroup
from ..loop.interruption import Interruptible
from ..message import Call, Headers, Request, Response
from ..template import Inputs
from .part import TRACE_FIELDS, PreparedPart

NOT_SHARED = re.compile(r"\b(?:no-store|private)\b", re.IGNORECASE)
CONTROLS = frozenset({"cache-control", "cdn-cache-control", "wicketgate-cache-control"})      # and the targeted ones (RFC 9213)
NOTHING: frozenset[str] = frozenset()
FAILURES = (UpstreamError, DeadlineExceeded, PartFailed, BadRequest)

SendTo = Callable[[str, Call], Response]
Forwarding = Callable[[Request], Headers]


class Composition:
    """The composition of one answer: the values that templates read, the shapes of the answers, and the greenlets at work."""

    def __init__(self, request: Request, send: SendTo, waits: dict[str, int],
                 forwarding: Forwarding, cacheable: bool) -> None:
        self.request = request
        self.forwarding = forwarding(request)
        self.send = send
        self.inputs = Inputs(request)
        self.shapes: dict[str, Any] = {}
        self.missing: set[str] = set()
        self.notes: dict[str, float | str] = {}
        request.notes["parts"] = self.notes
        self._waits = waits.copy()
        self._client_fields: dict[frozenset[str], Headers] = {}
        self.cacheable = cacheable
        # Has a part an answer that must not be shared, and by which fields beside the client's does one choose its answer?
        self.private, self.varies = False, NOTHING
        self._own = Interruptible()
        self._others = TaskGroup()
        self._error: Exception | None = None

    def all(self, ready: list[PreparedPart]) -> None:
        """Settle these parts and all that wait for them. Leaves no greenlet behind. Raises the first error."""
        while len(ready) == 1:
            ready = self.settle(ready[0])
        for part in ready[1:]:
            self._spawn(part)
        try:
            if ready:
                with self._own:
                    self._follow(ready[0])
            self._others.wait()
        except BaseException:                            # this greenlet is told to end
            self._cancel()
            self._others.wait()
            raise
        if self._error is not None:
            raise self._error

    def settle(self, part: PreparedPart) -> list[PreparedPart]:
        """Get the answer of a part, or its default. Returns the parts that now have all they wait for."""
        clock = self.request.deadline.clock
        began = clock()
        try:
            call = part.call(self.request, self.inputs, self.client_fields(part.forward), self.forwarding)
            response = self.send(part.upstream, call)
            if self.cacheable:
                self.note_sharing(response.fields)
            answer = part.read(response, call.deadline)
            self.shapes[part.name] = part.shape(answer)
            self.inputs.answers[part.name] = answer
            self.notes[part.name] = round((clock() - began) * 1000, 1)
        except FAILURES as error:
            self.give_up(part, error)
        return [other for other in part.feeds if self._was_last(other)]

    def give_up(self, part: PreparedPart, error: GatewayError) -> None:
        """Use the default of an optional part; raise for a required one."""
        self.notes[part.name] = error.flag
        if part.optional:
            self.missing.add(part.name)
            self.inputs.answers[part.name] = self.shapes[part.name] = part.default
        elif isinstance(error, (PartFailed, BadRequest)):
            raise error
        else:
            raise with_cause(PartFailed(part.name, "no answer in time" if error.status == 504 else error.title, error), error)

    def note_sharing(self, headers: Headers) -> None:
        """Note what a part's answer says about sharing the whole. The client's fields that parts are sent are in the cache key."""
        self.private = self.private or unshareable(headers)
        names = {name.lower() for name, _ in self.forwarding} | TRACE_FIELDS
        varies = [each.strip().lower() for field, value in headers if field.lower() == "vary" for each in value.split(",")]
        self.varies = self.varies | names.intersection(varies)

    def client_fields(self, names: frozenset[str]) -> Headers:
        """The client's header fields of these names, without those that Connection nominates."""
        if names not in self._client_fields:
            left = names - nominations(self.request.headers)
            self._client_fields[names] = [field for field in self.request.headers if field[0].lower() in left]
        return self._client_fields[names]

    def _was_last(self, part: PreparedPart) -> bool:
        """Count down the parts that ``part`` waits for: was this the last?"""
        self._waits[part.name] -= 1
        return not self._waits[part.name]

    def _spawn(self, part: PreparedPart) -> None:
        self._others.start(partial(self._follow, part))

    def _follow(self, part: PreparedPart) -> None:
        """Settle a part, then what it sets free: the first part in this greenlet, others each in one of their own."""
        try:
            ready = [part]
            while ready and self._error is None:
                for other in ready[1:]:
                    self._spawn(other)
                ready = self.settle(ready[0])
        except Exception as error:                       # ``all`` raises it
            if self._error is None:
                self._error = error
                self._cancel()

    def _cancel(self) -> None:
        self._own.interrupt()
        self._others.cancel()


def unshareable(headers: Headers) -> bool:
    """Does an answer forbid a shared cache to store it, or to serve it to others?"""
    for name, value in headers:
        name = name.lower()
        if name == "set-cookie" or (name == "vary" and "*" in value) or (name in CONTROLS and NOT_SHARED.search(value)):
            return True
    return False
