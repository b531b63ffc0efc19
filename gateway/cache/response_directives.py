"""The cache directives of an answer that count for this cache, from whichever field gives them. Pure.

The first targeted field that is there and can be read replaces Cache-Control and Expires altogether (RFC 9213 section 2.2); ours
goes before the one for all CDNs. A freshness that is given but cannot be read is 0: such an answer is stale (RFC 9111 section
4.2.1).
"""

from __future__ import annotations

from .syntax import Value, delta_seconds, dictionary, directives, http_date, names

OWN = "wicketgate-cache-control"
TARGETED_FIELDS = (OWN, "cdn-cache-control")
WITH_FIELDS = ("private", "no-cache")                    # these take a list of fields; no other takes text in a targeted field


class ResponseDirectives:
    """Seconds are None where the answer does not say. ``expires`` is the date of Expires where that field counts, 0.0 for one
    that cannot be read. ``private`` and ``no_cache`` are the unqualified forms; ``fields`` those that the qualified ones name.
    ``is_targeted``: they come from a field for caches like this one (RFC 9213)."""

    __slots__ = ("no_store", "private", "no_cache", "fields", "public", "must_revalidate", "proxy_revalidate", "must_understand",
                 "immutable", "max_age", "s_maxage", "expires", "stale_while_revalidate", "stale_if_error", "is_targeted")

    def __init__(self, values: dict[str, Value], expires: float | None = None, is_targeted: bool = False) -> None:
        self.no_store = flag(values, "no-store")
        self.private = flag(values, "private")
        self.no_cache = flag(values, "no-cache")
        self.fields = frozenset(names(value for name in WITH_FIELDS
                                      if isinstance(value := values.get(name), str)))
        self.public = flag(values, "public")
        self.must_revalidate = flag(values, "must-revalidate")
        self.proxy_revalidate = flag(values, "proxy-revalidate")
        self.must_understand = flag(values, "must-understand")
        self.immutable = flag(values, "immutable")
        self.max_age = seconds(values, "max-age")
        self.s_maxage = seconds(values, "s-maxage")
        self.expires = expires
        self.is_targeted = is_targeted
        self.stale_while_revalidate = window(values, "stale-while-revalidate")
        self.stale_if_error = window(values, "stale-if-error")

    @property
    def explicit(self) -> bool:
        """Does the answer say how long it is fresh?"""
        return self.max_age is not None or self.s_maxage is not None or self.expires is not None

    @property
    def forbids(self) -> bool:
        """Does it forbid a shared cache to keep it at all? A route may ignore that, but then it permits nothing either."""
        return self.private or self.no_store and not self.must_understand

    @property
    def for_callers(self) -> bool:
        """May a shared cache give it to others although the request named its caller (section 3.5)?
        must-revalidate permits that too, but only where its demand is heeded."""
        return (self.public or self.s_maxage is not None) and not self.forbids

    @property
    def for_everybody(self) -> bool:
        """Does it say that it is for all, whatever cookies the request had? A middleware writes max-age and must-revalidate on
        personal pages, too; s-maxage and a lifetime in a field for shared caches nobody writes by accident."""
        return self.for_callers or self.is_targeted and self.max_age is not None and not self.forbids

    def lifetime(self, date: float) -> float | None:
        """Seconds of freshness, counted from ``date``, when it was made; None when it does not say (section 4.2.1)."""
        if self.s_maxage is not None:
            return self.s_maxage
        if self.max_age is not None:
            return self.max_age
        return None if self.expires is None else max(0.0, self.expires - date)


def response_directives(fields: dict[str, list[str]], now: float) -> ResponseDirectives:
    """``fields`` are the header fields of an answer: lower-case name to lines."""
    for name in TARGETED_FIELDS:
        if name in fields and (values := dictionary(fields[name])) is not None:
            return ResponseDirectives({key: None if isinstance(value, str) and key not in WITH_FIELDS else value
                                       for key, value in values.items()}, is_targeted=True)
    lines = fields.get("expires")
    expires = None if lines is None else http_date(lines[0], now) or 0.0
    return ResponseDirectives(directives(fields.get("cache-control", ())), expires)


def flag(values: dict[str, Value], name: str) -> bool:
    """Is it there, and not as the list of fields that some take? A value it should not have does not weaken it."""
    value = values.get(name, False)
    if name in WITH_FIELDS and isinstance(value, str) and names((value,)):
        return False
    return value is not False


def seconds(values: dict[str, Value], name: str) -> int | None:
    if name not in values:
        return None
    number = delta_seconds(values[name])
    return 0 if number is None else number


def window(values: dict[str, Value], name: str) -> int | None:
    """One that cannot be read is none."""
    return delta_seconds(values[name]) if name in values else None
