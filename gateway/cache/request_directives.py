"""The fields of a request that concern a cache: directives, conditions, ranges, and those that only the origin can judge. Pure.

Most requests say nothing and carry no credentials: ``kinds_of`` finds that with one look at the names of the fields.
"""

from __future__ import annotations

from ..http.fields import FORWARDED, PROXY_WORDS, Kinds
from ..message import Headers
from .key import SEPARATOR
from .syntax import delta_seconds, directives

# Fields that make some frameworks answer for another method or another address than the request line says: an answer to such a
# request must never stand for others, and stored ones are not for it. A proxy may send one of PROXY_FIELDS with every request, or
# pass on its client's: that of a trusted one is in the key, so that a client who makes it up makes a key of his own. What is
# believed of a proxy is in the key already or says only who asks. The others change what is done, or no proxy has to send them.
PROXY_FIELDS = PROXY_WORDS - FORWARDED - {"x-forwarded-method", "proxy"}
CONFUSING = (PROXY_WORDS - FORWARDED) | {"x-http-method-override", "x-http-method", "x-method-override", "x-host",
                                         "x-original-method", "x-override-url", "x-http-destinationurl"}
LONGEST_PROXY_FIELDS = 512                               # characters of them that go into the key
FOR_ORIGIN = frozenset({"if-match", "if-unmodified-since", "upgrade"})    # only the origin may judge these (section 4.3.2)
CONDITIONS = frozenset({"if-none-match", "if-modified-since"})
READ = frozenset({"cache-control", "pragma", "range", "if-range"}) | CONDITIONS | FOR_ORIGIN | CONFUSING
DIRECTS, COOKIE, AUTHORIZATION = 1, 2, 4                 # the bits of kinds_of()
KINDS = Kinds(dict.fromkeys(READ, DIRECTS) | {"cookie": COOKIE, "authorization": AUTHORIZATION})


class RequestDirectives:
    """``origin_field`` is a field that keeps the cache out of it, empty without one (decide.py). ``proxy_fields`` are those of a
    trusted proxy, to be added to the key. Seconds are None where the request does not say; ``max_stale`` without a value is
    infinite."""

    __slots__ = ("origin_field", "proxy_fields", "no_cache", "no_store", "only_if_cached", "max_age", "max_stale", "min_fresh",
                 "stale_if_error", "if_none_match", "if_modified_since", "range", "if_range")

    def __init__(self) -> None:
        self.origin_field = self.proxy_fields = ""
        self.no_cache = self.no_store = self.only_if_cached = False
        self.max_age: int | None = None
        self.max_stale: float | None = None
        self.min_fresh: int | None = None
        self.stale_if_error: int | None = None
        self.if_none_match: list[str] = []
        self.if_modified_since: str | None = None
        self.range: str | None = None
        self.if_range: str | None = None

    @property
    def conditional(self) -> bool:
        return bool(self.if_none_match) or self.if_modified_since is not None

    def read(self, lines: list[str], pragma: list[str]) -> None:
        """The directives of Cache-Control (section 5.2.1); Pragma only without it (section 5.4)."""
        values = directives(lines) if lines else {"no-cache": True} if "no-cache" in directives(pragma) else {}
        self.no_cache = "no-cache" in values
        self.no_store = "no-store" in values
        self.only_if_cached = "only-if-cached" in values
        self.max_age = delta_seconds(values["max-age"]) if "max-age" in values else None
        self.min_fresh = delta_seconds(values["min-fresh"]) if "min-fresh" in values else None
        self.stale_if_error = delta_seconds(values["stale-if-error"]) if "stale-if-error" in values else None
        if "max-stale" in values:
            self.max_stale = float("inf") if values["max-stale"] is True else delta_seconds(values["max-stale"])

    def __repr__(self) -> str:
        values = {name: getattr(self, name) for name in self.__slots__}
        parts = [f"{name}={value!r}" for name, value in values.items() if value not in (None, "", False, [])]
        return f"RequestDirectives({', '.join(parts)})"


def kinds_of(headers: Headers) -> int:
    """DIRECTS where the request says something to a cache, COOKIE and AUTHORIZATION where it carries credentials; together."""
    kinds = 0
    for name, _ in headers:
        kinds |= KINDS[name]
    return kinds


def request_directives(headers: Headers, obey: bool = True, method: str = "GET",
                       behind_proxy: bool = False) -> RequestDirectives | None:
    """None when the request says nothing. ``obey`` False: the client's Cache-Control and Pragma count for nothing on this route.
    ``behind_proxy``: the fields are those of a trusted proxy, and PROXY_FIELDS may be in the key."""
    if not kinds_of(headers) & DIRECTS:
        return None
    result = RequestDirectives()
    cache_control: list[str] = []
    pragma: list[str] = []
    proxy_fields: list[tuple[str, str]] = []
    for name, value in headers:
        name = name.lower()
        if name not in READ:
            continue
        if name == "cache-control":
            cache_control.append(value)
        elif name == "pragma":
            pragma.append(value)
        elif name == "range":
            result.range = value.strip()
        elif name == "if-range":
            result.if_range = value.strip()
        elif name == "if-none-match":
            result.if_none_match.append(value)
        elif name == "if-modified-since":
            result.if_modified_since = value
        elif behind_proxy and name in PROXY_FIELDS:
            proxy_fields.append((name, value))
        else:
            result.origin_field = name
    if proxy_fields:
        proxy_fields.sort(key=lambda field: field[0])    # of one name the order stays: upstreams differ in which they take
        result.proxy_fields = "".join([f"{SEPARATOR}{name}: {value}" for name, value in proxy_fields])
        if len(result.proxy_fields) > LONGEST_PROXY_FIELDS:
            result.origin_field = result.origin_field or proxy_fields[0][0]
    if obey and (cache_control or pragma):
        result.read(cache_control, pragma)
    if method != "GET":                                  # ranges are of GET alone (RFC 9110 section 14.2)
        result.range = None
    if method not in ("GET", "HEAD"):
        result.if_modified_since = None                  # ignored there (section 13.1.3), while the other one means 412 (13.1.2)
        if result.if_none_match and not result.no_store:
            result.origin_field = result.origin_field or "if-none-match"
    return result
