"""Answers that arrive now, what is made of them, and generated ones, for the tests of the cache's rules and decisions."""

from __future__ import annotations

from email.utils import formatdate

from hypothesis import strategies as st

from gateway.cache import rules
from gateway.config import CacheSettings
from gateway.message import Request, Response

NOW = 1_780_000_000.0
BODY = b"0123456789"


def date(offset: float) -> str:
    return formatdate(NOW + offset, usegmt=True)


def arrived(headers, *, asked=(), status=200, method="GET", took=0.0, body=BODY, personal=False, **policy):
    """What becomes of an answer that comes now to a request that left ``took`` seconds ago."""
    request = Request(method, "/a", list(asked), host="shop.test")
    response = Response(status, list(headers), body)
    size = len(body) if isinstance(body, bytes) and status not in (204, 304) else None
    return rules.entry_of(request, response, CacheSettings(**policy), request_time=NOW - took, response_time=NOW,
                          url="http://shop.test/a", personal=personal, size=size)


CC = "Cache-Control"


directive = st.one_of(
    st.sampled_from(["no-store", "private", "no-cache", "public", "must-revalidate", "proxy-revalidate", "must-understand",
                     "immutable", 'private="x-a"', 'no-cache="x-b"', "unknown", "max-age", "s-maxage=", 'x="a, b"']),
    st.builds("{}={}".format, st.sampled_from(["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"]),
              st.sampled_from([0, 1, 30, 5000, -1, "x", '"7"', "1.5", 10 ** 12])))
control = st.lists(directive, max_size=4).map(", ".join)
offset = st.sampled_from([-10 ** 7, -5000, -20, -1, 0, 1, 20, 5000])
response_field = st.one_of(
    st.tuples(st.sampled_from([CC, "cache-control", "CDN-Cache-Control", "Wicketgate-Cache-Control"]), control),
    st.tuples(st.sampled_from(["Expires", "Date", "Last-Modified"]), st.one_of(offset.map(date), st.sampled_from(["0", "", "x"]))),
    st.tuples(st.just("Age"), st.sampled_from(["0", "10", "x", "5, 6", "-3"])),
    st.tuples(st.just("Vary"), st.sampled_from(["*", "Accept", "Cookie, Accept", "", "accept-language"])),
    st.tuples(st.just("ETag"), st.sampled_from(['"a"', 'W/"b"', "c"])),
    st.tuples(st.just("Set-Cookie"), st.just("sid=1")))
request_field = st.one_of(
    st.tuples(st.just("Authorization"), st.just("Bearer x")), st.tuples(st.just("Cookie"), st.just("sid=1")),
    st.tuples(st.just(CC), st.sampled_from(["no-store", "no-cache", "max-age=0", "max-stale", "min-fresh=5", "max-stale=9"])),
    st.tuples(st.just("Accept"), st.sampled_from(["a/b", "c/d"])), st.tuples(st.just("Pragma"), st.just("no-cache")))
policies = st.fixed_dictionaries({}, optional={
    "ttl": st.just("30s"), "negative_ttl": st.just("9s"), "respect": st.sampled_from(["headers", "policy", "stricter"]),
    "stale_while_revalidate": st.just("1m"), "stale_if_error": st.just("1m"), "share_cookies": st.booleans()})
statuses = st.sampled_from([200, 200, 200, 204, 206, 299, 301, 302, 304, 400, 404, 410, 500, 503])
exchange = st.tuples(st.lists(response_field, max_size=6), st.lists(request_field, max_size=3), statuses, policies,
                     st.sampled_from([0.0, 3.0]))
