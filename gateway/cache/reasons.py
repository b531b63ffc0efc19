"""Decisions of the cache as values, each with its reason. Pure.

Serving acts on these values, Cache-Status, the log and the counters print them, and ``gateway explain`` prints their sentences.
decide.py makes them.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class Decision(Enum):
    """What happens to a request. ``label`` is the outcome that is counted and logged, ``fwd`` the parameter of Cache-Status (RFC
    9211 section 2.2; empty where the request does not go on), ``sentence`` says it to people, ``detail`` being the field or
    method that is the reason. ``serves``: a stored answer, at once. ``passes``: what it gets is not stored, nor shared."""

    HIT = "hit", "", "fresh: it is served"
    STALE_WHILE_REVALIDATE = "stale-while-revalidate", "", "expired: it is served, and refreshed beside that"
    MAX_STALE = "max-stale", "", "expired, but the client takes it so: it is served"
    STALE = "stale", "stale", "expired: validated with the upstream first"
    NO_CACHE = "stale", "stale", "no-cache: validated with the upstream first"
    REQUEST = "request", "request", "fresh, but the client wants it newer: validated with the upstream first"
    URI_MISS = "uri-miss", "uri-miss", "nothing is stored: it goes on"
    VARY_MISS = "vary-miss", "vary-miss", "none of them is for this request, by their Vary: it goes on (vary-miss)"
    COOKIE = "cookie", "bypass", "not for this request, which may have an answer of its own (cookie): it goes past"
    AUTHORIZATION = "authorization", "bypass", ("not for this request, which may have an answer of its own (authorization): it goes"
                                                " past")
    METHOD = "method", "method", "the method {detail}"
    NO_STORE = "request", "request", "the client says no-store", "no-store"
    PRECONDITION = "bypass", "bypass", "{detail} is for the origin alone to judge"
    CONFUSING = "bypass", "bypass", "{detail} makes some frameworks answer for another method or address"
    BODY = "bypass", "bypass", "its body is not looked at", "body"
    ONLY_IF_CACHED = "only-if-cached", "", "504: only-if-cached", "only-if-cached"
    COLLAPSED = "collapsed", "", "it gets the answer to another request"
    STALE_IF_ERROR = "stale-if-error", "", "expired, but served in place of an error"

    def __init__(self, label: str, fwd: str, sentence: str, detail: str = "") -> None:
        self.label = label
        self.fwd = fwd
        self.sentence = sentence
        self.detail = detail
        self.serves = label in ("hit", "stale-while-revalidate", "max-stale")
        self.passes = fwd in ("bypass", "method") or bool(fwd and detail)

    def __repr__(self) -> str:
        return self.name


# Where every request reads them: a member of an Enum is found by a call of a function in Python 3.11
HIT, STALE_WHILE_REVALIDATE, URI_MISS, VARY_MISS = (
    Decision.HIT, Decision.STALE_WHILE_REVALIDATE, Decision.URI_MISS, Decision.VARY_MISS)


class NotStored(StrEnum):
    """Why an answer is not stored. ``transient``: it says nothing about the next answer, which may well be stored. ``personal``: it
    is about this request's user, and what is stored for others stays as it is."""

    METHOD = "method", "only answers to GET are stored, and to POST where the route says so", "transient"
    REQUEST = "request", "the request says no-store (RFC 9111 section 5.2.1.5)", "transient personal"
    PARTIAL = "partial", "206 and 304 are parts (3.3, 3.4), and so is a composition that lacks one of its own", "transient"
    VARY = "vary", "Vary: * (4.1), or a field that is another with each request"
    SET_COOKIE = "set-cookie", "it sets a cookie for one client, and the route does not share those"
    NO_STORE = "no-store", "(5.2.2.5), unless must-understand says otherwise of a status known here (5.2.2.3)"
    PRIVATE = "private", "(5.2.2.7), unless the key tells callers apart"
    PROVOKED = "provoked", "an error for what is odd about this request beside its address, and not said to be for everybody"
    AUTHORIZATION = "authorization", ("the request was authenticated, and the answer says neither public nor s-maxage, nor"
                                      " must-revalidate with a lifetime of its own (3.5)"), "personal"
    COOKIE = "cookie", ("the request carried a cookie: neither does the answer say that it is for everybody or varies by Cookie,"
                        " nor the route which cookies count"), "personal"
    STATUS = "status", "not cacheable by itself, and without freshness of its own (3)"
    USELESS = "useless", "stale at once, and nothing to validate it with"
    LENGTH = "length", "not as long as its Content-Length"
    SIZE = "size", "larger than the route's max_object"
    USES = "uses", "not requested often enough yet (min_uses)"
    PURGED = "purged", "purged while it was on its way"
    CUT = "cut", "its body came to no end", "transient"
    CHANGED = "changed", "an answer to HEAD says that what is stored has changed", "transient"
    HEAD = "HEAD", "an answer to HEAD has no body"

    sentence: str
    transient: bool
    personal: bool

    def __new__(cls, label: str, sentence: str, kinds: str = "") -> NotStored:
        member = str.__new__(cls, label)
        member._value_ = label
        member.sentence = sentence
        member.transient = "transient" in kinds
        member.personal = "personal" in kinds
        return member


class SharingScope(Enum):
    """Whether a request and others wait for one answer, said to people."""

    ALL = "one request for this key goes on, the others wait for it"
    HEAD = "for nobody, a HEAD asks for itself"
    PART = "for nobody, a part is of no use to others"
    CALLER = "for nobody, what was made for one caller is not for others"
