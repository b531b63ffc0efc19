"""One part of a composition, compiled from its settings: which call it makes, and what becomes of the answer.

The parts are those of a configuration without mistakes: ``configfile/part_checks.py`` has found them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from .. import config
from ..deadline import Deadline
from ..errors import PartFailed, UpstreamTimeout, with_cause
from ..message import Call, Headers, Request, Response
from ..template import Inputs, References, fill, header_template, json_template, target_template
from .part_answer import Unusable, json_of

TRACE_FIELDS = frozenset({"traceparent", "tracestate"})


class PreparedPart:
    """A part, compiled: make its ``call``, ``read`` the answer, ``shape`` it. ``after`` names the parts it waits for, ``feeds`` are
    those that wait for it, ``holes`` are for values of the request. On the request's ``key_headers`` and ``key_cookies`` the
    answer depends."""

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
        body = orjson.dumps(self.tree, holes.append)
        self.body = body if part.json_ is not None else b"" if part.method in ("POST", "PUT", "PATCH") else None
        self.body_has_holes = bool(holes)
        inputs = [hole.reference.partition(".") for hole in self.holes]
        self.key_headers = [*part.forward_headers, *(name for kind, _, name in inputs if kind == "header")]
        self.key_cookies = {name for kind, _, name in inputs if kind == "cookie"}
        own = {field.lower() for field in part.headers}
        self.forward = frozenset(field.lower() for field in part.forward_headers) - own | TRACE_FIELDS
        usual = [("Accept", "application/json"), ("Accept-Encoding", "identity"), ("Content-Type", "application/json")]
        usual = usual[:2 if part.json_ is None else 3]
        self.usual_fields = [field for field in usual if field[0].lower() not in own | self.forward]

    def call(self, request: Request, inputs: Inputs, client: Headers, gateway: Headers) -> Call:
        """The Call for this part. ``client`` are the client's fields that go along, ``gateway`` the gateway's own."""
        headers = client + self.usual_fields
        for name, template in self.own_fields:
            headers.append((name, template(inputs)))
        headers += gateway
        body = self.body
        if self.body_has_holes:
            try:
                body = orjson.dumps(fill(self.tree, inputs))
            except TypeError:
                raise with_cause(PartFailed(self.name, "the values for its body are nested too deeply"), None)
        return Call(self.method, self.target(inputs), headers, body, deadline=request.deadline.within(self.timeout, self.late),
                    attempts=request.attempts, host=request.host or None if self.preserve_host else self.host)

    def read(self, response: Response, deadline: Deadline) -> Any:
        """The JSON value of an answer, None without content. Raises PartFailed, and what reading the body raises."""
        try:
            return json_of(response, deadline, self.json_types)
        except Unusable as error:
            raise with_cause(PartFailed(self.name, str(error)), None)
        finally:
            if not isinstance(response.body, bytes):
                response.body.close()

    def shape(self, answer: Any) -> Any:
        """The answer as the client gets it. Raises PartFailed when it is neither an object nor a list of objects."""
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
        """The error for the part's own timeout, as opposed to the request's deadline."""
        return UpstreamTimeout(f"no answer within the {self.timeout:g} s of part {self.name!r}", self.upstream)

    def target_for(self, request: Request) -> str:
        """The request-target for ``request``, with the holes for other parts and for the body left as written. Raises BadRequest
        when the request lacks a value."""
        inputs = Inputs(request)
        holes = [hole for hole in self.holes if not hole.reference.startswith("body.")]
        for hole in holes:
            hole(inputs)
        return self.target.partly(inputs, holes)

    @property
    def order(self) -> str:
        return f" after {' and '.join(self.after)}" if self.after else ""

    def __repr__(self) -> str:
        return f"{self.name}{self.order}: {self.method} {self.upstream}:{self.target}{', optional' if self.optional else ''}"


def reshaper(part: config.Part) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """``object -> object`` with the fields that the part picks, drops and renames; None when it takes all as they are."""
    drop, rename = frozenset(part.drop), part.rename
    if part.pick is not None:
        fields = [(name, rename.get(name, name)) for name in part.pick if name not in drop]
        return lambda item: {new: item[old] for old, new in fields if old in item}
    if drop or rename:
        return lambda item: {rename.get(name, name): value for name, value in item.items() if name not in drop}
    return None
