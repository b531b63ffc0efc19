"""What a route's ``cache`` means for its kind of target. Pure.

A composition says ``no-store`` about itself, for caches that would store it although nobody configures that. With a ``ttl`` of the
route somebody does, and the route's word goes before. A composition names nothing in Vary of what it sends on of the client's
request: so that is in the key. A cookie that is sent on keeps the answer out of the cache, as everywhere, unless
the route says which cookies count. Where no cookie reaches what makes the answer, none counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ..config import CacheSettings, Part, Route

USED = re.compile(r"\{(header|cookie)\.([^\s:{}]+)")
NOT_IN_KEY = frozenset({"cookie", "authorization"})      # the rules look after these two


def policy_of(route: Route, cache: CacheSettings) -> CacheSettings:
    """``cache`` as it holds for ``route``."""
    if cache.key.cookies is None and not sees_cookies(route):
        cache = cache.model_copy(update={"key": cache.key.model_copy(update={"cookies": ()})})
    if route.aggregate is None:
        return cache
    used = {name.lower(): name for part in route.aggregate.values() for name in headers_of(part)}
    own = {name.lower() for name in cache.key.headers} | NOT_IN_KEY
    key = cache.key.model_copy(update={
        "headers": (*cache.key.headers, *(name for lower, name in sorted(used.items()) if lower not in own)),
        "cookies": with_cookies(cache, route.aggregate)})
    respect = cache.respect if cache.ttl is None else "policy"
    return cache.model_copy(update={"key": key, "respect": respect})


def sees_cookies(route: Route) -> bool:
    """Does what makes the answer get to see the client's cookies?"""
    if route.respond or route.files:
        return False
    if route.upstream:
        return not any(name.lower() == "cookie" for name in route.request_headers.remove)
    parts = (route.aggregate or {}).values()
    return not parts or any(name.lower() == "cookie" for part in parts for name in part.forward_headers) or any(
        kind == "cookie" or name.lower() == "cookie" for part in parts for kind, name in references(part))


def with_cookies(cache: CacheSettings, parts: dict[str, Part]) -> tuple[str, ...] | None:
    """The cookies that count, with those the parts are made of."""
    if cache.key.cookies is None:
        return None
    used = {name for part in parts.values() for kind, name in references(part) if kind == "cookie"}
    return (*cache.key.cookies, *sorted(used - set(cache.key.cookies)))


def headers_of(part: Part) -> Iterator[str]:
    """The client's fields that a part sends on, or is made of."""
    yield from part.forward_headers
    yield from (name for kind, name in references(part) if kind == "header")


def references(part: Part) -> Iterator[tuple[str, str]]:
    for text in (part.from_, *part.headers.values(), json.dumps(part.json_, ensure_ascii=False)):
        yield from USED.findall(text)
