"""What a request asks of a cache beyond its URL: directives, conditions, ranges, and what keeps the cache out of it. Pure.

Most requests ask nothing and show nothing of their user: ``seen`` finds that with one look at the names of the fields.
"""

from __future__ import annotations

from ..http.fields import BELIEVED, PROXY_WORDS, Kinds
from ..message import Headers
from .key import SEPARATOR
from .syntax import delta_seconds, directives

# Fields that make some frameworks answer for another method or another address than the request line says: an answer to such a
# request must never stand for others, and stored ones are not for it. A proxy may say one of TOLD with every request, or pass on
# its client's: a trusted one's is in the key, so that who makes it up makes a key of his own. What is believed of a proxy is in the
# key or says only who asks. The others change what is done, or nobody has to say them.
TOLD = PROXY_WORDS - BELIEVED - {"x-forwarded-method", "proxy"}
CONFUSING = (PROXY_WORDS - BELIEVED) | {"x-http-method-override", "x-http-method", "x-method-override", "x-host",
                                        "x-original-method", "x-override-url", "x-http-destinationurl"}
LONGEST_TOLD = 512                                       # characters of it that are taken into the key
FOR_ORIGIN = frozenset({"if-match", "if-unmodified-since", "upgrade"})    # only the origin may judge these (section 4.3.2)
CONDITIONS = frozenset({"if-none-match", "if-modified-since"})
HEEDED = frozenset({"cache-control", "pragma", "range", "if-range"}) | CONDITIONS | FOR_ORIGIN | CONFUSING
ASKS, COOKIE, AUTHORIZATION = 1, 2, 4                    # what seen() finds
KINDS = Kinds(dict.fromkeys(HEEDED, ASKS) | {"cookie": COOKIE, "authorization": AUTHORIZATION})


class RequestDirectives:
    """``bypass`` says why the cache has nothing to do with the request; empty when it has. ``told`` is what a trusted proxy says of
    it, to be added to the key. ``directs``: one of the directives counts. Seconds are None where the request does not say;
    ``max_stale`` without a value is infinite."""

    __slots__ = ("bypass", "told", "directs", "no_cache", "no_store", "only_if_cached", "max_age", "max_stale", "min_fresh",
                 "stale_if_error", "if_none_match", "if_modified_since", "range", "if_range")

    def __init__(self) -> None:
        self.bypass = self.told = ""
        self.directs = self.no_cache = self.no_store = self.only_if_cached = False
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

    def heed(self, lines: list[str], pragma: list[str]) -> None:
        """Section 5.2.1; Pragma only where there is no Cache-Control (section 5.4)."""
        given = directives(lines) if lines else {"no-cache": True} if "no-cache" in directives(pragma) else {}
        self.no_cache = "no-cache" in given
        self.no_store = "no-store" in given
        self.only_if_cached = "only-if-cached" in given
        self.max_age = delta_seconds(given["max-age"]) if "max-age" in given else None
        self.min_fresh = delta_seconds(given["min-fresh"]) if "min-fresh" in given else None
        self.stale_if_error = delta_seconds(given["stale-if-error"]) if "stale-if-error" in given else None
        if "max-stale" in given:
            self.max_stale = float("inf") if given["max-stale"] is True else delta_seconds(given["max-stale"])
        self.directs = bool(self.no_cache or self.max_age is not None or self.min_fresh is not None
                            or self.max_stale is not None)

    def __repr__(self) -> str:
        said = {name: getattr(self, name) for name in self.__slots__}
        shown = [f"{name}={value!r}" for name, value in said.items() if value not in (None, "", False, [])]
        return f"RequestDirectives({', '.join(shown)})"


def seen(headers: Headers) -> int:
    """ASKS where the request asks something of a cache, COOKIE and AUTHORIZATION where it shows who its user is; together."""
    found = 0
    for name, _ in headers:
        found |= KINDS[name]
    return found


def request_directives(headers: Headers, heeding: bool = True, method: str = "GET",
                       believing: bool = False) -> RequestDirectives | None:
    """None when the request asks nothing. ``heeding`` False: the client's directives count for nothing on this route.
    ``believing``: they are those of a trusted proxy, and what it says may be in the key."""
    if not seen(headers) & ASKS:
        return None
    asked = RequestDirectives()
    lines: list[str] = []
    pragma: list[str] = []
    told: list[tuple[str, str]] = []
    for name, value in headers:
        name = name.lower()
        if name not in HEEDED:
            continue
        if name == "cache-control":
            lines.append(value)
        elif name == "pragma":
            pragma.append(value)
        elif name == "range":
            asked.range = value.strip()
        elif name == "if-range":
            asked.if_range = value.strip()
        elif name == "if-none-match":
            asked.if_none_match.append(value)
        elif name == "if-modified-since":
            asked.if_modified_since = value
        elif believing and name in TOLD:
            told.append((name, value))
        else:
            asked.bypass = name
    if told:
        told.sort(key=lambda field: field[0])            # of one name the order stays: upstreams differ in which they take
        asked.told = "".join([f"{SEPARATOR}{name}: {value}" for name, value in told])
        if len(asked.told) > LONGEST_TOLD:
            asked.bypass = asked.bypass or told[0][0]
    if heeding and (lines or pragma):
        asked.heed(lines, pragma)
        if asked.no_store:
            asked.bypass = asked.bypass or "no-store"
    if method != "GET":                                  # ranges are of GET alone (RFC 9110 section 14.2)
        asked.range = None
    if method not in ("GET", "HEAD"):
        asked.if_modified_since = None                   # ignored there (section 13.1.3), while the other one means 412 (13.1.2)
        if asked.if_none_match:
            asked.bypass = asked.bypass or "if-none-match"
    return asked
