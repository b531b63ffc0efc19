"""Checks of the parts of a composition, each by itself and against each other. Pure.

Like the checks of ``checks.py``: a sentence for each mistake, beginning with the setting it is about. All of them are found
here, before a route is built; ``aggregate/`` takes parts as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

import orjson

from ..config import Part
from ..template import SOURCES, References, header_template, json_template, target_template
from ..values import did_you_mean, quote
from .mistakes import place_text, unknown_upstream

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
FROM = re.compile(r"([^:/{}]+):(/(?!/).*)", re.DOTALL)
NOT_SENT = frozenset({
    "accept-encoding", "expect", "host", "proxy-authenticate", "proxy-authorization", "x-forwarded-for", "x-forwarded-proto",
    "x-forwarded-host", "x-forwarded-port", "forwarded", "via", "x-request-id"})


def check_parts(parts: dict[str, Part], params: Collection[str] | None, upstreams: Collection[str],
                there: Collection[str] = ()) -> Iterator[str]:
    """``params`` are the parameters of the path (None: not known), ``upstreams`` the names there are, ``there`` those of all parts,
    also of those that cannot be read."""
    waits: dict[str, list[str]] = {}
    for name, part in parts.items():
        place, references = place_text(("aggregate", name)), References(name, {**dict.fromkeys(there), **parts}, params)
        yield from _name(place, name)
        yield from _call(place, part, references, upstreams)
        yield from _shape(place, part)
        if name in references.after:
            yield f"{place}: waits for its own answer"
        waits[name] = [other for other in references.after if other != name]
    yield from _circles(waits)
    yield from _collisions(parts)


def _name(place: str, name: str) -> Iterator[str]:
    if name in SOURCES:
        yield f"{place}: {{{name}.x}} already means a {SOURCES[name]} of the request; give the part another name"
    elif not NAME.fullmatch(name):
        yield f'{place}: the name of a part is letters, digits, "-" and "_"'


def _call(place: str, part: Part, references: References, upstreams: Collection[str]) -> Iterator[str]:
    source = FROM.fullmatch(part.from_)
    if not source:
        yield f'{place}.from: {quote(part.from_)} is not an upstream and a path: write it like "orders:/by-user/{{id}}"'
    else:
        if source[1] not in upstreams:
            yield f"{place}.from: {unknown_upstream(source[1], upstreams)}"
        yield from _template(f"{place}.from", target_template, source[2], references)
    for field, value in part.headers.items():
        yield from _own_field(f"{place}.headers.{field}", field)
        yield from _template(f"{place}.headers.{field}", header_template, value, references)
    for position, field in enumerate(part.forward_headers):
        yield from _own_field(f"{place}.forward_headers[{position}]", field)
    yield from _template(f"{place}.json", json_template, part.json_, references)
    yield from _literals(f"{place}.json", part.json_)


def _own_field(place: str, field: str) -> Iterator[str]:
    if field.lower() in NOT_SENT:
        yield f"{place}: the gateway alone decides about this header field"


def _template(place: str, compile: Callable[[Any, References], Any], value: Any, references: References) -> Iterator[str]:
    """What is wrong with one template; the parts it waits for are added to ``references``."""
    try:
        compile(value, references)
    except ValueError as error:
        yield f"{place}: {error}"


def _literals(place: str, value: Any) -> Iterator[str]:
    try:
        orjson.dumps([value])
    except TypeError as error:
        yield f"{place}: cannot be written as JSON: {error}"


def _shape(place: str, part: Part) -> Iterator[str]:
    for field in part.rename:
        if part.pick is not None and field not in part.pick:
            yield f"{place}.rename: {quote(field)} is not picked{did_you_mean(field, part.pick)}"
    if "default" not in part.model_fields_set:
        return
    if not part.optional:
        yield f"{place}.default: has no effect without optional = true"
    if part.merge and not isinstance(part.default, (dict, type(None))):
        yield f"{place}.default: has to be a table, since the part is merged"
    yield from _literals(f"{place}.default", part.default)


def _circles(waits: dict[str, list[str]]) -> Iterator[str]:
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        yield f"aggregate: parts wait for each other in a circle: {' -> '.join(reversed(error.args[1]))}"


def _collisions(parts: dict[str, Part]) -> Iterator[str]:
    """Fields that are known to meet: chosen under one name, or merged where another part has put one."""
    root = {name: name for name, part in parts.items() if not part.merge}
    for name, part in parts.items():
        owners = root if part.merge else {}
        setting, fields = ("rename", list(part.rename.values())) if part.pick is None else (
            "pick", [part.rename.get(field, field) for field in part.pick])
        for field in fields:
            if field in owners:
                yield f"{place_text(('aggregate', name))}.{setting}: the answer has {quote(field)} already, from {owners[field]}"
            owners[field] = name
