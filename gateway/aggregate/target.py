"""Target: several upstream calls made at once, their JSON answers composed into one.

**Order.** Which part waits for which is read from the templates when the route is built. A part starts at the moment the last
answer it needs is there (composition.py), so the whole takes as long as the longest chain.

**Failure.** A part has failed when there is no answer in time, when its status is not 2xx, when it is not JSON, over 8 MB or of
a form that ``pick``, ``drop``, ``rename`` or ``merge`` cannot work on, and when a value for its templates is missing. A required
part that failed ends everything at once: PartFailed, or BadRequest for what the client left out, which is found before anything
is sent. An optional part that failed is its ``default``, also for the parts that need it, and is named in X-Partial.

**Answer.** 200, the parts in the order of the file. Of merged fields with one name the last stays. No header field of a part's
answer is passed on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import orjson

from .. import config
from ..errors import BadRequest, PartFailed, with_cause
from ..loop.disconnect import unwatch, watch
from ..message import NextHop, Request, Response
from ..template import MISSING, References
from .composition import Composition, Forwarding, SendTo
from .part import PreparedPart

MAX_BODY = 1024 ** 2


class Aggregate:
    """``send(upstream, call)`` makes one exchange with an upstream, by its name. ``forwarding`` gives the fields that tell every
    part who asked. ``params`` are the names of the route's path parameters, None when they are not known. ``cacheable``:
    a cache keeps the answers; one with a part that must not be shared then says ``Vary: *``, and is not kept; one with a part that
    depends on what the gateway says of the client names those fields. ``hosts`` are the ``host`` settings of the upstreams: a part
    is asked for with the Host that a forwarded request would have. On the request's ``key_headers`` and ``key_cookies`` the
    answer depends."""

    says_no_store = True

    def __init__(self, parts: dict[str, config.Part], send: SendTo, forwarding: Forwarding,
                 params: Collection[str] | None = None, cacheable: bool = False, hosts: Mapping[str, str] = {}) -> None:
        self.send = send
        self.forwarding = forwarding
        self.parts = [PreparedPart(name, part, References(name, parts, params), hosts) for name, part in parts.items()]
        self.cacheable = cacheable
        for part in self.parts:
            part.feeds = [other for other in self.parts if part.name in other.after]
        self.first = [part for part in self.parts if not part.after]
        self.waits = {part.name: len(part.after) for part in self.parts}
        self.required_holes = [hole for part in self.parts if not part.optional for hole in part.holes]
        self.key_headers = [name for part in self.parts for name in part.key_headers]
        self.key_cookies = {name for part in self.parts for name in part.key_cookies}
        self.sees_cookies = bool(self.key_cookies) or any(name.lower() == "cookie" for name in self.key_headers)
        self.reads_body = any(hole.reference.partition(".")[0] == "body" for part in self.parts for hole in part.holes)

    def __call__(self, request: Request) -> Response:
        run = Composition(request, self.send, self.waits, self.forwarding, self.cacheable)
        if self.reads_body:
            run.inputs.body = json_body(request)
        for hole in self.required_holes:
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
            shape = run.shapes[part.name]
            if not part.merge:
                body[part.name] = shape
            elif shape is not None:
                body.update(shape)
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        if run.private or run.varies:
            headers.append(("Vary", "*" if run.private else ", ".join(sorted(run.varies))))
        if run.missing:
            headers.append(("X-Partial", ", ".join([part.name for part in self.parts if part.name in run.missing])))
        try:
            data = orjson.dumps(body)
        except TypeError:                                # what can be read may be nested deeper than what can be written
            deep = [part for part in self.parts if part.name not in run.missing and too_deep(run.shapes[part.name])]
            if not deep:                                 # a default that is no JSON
                raise
            for part in deep:
                run.give_up(part, PartFailed(part.name, "the answer is nested too deeply"))
            return self.answer(run)
        return Response(200, headers, data)

    def destinations(self, request: Request) -> Iterator[NextHop]:
        """The call of each part. Raises BadRequest when the request lacks what a required part needs."""
        for part in self.parts:
            target = refusal = ""
            try:
                target = part.target_for(request)
            except BadRequest as error:
                if not part.optional:
                    raise
                refusal = f"not asked: {error}"
            label = f'part "{part.name}"{", optional" if part.optional else ""}, upstream "{part.upstream}"'
            yield NextHop(label, part.upstream, part.method, target, refusal)

    def describe(self) -> list[str]:
        """One line for each part, in the order of the file."""
        return [repr(part) for part in self.parts]

    def __repr__(self) -> str:
        return "aggregate: " + ", ".join([part.name + part.order for part in self.parts])


def json_body(request: Request) -> Any:
    """The value of the request's body, MISSING without one. Raises BadRequest, and BodyTooLarge above 1 MB."""
    data = request.body.buffer(MAX_BODY) if request.body is not None else b""
    try:
        return orjson.loads(data) if data else MISSING
    except ValueError:
        raise with_cause(BadRequest("the body is not valid JSON"), None)


def too_deep(value: Any) -> bool:
    try:
        orjson.dumps([value])
    except TypeError:
        return True
    return False
