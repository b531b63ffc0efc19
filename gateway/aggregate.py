"""Target: several upstream calls made at once, their JSON answers composed into one.

**Order.** Which part waits for which is read from the templates when the route is built. A part starts at the moment the last
answer it needs is there, so the whole takes as long as the longest chain. Greenlets have their price, also when they are not made
anew (loop/greenlet_pool.py), so a chain runs in one: it goes on with the first part that its answer set free and starts others for
the rest. The first chain runs in the request's own greenlet, where the failure of another interrupts it.

**Failure.** A part has failed when there is no answer in time, when its status is not 2xx, when it is not JSON, over 8 MB or of
a form that ``pick``, ``drop``, ``rename`` or ``merge`` cannot work on, and when a value for its templates is missing. A required
part that failed ends everything at once: PartFailed, or BadRequest for what the client left out, which is found before anything
is sent. An optional part that failed is its ``default``, also for the parts that need it, and is named in X-Partial.

**Answer.** 200, the parts in the order of the file. Of merged fields with one name the last stays. No header field of a part's
answer is passed on.

The parts are those of a configuration without mistakes: ``configfile/part_checks.py`` has found them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import orjson

from . import config, tasks
from .deadline import Deadline
from .errors import BadRequest, DeadlineExceeded, GatewayError, PartFailed, UpstreamError, UpstreamTimeout
from .loop.disconnect import unwatch, watch
from .loop.greenlet_pool import Team
from .message import Call, Headers, Request, Response
from .part_answer import Unusable, json_of
from .template import MISSING, Inputs, References, fill, header_template, json_template, target_template

MAX_BODY = 1024 ** 2
NOT_SHARED = re.compile(r"\b(?:no-store|private)\b", re.IGNORECASE)
CONTROLS = frozenset({"cache-control", "cdn-cache-control", "wicketgate-cache-control"})      # and the targeted ones (RFC 9213)
TRACE_FIELDS = frozenset({"traceparent", "tracestate"})
NOTHING: frozenset[str] = frozenset()
FAILURES = (UpstreamError, DeadlineExceeded, PartFailed, BadRequest)

Send = Callable[[str, Call], Response]
Forwarding = Callable[[Request], Headers]


class Aggregate:
    """``send(upstream, call)`` makes one exchange with an upstream, by its name. ``forwarding`` gives the fields that tell every
    part who asked. ``params`` are the names of the route's path parameters, None when they are not known. ``kept`` says that a
    cache keeps the answers: one with a part that must not be shared then says ``Vary: *``, and is not kept; one with a part that
    depends on what the gateway says of the client names those fields. ``hosts`` are the ``host`` settings of the upstreams: a part
    is asked for with the Host that a forwarded request would have."""

    def __init__(self, parts: dict[str, config.Part], send: Send, forwarding: Forwarding,
                 params: Collection[str] | None = None, kept: bool = False, hosts: Mapping[str, str] = {}) -> None:
        self.send = send
        self.forwarding = forwarding
        self.parts = [PreparedPart(name, part, References(name, parts, params), hosts) for name, part in parts.items()]
        self.kept = kept
        for part in self.parts:
            part.feeds = [other for other in self.parts if part.name in other.after]
        self.first = [part for part in self.parts if not part.after]
        self.waits = {part.name: len(part.after) for part in self.parts}
        self.needed = [hole for part in self.parts if not part.optional for hole in part.holes]
        self.reads_body = any(hole.reference.partition(".")[0] == "body" for part in self.parts for hole in part.holes)

    def __call__(self, request: Request) -> Response:
        run = Composition(request, self.send, self.waits, self.forwarding, self.kept)
        if self.reads_body:
            run.inputs.body = json_body(request)
        for hole in self.needed:
            hole(run.inputs)
        token = watch(request.connection.socket) if request.connection is not None else None
        try:
            run.all(self.first)
        finally:
            if token is not None:
                unwatch(token)
        return self.answer(run)

    def answer(self, run: Composition) -> Response:
        body: dict[str, Any] = {}
        for part in self.parts:
            shown = run.shown[part.name]
            if not part.merge:
                body[part.name] = shown
            elif shown is not None:
                body.update(shown)
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        if run.unshared or run.varies:
            headers.append(("Vary", "*" if run.unshared else ", ".join(sorted(run.varies))))
        if run.missing:
            headers.append(("X-Partial", ", ".join([part.name for part in self.parts if part.name in run.missing])))
        try:
            return Response(200, headers, orjson.dumps(body))
        except TypeError:                                # what can be read may be nested deeper than what can be written
            for part in self.parts:
                if too_deep(run.shown[part.name]):
                    run.give_up(part, PartFailed(part.name, "the answer is nested too deeply"))
            return self.answer(run)

    def describe(self) -> list[str]:
        """One line for each part, in the order of the file."""
        return [repr(part) for part in self.parts]

    def __repr__(self) -> str:
        return "aggregate: " + ", ".join([part.name + part.order for part in self.parts])


class PreparedPart:
    """A part, compiled: ``ask`` for its answer, then ``shape`` it. ``after`` names the parts it waits for, ``feeds`` are those that
    wait for it, ``holes`` are for values of the request."""

    feeds: list[PreparedPart]

    def __init__(self, name: str, part: config.Part, references: References, hosts: Mapping[str, str]) -> None:
        self.name, self.method, self.timeout = name, part.method, part.timeout
        self.merge, self.optional, self.default = part.merge, part.optional, part.default
        self.after, self.holes = references.after, references.holes
        self.reshape = reshaper(part)
        self.upstream, _, target = part.from_.partition(":")
        host = hosts.get(self.upstream, "upstream")
        self.preserve_host = host == "preserve"
        self.host = None if host in ("upstream", "preserve") else host
        self.json_types = frozenset(media.lower() for media in part.json_types)
        self.target = target_template(target, references)
        self.own_fields = [(field, header_template(value, references)) for field, value in part.headers.items()]
        self.tree = json_template(part.json_, references)
        holes: list[Any] = []
        written = orjson.dumps(self.tree, holes.append)
        self.body = written if part.json_ is not None else b"" if part.method in ("POST", "PUT", "PATCH") else None
        self.body_has_holes = bool(holes)
        own = {field.lower() for field in part.headers}
        self.forward = frozenset(field.lower() for field in part.forward_headers) - own | TRACE_FIELDS
        usual = [("Accept", "application/json"), ("Accept-Encoding", "identity"), ("Content-Type", "application/json")]
        usual = usual[:2 if part.json_ is None else 3]
        self.usual_fields = [field for field in usual if field[0].lower() not in own | self.forward]

    def ask(self, run: Composition) -> Any:
        """Make the call and read its answer as JSON."""
        request, inputs = run.request, run.inputs
        headers = run.forwarded(self.forward) + self.usual_fields
        for name, template in self.own_fields:
            headers.append((name, template(inputs)))
        headers += run.forwarding
        body = self.body
        if self.body_has_holes:
            try:
                body = orjson.dumps(fill(self.tree, inputs))
            except TypeError:
                raise PartFailed(self.name, "the values for its body are nested too deeply") from None
        deadline = request.deadline.within(self.timeout, self.late)
        call = Call(self.method, self.target(inputs), headers, body, deadline=deadline, attempts=request.attempts,
                    host=request.host or None if self.preserve_host else self.host)
        response = run.send(self.upstream, call)
        if run.kept:
            run.note_sharing(response.headers)
        return self.read(response, deadline)

    def read(self, response: Response, deadline: Deadline) -> Any:
        """The JSON value of an answer, None of one without content. Raises PartFailed, and what reading it raises."""
        try:
            return json_of(response, deadline, self.json_types)
        except Unusable as error:
            raise PartFailed(self.name, str(error)) from None
        finally:
            if not isinstance(response.body, bytes):
                response.body.close()

    def shape(self, answer: Any) -> Any:
        """The answer as the client gets it. Raises PartFailed when it has not the form for that."""
        if answer is None:
            return None
        if self.merge and not isinstance(answer, dict):
            raise PartFailed(self.name, "answered no object, so nothing can be merged")
        if self.reshape is None:
            return answer
        if isinstance(answer, dict):
            return self.reshape(answer)
        if isinstance(answer, list) and all(isinstance(item, dict) for item in answer):
            return [self.reshape(item) for item in answer]
        raise PartFailed(self.name, "answered neither an object nor a list of objects, so there are no fields to choose from")

    def late(self) -> UpstreamTimeout:
        """Its own limit has passed, and not the request's."""
        return UpstreamTimeout(f"no answer within the {self.timeout:g} s of part {self.name!r}", self.upstream)

    def asks(self, request: Request) -> str:
        """The request-target for ``request``, where what other parts and the body give stands as it is written. Raises
        BadRequest for what the request lacks."""
        inputs = Inputs(request)
        known = [hole for hole in self.holes if not hole.reference.startswith("body.")]
        for hole in known:
            hole(inputs)
        return self.target.partly(inputs, known)

    @property
    def order(self) -> str:
        return f" after {' and '.join(self.after)}" if self.after else ""

    def __repr__(self) -> str:
        return f"{self.name}{self.order}: {self.method} {self.upstream}:{self.target}{', optional' if self.optional else ''}"


class Composition:
    """One request being answered: what templates read, what the client will see, and the greenlets at work on it."""

    def __init__(self, request: Request, send: Send, waits: dict[str, int],
                 forwarding: Forwarding, kept: bool) -> None:
        self.request = request
        self.forwarding = forwarding(request)
        self.send = send
        self.inputs = Inputs(request)
        self.shown: dict[str, Any] = {}
        self.missing: set[str] = set()
        self.notes: dict[str, float | str] = {}
        request.notes["parts"] = self.notes
        self._waits = waits.copy()
        self._forwarded: dict[frozenset[str], Headers] = {}
        self.kept = kept
        # Has a part an answer that must not be shared, and by which fields beside the client's does one choose its answer?
        self.unshared, self.varies = False, NOTHING
        self._own = tasks.Interruptible()
        self._others = Team()
        self._error: Exception | None = None

    def all(self, ready: list[PreparedPart]) -> None:
        """Settle these parts and all that wait for them. No greenlet is left at any end. Raises the first error."""
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
        """Get the answer of a part, or its default, and return the parts that now have all they wait for."""
        clock = self.request.deadline.clock
        began = clock()
        try:
            answer = part.ask(self)
            self.shown[part.name] = part.shape(answer)
            self.inputs.answers[part.name] = answer
            self.notes[part.name] = round((clock() - began) * 1000, 1)
        except FAILURES as error:
            self.give_up(part, error)
        return [other for other in part.feeds if self._was_last(other)]

    def give_up(self, part: PreparedPart, error: GatewayError) -> None:
        """Put the default of an optional part in its place; raise for a required one."""
        self.notes[part.name] = error.flag
        if part.optional:
            self.missing.add(part.name)
            self.inputs.answers[part.name] = self.shown[part.name] = part.default
        elif isinstance(error, (PartFailed, BadRequest)):
            raise error
        else:
            raise PartFailed(part.name, "no answer in time" if error.status == 504 else error.title, error) from error

    def note_sharing(self, headers: Headers) -> None:
        """What an answer of a part says about whom the whole may be kept for. What is sent on of the client's is in the key."""
        self.unshared = self.unshared or unshareable(headers)
        sent = {name.lower() for name, _ in self.forwarding} | TRACE_FIELDS
        varies = [each.strip().lower() for field, value in headers if field.lower() == "vary" for each in value.split(",")]
        self.varies = self.varies | sent.intersection(varies)

    def forwarded(self, names: frozenset[str]) -> Headers:
        """The client's header fields of these names, but for those that its Connection keeps to the gateway."""
        if names not in self._forwarded:
            kept = {token.strip().lower() for value in self.request.header_list("Connection") for token in value.split(",")}
            self._forwarded[names] = [field for field in self.request.headers if field[0].lower() in names - kept]
        return self._forwarded[names]

    def _was_last(self, part: PreparedPart) -> bool:
        """One of those that ``part`` waits for is settled: was it the last?"""
        self._waits[part.name] -= 1
        return not self._waits[part.name]

    def _spawn(self, part: PreparedPart) -> None:
        self._others.start(partial(self._follow, part))

    def _follow(self, part: PreparedPart) -> None:
        """Settle a part and what it sets free: the first here, the others each in a greenlet of their own."""
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


def json_body(request: Request) -> Any:
    """The value of the request's body, MISSING without one. Raises BadRequest, and BodyTooLarge above 1 MB."""
    data = request.body.buffer(MAX_BODY) if request.body is not None else b""
    try:
        return orjson.loads(data) if data else MISSING
    except ValueError:
        raise BadRequest("the body is not valid JSON") from None


def unshareable(headers: Headers) -> bool:
    """Does an answer say of itself that it is for one caller, or for nobody, to keep?"""
    for name, value in headers:
        name = name.lower()
        if name == "set-cookie" or (name == "vary" and "*" in value) or (name in CONTROLS and NOT_SHARED.search(value)):
            return True
    return False


def reshaper(part: config.Part) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """``object -> object`` with the fields that the part picks, drops and renames; None when it takes all as they are."""
    drop, rename = frozenset(part.drop), part.rename
    if part.pick is not None:
        fields = [(name, rename.get(name, name)) for name in part.pick if name not in drop]
        return lambda item: {new: item[old] for old, new in fields if old in item}
    if drop or rename:
        return lambda item: {rename.get(name, name): value for name, value in item.items() if name not in drop}
    return None


def too_deep(value: Any) -> bool:
    try:
        orjson.dumps([value])
    except TypeError:
        return True
    return False
