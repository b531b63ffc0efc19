"""How an answer becomes an entry, and what a 304 makes of it: RFC 9111 sentence by sentence, with its section."""

from __future__ import annotations

import pytest
from answers import BODY, CC, NOW, arrived, date

from gateway.cache import decide, rules
from gateway.cache.entry import PUBLIC, Entry
from gateway.config import CacheKey, CacheSettings
from gateway.message import Request, Response

# -- May it be stored? (section 3)


@pytest.mark.parametrize("section, headers, given, refusal", [
    ("3", [(CC, "max-age=60")], {}, None),
    ("3", [(CC, "max-age=60")], {"method": "HEAD"}, "method"),
    ("3", [(CC, "max-age=60")], {"method": "POST"}, "method"),
    ("3", [(CC, "max-age=60")], {"method": "OPTIONS"}, "method"),
    ("3", [(CC, "max-age=60")], {"method": "POST", "methods": ("GET", "POST")}, None),
    ("3", [("Expires", date(60))], {}, None),
    ("3", [], {}, "useless"),                                            # no freshness, no validator: nothing to gain
    ("3", [("ETag", '"a"')], {}, None),                                  # kept to be validated
    ("3", [(CC, "max-age=60")], {"status": 299}, None),                  # any final status with freshness of its own
    ("3", [(CC, "max-age=60")], {"status": 500}, None),
    ("3", [(CC, "max-age=60")], {"status": 302}, None),
    ("3", [("ETag", '"a"')], {"status": 302}, "status"),
    ("3", [("Last-Modified", date(-864000))], {"status": 403}, "status"),
    ("3", [("Last-Modified", date(-864000))], {"status": 503}, "status"),
    ("3", [("Last-Modified", date(-864000))], {"status": 599}, "status"),
    ("5.2.2.9", [("Last-Modified", date(-864000)), (CC, "public")], {"status": 299}, None),
    ("safety", [("Last-Modified", date(-864000)), (CC, "public")], {"status": 503}, "status"),
    ("3.3", [(CC, "max-age=60"), ("Content-Range", "bytes 0-9/20")], {"status": 206}, "partial"),
    ("3.4", [(CC, "max-age=60")], {"status": 304}, "partial"),
    ("3", [(CC, "max-age=60")], {"status": 199}, "partial"),             # no final answer
    ("safety", [(CC, "max-age=60"), ("X-Partial", "orders")], {}, "partial"),
    ("3.5", [(CC, "max-age=60")], {"asked": [("Authorization", "x")]}, "authorization"),
    ("3.5", [(CC, "max-age=60")], {"asked": [("AUTHORIZATION", "x")]}, "authorization"),
    ("3.5", [(CC, "max-age=60, public")], {"asked": [("Authorization", "x")]}, None),
    ("3.5", [(CC, "max-age=60, must-revalidate")], {"asked": [("Authorization", "x")]}, None),
    # must-revalidate permits to share for as long as the answer says itself, not for as long as the route or a guess does
    ("safety", [(CC, "must-revalidate")], {"asked": [("Authorization", "x")], "ttl": "30s"}, "authorization"),
    ("safety", [(CC, "must-revalidate"), ("Last-Modified", date(-864000))], {"asked": [("Authorization", "x")]}, "authorization"),
    ("safety", [(CC, "must-revalidate"), ("Expires", date(60))], {"asked": [("Authorization", "x")]}, None),
    ("3.5", [(CC, "s-maxage=60")], {"asked": [("Authorization", "x")]}, None),
    ("3.5", [(CC, "max-age=60, proxy-revalidate")], {"asked": [("Authorization", "x")]}, "authorization"),
    ("3.5", [("Expires", date(60))], {"asked": [("Authorization", "x")]}, "authorization"),
    ("3.5", [(CC, "max-age=60")], {"asked": [("Authorization", "x")], "personal": True}, None),
    ("4.1", [(CC, "max-age=60"), ("Vary", "*")], {}, "vary"),
    ("4.1", [(CC, "max-age=60"), ("Vary", "Accept, *")], {}, "vary"),
    ("safety", [(CC, "max-age=60"), ("Vary", "Accept, X-Request-ID")], {}, "vary"),      # another with each request
    ("4.1", [(CC, "max-age=60"), ("Vary", ""), ("vary", ", *")], {}, "vary"),
    ("5.2.1.5", [(CC, "max-age=60")], {"asked": [(CC, "no-store")]}, "request"),
    ("policy", [(CC, "max-age=60")], {"asked": [(CC, "no-store")], "client_directives": False}, None),
    ("5.2.2.5", [(CC, "no-store")], {}, "no-store"),
    ("5.2.2.5", [(CC, "max-age=60, No-StOrE")], {}, "no-store"),
    ("5.2.2.5", [(CC, "max-age=60"), (CC, "no-store")], {}, "no-store"),
    ("5.2.2.5", [(CC, "max-age=60, no-store=1")], {}, "no-store"),       # what is restrictive stays so in a broken form
    ("5.2.2.3", [(CC, "max-age=60, no-store, must-understand")], {}, None),
    ("5.2.2.3", [(CC, "max-age=60, no-store, must-understand")], {"status": 599}, "no-store"),
    ("5.2.2.3", [(CC, "max-age=60, must-understand")], {"status": 599}, "no-store"),
    ("5.2.2.7", [(CC, "private, max-age=60")], {}, "private"),
    ("5.2.2.7", [(CC, "private, public, max-age=60")], {}, "private"),
    ("5.2.2.7", [(CC, "private, max-age=60")], {"personal": True}, None),
    ("5.2.2.7", [(CC, 'private="X-Mine", max-age=60')], {}, None),
    ("5.2.2.7", [(CC, 'private="", max-age=60')], {}, "private"),        # a list of nothing restricts all
    ("5.2.2.7", [(CC, "private=yes, max-age=60")], {}, None),            # a token is the field's name
    ("7.3", [(CC, "max-age=60"), ("Set-Cookie", "a=b")], {}, "set-cookie"),
    ("7.3", [(CC, "max-age=60, public"), ("set-cookie", "a=b")], {}, "set-cookie"),
    ("7.3", [(CC, "max-age=60"), ("Set-Cookie", "a=b")], {"share_cookies": True}, None),
    ("safety", [("Last-Modified", date(-864000))], {"asked": [("Cookie", "sid=1")]}, "cookie"),
    ("safety", [], {"asked": [("Cookie", "sid=1")], "ttl": "30s"}, "cookie"),
    ("safety", [], {"asked": [("Cookie", "sid=1")], "ttl": "30s", "respect": "policy"}, "cookie"),
    ("safety", [(CC, "max-age=9")], {"asked": [("Cookie", "sid=1")], "ttl": "30s", "respect": "policy"}, "cookie"),
    ("safety", [], {"asked": [("Cookie", "sid=1")], "ttl": "30s", "key": CacheKey(cookies=())}, None),
    ("safety", [(CC, "max-age=60")], {"asked": [("Cookie", "sid=1")]}, "cookie"),
    ("safety", [("Expires", date(60))], {"asked": [("COOKIE", "")]}, "cookie"),
    ("safety", [(CC, "max-age=60, must-revalidate")], {"asked": [("Cookie", "sid=1")]}, "cookie"),   # a middleware writes that, too
    ("safety", [(CC, "max-age=60, proxy-revalidate, immutable")], {"asked": [("Cookie", "sid=1")]}, "cookie"),
    ("safety", [(CC, "max-age=60, public")], {"asked": [("Cookie", "sid=1")]}, None),
    ("safety", [(CC, "s-maxage=60")], {"asked": [("Cookie", "sid=1")]}, None),
    ("safety", [("CDN-Cache-Control", "max-age=60")], {"asked": [("Cookie", "sid=1")]}, None),
    ("safety", [("Wicketgate-Cache-Control", "max-age=60")], {"asked": [("Cookie", "sid=1")]}, None),
    ("safety", [("CDN-Cache-Control", "no-cache"), (CC, "public")], {"asked": [("Cookie", "sid=1")]}, "cookie"),
    ("safety", [("CDN-Cache-Control", "max-age=60")], {"asked": [("Authorization", "x")]}, "authorization"),   # 3.5 names three
    ("safety", [(CC, "max-age=60"), ("Vary", "Accept, cookie")], {"asked": [("Cookie", "sid=1")]}, None),
    ("safety", [(CC, "max-age=60"), ("Vary", "X-Cookie")], {"asked": [("Cookie", "sid=1")]}, "cookie"),
    ("safety", [(CC, "max-age=60"), ("Vary", "Cookie")], {"asked": [("Cookie", "a"), ("Authorization", "x")]}, "authorization"),
    ("safety", [(CC, "max-age=60")], {"asked": [("Cookie", "sid=1")], "personal": True}, None),
    ("safety", [(CC, "max-age=60")], {"asked": [("Cookie", "sid=1")], "key": CacheKey(cookies=("x",))}, None),
    ("safety", [(CC, "public")], {"asked": [("Cookie", "sid=1")], "ttl": "30s"}, None),
    ("safety", [(CC, "public")], {"asked": [("Cookie", "sid=1")], "ttl": "30s", "respect": "policy"}, None),
    # What the route ignores permits nothing: PHP writes no-store, must-revalidate on every page with a session
    ("safety", [(CC, "no-store, no-cache, must-revalidate")],
     {"asked": [("Authorization", "x")], "ttl": "30s", "respect": "policy"}, "authorization"),
    ("safety", [(CC, "private, s-maxage=60")], {"asked": [("Authorization", "x")], "ttl": "30s", "respect": "policy"},
     "authorization"),
    ("safety", [(CC, "private, public")], {"asked": [("Cookie", "x")], "ttl": "30s", "respect": "policy"}, "cookie"),
    ("safety", [("CDN-Cache-Control", "no-store, max-age=9")], {"asked": [("Cookie", "x")], "ttl": "30s", "respect": "policy"},
     "cookie"),
    ("5.2.2.4", [(CC, 'max-age=60, no-cache="Set-Cookie"'), ("Set-Cookie", "a=b")], {}, None),       # kept without that field
    ("5.2.2.7", [(CC, 'max-age=60, private="set-cookie"'), ("Set-Cookie", "a=b")], {}, None),
    ("5.2.2.7", [(CC, 'max-age=60, private="set-cookie"'), ("Set-Cookie2", "a=b")], {}, "set-cookie"),
    ("safety", [(CC, "max-age=60"), ("Content-Length", "11")], {}, "length"),
    ("safety", [(CC, "max-age=60"), ("Content-Length", "9" * 5000)], {}, "length"),
    ("safety", [(CC, "max-age=60"), ("Content-Length", "10"), ("Content-Length", "11")], {}, "length"),
    ("3", [(CC, "max-age=60"), ("Content-Length", "10")], {}, None),
    ("3", [(CC, "max-age=60")], {"max_object": 9}, "size"),
    ("3", [(CC, "max-age=60")], {"max_object": 10}, None),
    ("3", [(CC, "max-age=60"), ("Content-Length", "11")], {"body": iter(()), "max_object": 10}, "size"),
    ("RFC 9213 2.2", [(CC, "max-age=60"), ("CDN-Cache-Control", "no-store")], {}, "no-store"),
    ("RFC 9213 2.2", [(CC, "max-age=60"), ("CDN-Cache-Control", "private")], {}, "private"),
    ("RFC 9213 2.2", [(CC, "no-store"), ("CDN-Cache-Control", "max-age=60")], {}, None),
    ("RFC 9213 2.1", [(CC, "no-store"), ("CDN-Cache-Control", "max-age=60, &&&")], {}, "no-store"),
    ("RFC 9213 2.1", [(CC, "no-store"), ("CDN-Cache-Control", "")], {}, "no-store"),
    ("RFC 9213 2.2", [("CDN-Cache-Control", "no-store"), ("Wicketgate-Cache-Control", "max-age=60")], {}, None),
    ("policy", [], {"ttl": "30s"}, None),
    ("policy", [], {"ttl": "30s", "status": 500}, "status"),
    ("policy", [], {"ttl": "30s", "status": 404}, "useless"),            # an error is not an answer: negative_ttl is its own
    ("policy", [], {"negative_ttl": "30s", "status": 404}, None),
    ("policy", [], {"negative_ttl": "30s", "status": 400}, "provoked"),
    ("safety", [(CC, "max-age=60")], {"status": 431}, "provoked"),
    ("safety", [(CC, "s-maxage=60")], {"status": 400}, None),
    ("safety", [(CC, "public, max-age=60")], {"status": 431}, None),
    ("4.2.2", [(CC, "max-age=60")], {"status": 405}, None), ("4.2.2", [(CC, "max-age=60")], {"status": 414}, None),
    ("policy", [], {"negative_ttl": "30s", "status": 500}, "status"),
    ("policy", [(CC, "no-store")], {"ttl": "30s"}, "no-store"),
    ("policy", [(CC, "no-store, private")], {"ttl": "30s", "respect": "policy"}, None),
    ("policy", [(CC, "no-store")], {"ttl": "30s", "respect": "stricter"}, "no-store"),
    ("policy", [("Set-Cookie", "a=b")], {"ttl": "30s", "respect": "policy"}, "set-cookie"),
    ("policy", [], {"asked": [("Authorization", "x")], "ttl": "30s", "respect": "policy"}, "authorization"),
    ("policy", [("Vary", "*")], {"ttl": "30s", "respect": "policy"}, "vary"),
])
def test_what_is_stored(section, headers, given, refusal):
    made = arrived(headers, **given)
    assert (made if isinstance(made, str) else None) == refusal


# -- For how long is it fresh? (sections 4.2 and 5)

@pytest.mark.parametrize("section, headers, given, left", [
    ("4.2.1", [(CC, "max-age=60")], {}, 60),
    ("4.2.1", [(CC, "max-age=60, s-maxage=10")], {}, 10),
    ("4.2.1", [(CC, "s-maxage=60, max-age=0")], {}, 60),
    ("4.2.1", [(CC, "max-age=60"), ("Expires", date(-60))], {}, 60),
    ("4.2.1", [(CC, "max-age=0"), ("Expires", date(60))], {}, 0),
    ("4.2.1", [(CC, "max-age=60"), ("Expires", "0")], {}, 60),
    ("4.2.1", [("Expires", date(60)), ("Date", date(0))], {}, 60),
    ("4.2.1", [("Expires", date(60)), ("Date", date(-30))], {}, 60),     # lifetime 90, age 30
    ("4.2.1", [("Expires", date(60)), ("Date", date(30))], {}, 30),      # a clock ahead of ours
    ("4.2.1", [("Expires", date(60)), ("Date", "broken")], {}, 60),
    ("4.2.1", [("Expires", date(60)), ("Expires", date(600))], {}, 60),
    ("4.2.1", [(CC, "max-age=-5")], {}, 0),
    ("4.2.1", [(CC, "max-age=5.5")], {}, 0),
    ("4.2.1", [(CC, "max-age")], {}, 0),
    ("4.2.1", [(CC, "max-age='60'")], {}, 0),
    ("4.2.1", [(CC, "s-maxage=x, max-age=60")], {}, 0),
    ("4.2.1", [(CC, "max-age=60, max-age=10")], {}, 60),
    ("1.2.2", [(CC, "max-age=99999999999999999999")], {}, 2 ** 31),
    ("5.2", [(CC, 'max-age="60"')], {}, 60),
    ("5.2", [(CC, "MAX-age=60, unknown=1")], {}, 60),
    ("5.3", [("Expires", "0")], {}, 0),
    ("5.3", [("Expires", "")], {}, 0),
    ("5.3", [("Expires", date(-1))], {}, 0),
    ("5.1", [(CC, "max-age=60"), ("Age", "20")], {}, 40),
    ("policy", [("Last-Modified", date(-864000))], {"respect": "policy"}, 0),            # what is ignored is no reason to guess
    ("5.1", [(CC, "max-age=60"), ("Age", "70")], {}, -10),
    ("5.1", [(CC, "max-age=60"), ("Age", "20, 50")], {}, 40),            # of a list the first
    ("5.1", [(CC, "max-age=60"), ("Age", "20 ,50")], {}, 40),
    ("5.1", [(CC, "max-age=60"), ("Age", "20"), ("Age", "50")], {}, 40),
    ("5.1", [(CC, "max-age=60"), ("Age", "x")], {}, 60),                 # what is no number does not count
    ("5.1", [(CC, "max-age=60"), ("Age", "-20")], {}, 60),
    ("5.1", [(CC, "max-age=60"), ("Age", "20.5")], {}, 60),
    ("4.2.3", [(CC, "max-age=60")], {"took": 5.0}, 55),
    ("4.2.3", [(CC, "max-age=60"), ("Age", "10")], {"took": 5.0}, 45),
    ("4.2.3", [(CC, "max-age=60"), ("Date", date(-20))], {}, 40),        # apparent age
    ("4.2.3", [(CC, "max-age=60"), ("Date", date(-20)), ("Age", "30")], {}, 30),
    ("4.2.3", [(CC, "max-age=60"), ("Date", date(500))], {}, 60),        # a date ahead of us is no negative age
    ("4.2.2", [("Last-Modified", date(-1000)), ("Date", date(0))], {}, 100),
    ("4.2.2", [("Last-Modified", date(-1000)), ("Date", date(0)), ("Age", "20")], {}, 80),
    ("4.2.2", [("Last-Modified", date(-10 ** 8)), ("Date", date(0))], {}, 86400),
    ("4.2.2", [("Last-Modified", date(100)), ("Date", date(0))], {}, 0),
    ("4.2.2", [("Last-Modified", "broken"), ("ETag", '"a"')], {}, 0),
    ("4.2.2", [("Last-Modified", date(-1000)), ("Expires", "0")], {}, 0),             # no guess where it says something
    ("RFC 9213", [(CC, "max-age=5"), ("CDN-Cache-Control", "max-age=60"), ("Expires", date(9))], {}, 60),
    ("RFC 9213", [(CC, "max-age=500"), ("CDN-Cache-Control", "max-age=60")], {}, 60),
    ("RFC 9213", [("CDN-Cache-Control", "max-age=60"), ("Wicketgate-Cache-Control", "max-age=7")], {}, 7),
    ("RFC 9213", [("CDN-Cache-Control", 'max-age="60"'), ("ETag", '"a"')], {}, 0),
    ("RFC 9213", [("Surrogate-Control", "max-age=600"), (CC, "max-age=60")], {}, 60),    # not one of ours
    ("policy", [], {"ttl": "30s"}, 30),
    ("policy", [], {"ttl": "30s", "took": 5.0}, 30),                     # counted from when it came
    ("policy", [(CC, "max-age=60")], {"ttl": "30s"}, 60),
    ("policy", [(CC, "max-age=60")], {"ttl": "30s", "respect": "policy"}, 30),
    ("policy", [(CC, "max-age=60")], {"ttl": "30s", "respect": "stricter"}, 30),
    ("policy", [(CC, "max-age=10")], {"ttl": "30s", "respect": "stricter"}, 10),
    ("policy", [], {"ttl": "30s", "respect": "stricter"}, 30),
    ("policy", [], {"negative_ttl": "5s", "ttl": "30s", "status": 404}, 5),
    ("policy", [("Last-Modified", date(-10 ** 7))], {"ttl": "30s"}, 30),
])
def test_freshness(section, headers, given, left):
    made = arrived([*headers, ("ETag", '"v"')], **given)
    assert isinstance(made, Entry), made
    assert made.expires - NOW == left


@pytest.mark.parametrize("section, cc, policy, refresh, error", [
    ("RFC 5861 3", "max-age=60, stale-while-revalidate=10", {}, 10, 0),
    ("RFC 5861 4", "max-age=60, stale-if-error=20", {}, 0, 20),
    ("RFC 5861", "max-age=60, stale-while-revalidate=x, stale-if-error=-1", {}, 0, 0),
    ("RFC 5861", "max-age=60, stale-while-revalidate=0, stale-if-error=0", {}, 0, rules.NEVER),
    ("policy", "max-age=60, stale-if-error=0", {"stale_if_error": "2m"}, 0, 120),
    ("4.2.4", "max-age=60, stale-while-revalidate=10, must-revalidate", {}, 0, 0),
    ("4.2.4", "max-age=60, stale-if-error=10, proxy-revalidate", {}, 0, 0),
    ("5.2.2.10", "s-maxage=60, stale-while-revalidate=10, stale-if-error=10", {}, 0, 0),
    ("4.2.4", "no-cache, max-age=60, stale-if-error=10", {}, 0, 0),
    ("policy", "max-age=60", {"stale_while_revalidate": "1m", "stale_if_error": "2m"}, 60, 120),
    ("policy", "max-age=60, stale-while-revalidate=5", {"stale_while_revalidate": "1m"}, 60, 0),
    ("policy", "s-maxage=60", {"stale_while_revalidate": "1m", "stale_if_error": "2m"}, 60, 120),
    ("policy", "max-age=60, must-revalidate", {"stale_while_revalidate": "1m", "stale_if_error": "2m"}, 0, 0),
    ("policy", "max-age=60, proxy-revalidate", {"stale_while_revalidate": "1m", "stale_if_error": "2m"}, 0, 0),
])
def test_windows_for_stale_answers(section, cc, policy, refresh, error):
    made = arrived([(CC, cc)], **policy)
    assert (made.stale_while_revalidate - made.expires, made.stale_if_error - made.expires) == (refresh, error)


def test_statuses_that_are_stored_without_freshness_of_their_own():
    """RFC 9110 section 15.1, but for 206: by a guess, or for the route's time."""
    cacheable = {status for status in range(200, 600) if not isinstance(
        arrived([("Last-Modified", date(-864000))], status=status), decide.NotStored)}
    assert cacheable == {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}
    timed = {status for status in range(200, 600) if not isinstance(arrived([], status=status, ttl="9s"), decide.NotStored)}
    assert timed == {200, 203, 204, 300, 301, 308}


@pytest.mark.parametrize("fields, stored_date, age, lifetime", [
    ([(CC, "max-age=60")], date(100), 0, 60), ([(CC, "max-age=60"), ("Date", date(80))], date(80), 20, 40),
    ([("Date", date(100)), ("Expires", date(160))], date(100), 0, 60), ([("Expires", date(160))], date(100), 0, 60)])
def test_dates_of_messages_are_by_the_machines_clock(fields, stored_date, age, lifetime):
    """That is 100 s ahead of the cache's, which was agreed upon before it was set."""
    entry = rules.entry_of(Request("GET", "/a", []), Response(200, fields, BODY), CacheSettings(), request_time=NOW,
                           response_time=NOW, ahead=100.0)
    assert [value for name, value in entry.headers if name == "Date"] == [stored_date]
    assert (entry.born, entry.expires) == (NOW - age, NOW + lifetime)


@pytest.mark.parametrize("late, age", [(0.0, 0.0), (0.999, 0.0), (1.0, 1.0), (1.5, 1.5)])
def test_a_date_has_whole_seconds(late, age):
    """RFC 9111 section 4.2.3: what is less than a second older than its Date may have no age at all."""
    entry = rules.entry_of(Request("GET", "/a", []), Response(200, [(CC, "max-age=60"), ("Date", date(0))], BODY), CacheSettings(),
                           request_time=NOW + late, response_time=NOW + late)
    assert entry.born == NOW + late - age


def test_what_is_stored_of_the_header():
    made = arrived([("Connection", "close, X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "5"), ("Proxy-Authenticate", "x"), ("TE", "x"),
                    ("Upgrade", "x"), ("Trailer", "x"), ("Transfer-Encoding", "chunked"), ("Age", "5"), ("X-Request-Id", "1"),
                    ("Wicketgate-Cache-Control", 'max-age=60, private="X-Mine", no-cache="x-own, x-other"'), ("X-Mine", "1"),
                    ("X-Own", "1"), ("X-Other", "1"), ("X-Kept", "Link"), ("Link", "a"), ("Link", "b"), ("Date", "broken")])
    assert made.headers == [("X-Kept", "Link"), ("Link", "a"), ("Link", "b"), ("Date", date(0)), ("Content-Length", "10")]
    assert made.flags == PUBLIC and made.body is BODY and made.born == NOW - 5


@pytest.mark.parametrize("cc", ['max-age=60, no-cache="Date"', 'max-age=60, private="date"', "max-age=60"])
@pytest.mark.parametrize("dated", [[("date", date(-5))], []])
def test_a_stored_answer_has_one_date(cc, dated):
    """RFC 9110 section 6.6.1, whatever else is left out."""
    made = arrived([(CC, cc), *dated])
    assert [value for name, value in made.headers if name.lower() == "date"] == [date(-5 if dated else 0)]


def test_tags_come_from_the_route_and_the_upstream():
    made = arrived([(CC, "max-age=1"), ("Surrogate-Key", "a  b"), ("Cache-Tag", "c, d e ,"), ("surrogate-key", "f")], tags=("g",))
    assert made.tags == {"a", "b", "c", "d e", "f", "g"}


@pytest.mark.parametrize("cc, tag, expected", [
    ("max-age=60", None, 60 + decide.UNREACHABLE),
    ("max-age=60, stale-if-error=500", None, 560),
    ("max-age=60, must-revalidate", None, 60),
    ("max-age=60, immutable", None, 60 + decide.UNREACHABLE),
    ("max-age=60", '"v"', 60 + rules.VALIDATION_WINDOW),
    ("no-cache", '"v"', rules.VALIDATION_WINDOW)])
def test_it_is_kept_while_it_may_be_of_use(cc, tag, expected):
    made = arrived([(CC, cc), *([("ETag", tag)] if tag else [])])
    assert rules.useful_for(made, NOW) == expected


# -- nginx in front

@pytest.mark.parametrize("cc, fields, policy, later, windows, expected", [
    ("max-age=60", [], {}, 0.0, (0, 0), 30.0),                           # no longer than the route says ...
    ("max-age=60", [], {}, 40.0, (0, 0), 19.0),                          # ... nor than it is fresh, less a tick of nginx
    ("max-age=60", [], {}, 59.0, (0, 0), 0.0), ("max-age=60", [], {}, 60.0, (0, 0), 0.0),
    ("no-cache, max-age=60", [("ETag", '"v"')], {}, 0.0, (0, 0), 0.0),
    ("max-age=5, stale-while-revalidate=60", [], {}, 10.0, (0, 0), 0.0),
    # nginx selects by the address alone
    ("max-age=60", [], {"vary_by_caller": True}, 0.0, (0, 0), 0.0),
    ("max-age=60", [], {"key": CacheKey(headers=("X",))}, 0.0, (0, 0), 0.0),
    ("max-age=60", [], {"key": CacheKey(cookies=("a",))}, 0.0, (0, 0), 0.0),
    ("max-age=60", [], {"key": CacheKey(cookies=())}, 0.0, (0, 0), 30.0),
    ("max-age=60", [("Vary", "Accept")], {}, 0.0, (0, 0), 30.0),
    ("max-age=60", [("Vary", "X-Forwarded-Host")], {}, 0.0, (0, 0), 0.0),
    # for so long nginx serves it after that: while it is renewed, while nobody answers
    ("max-age=60, stale-while-revalidate=50", [], {}, 0.0, (100, 0), 9.0),
    ("max-age=60, stale-if-error=20", [], {}, 0.0, (0, 70), 9.0),
    ("max-age=60, stale-while-revalidate=50, stale-if-error=20", [], {}, 0.0, (0, 100), 9.0),
])
def test_how_long_nginx_may_keep_it(cc, fields, policy, later, windows, expected):
    entry = arrived([(CC, cc), *fields], **policy)
    assert rules.edge_seconds(entry, CacheSettings(**policy), 30.0, NOW + later, *windows) == expected


# -- Freshening (section 4.3.4)

def test_a_304_renews_what_it_may_renew():
    made = arrived([(CC, "max-age=5"), ("ETag", '"v"'), ("X-Old", "1"), ("X-Both", "1"), ("Content-Type", "a/b"),
                    ("Content-Encoding", "gzip"), ("Content-Length", "10"), ("Date", date(0))])
    request = Request("GET", "/a", [], host="shop.test")
    new, answer = rules.freshen(made, request, [
        (CC, "max-age=60"), ("X-Both", "2"), ("X-Both", "3"), ("X-New", "4"), ("Content-Length", "0"), ("Content-Encoding", "br"),
        ("Connection", "X-Hop"), ("X-Hop", "5"), ("Age", "2"), ("Date", date(100))], CacheSettings(),
        request_time=NOW + 100, response_time=NOW + 100)
    assert sorted(new.headers) == sorted([
        ("ETag", '"v"'), ("X-Old", "1"), ("Content-Type", "a/b"), ("Content-Encoding", "gzip"), ("Content-Length", "10"),
        (CC, "max-age=60"), ("X-Both", "2"), ("X-Both", "3"), ("X-New", "4"), ("Date", date(100))])
    assert (new.born, new.expires, new.body, new.etag) == (NOW + 98, NOW + 158, BODY, '"v"')
    assert answer.status == 200 and made.expires == NOW + 5


V, W, OTHER, WEAK_OTHER = ('"v"', 'W/"v"', '"x"', 'W/"x"')
OLD, NEW = date(-1000), date(-10)


@pytest.mark.parametrize("stored, told, expected", [
    # tag and date of what is stored, those of a 304, the tag afterwards; False: it is about something else
    ((V, None), (V, None), V), ((W, None), (W, None), W), ((W, None), (V, None), False), ((V, None), (W, None), W),
    ((V, None), (OTHER, None), False), ((V, None), (WEAK_OTHER, None), False), ((W, None), (WEAK_OTHER, None), False),
    # a tag goes before a date
    ((V, OLD), (V, NEW), V), ((W, OLD), (W, NEW), W), ((V, OLD), (OTHER, OLD), False), ((W, OLD), (WEAK_OTHER, OLD), False),
    # a strong tag is no other's, unless a strong date says so: the stored one stays, which may be that of compressed bytes
    ((W, OLD), (V, OLD), W), ((W, date(-60)), (V, date(-60)), W), ((W, date(-59)), (V, date(-59)), False),
    ((W, OLD), (V, NEW), False), ((None, OLD), (V, OLD), None), ((None, NEW), (V, NEW), False), ((W, None), (V, OLD), False),
    # a date counts where either has no tag
    ((None, OLD), (None, OLD), None), ((None, OLD), (None, NEW), False), ((V, OLD), (None, OLD), V), ((V, OLD), (None, NEW), False),
    ((None, OLD), (W, OLD), W), ((None, OLD), (W, NEW), False), ((None, OLD), (W, None), False), ((None, OLD), (V, None), False),
    ((V, None), (None, OLD), False),
    # nothing that could be compared: it is about what was asked for
    ((V, None), (None, None), V), ((None, OLD), (None, None), None), ((None, None), (None, None), None),
    ((V, None), (None, "broken"), V), ((None, OLD), (None, "broken"), None),
    # without quotes
    (("v", None), ("v", None), "v"), (("v", None), (W, None), W), (("v", None), ("x", None), False)])
def test_which_stored_answer_a_304_is_about(stored, told, expected):
    made, update = ([(name, value) for name, value in zip(("ETag", "Last-Modified"), pair) if value] for pair in (stored, told))
    entry = arrived([(CC, "max-age=5"), *made])
    assert rules.confirms(entry, update) is (expected is not False)
    if expected is not False:
        new, answer = rules.freshen(entry, Request("GET", "/a", []), update, CacheSettings(), request_time=NOW, response_time=NOW)
        assert (new.etag, [value for name, value in answer.headers if name == "ETag"]) == (expected, [expected] if expected else [])


@pytest.mark.parametrize("modified, expected", [(7940, True), (7941, False), (8000, False), (8001, False)])
def test_a_date_is_strong_by_the_date_beside_it(modified, expected):
    """RFC 9110 section 8.8.2.2: both are by the origin's clock, which may be hours ahead of ours."""
    entry = arrived([(CC, "max-age=5"), ("Date", date(8000)), ("ETag", W), ("Last-Modified", date(modified))])
    assert rules.confirms(entry, [("ETag", V), ("Last-Modified", date(modified))]) is expected


def test_a_304_may_take_the_permission_away():
    made = arrived([(CC, "max-age=5"), ("ETag", '"v"')])
    update = [(CC, "no-store"), ("Age", "5"), ("X-Request-Id", "1")]
    new, answer = rules.freshen(made, Request("GET", "/a", []), update, CacheSettings(), request_time=NOW, response_time=NOW)
    assert new == "no-store"
    assert (answer.status, answer.body) == (200, BODY)
    assert not [name for name, _ in answer.headers if name in ("Age", "X-Request-Id")]


@pytest.mark.parametrize("section, headers, expected", [
    ("4.3.5", [], True), ("4.3.5", [("ETag", '"v"'), ("Content-Length", "10")], True), ("4.3.5", [("ETag", '"w"')], False),
    ("4.3.5", [("Content-Length", "11")], False), ("4.3.5", [("Last-Modified", date(0))], False)])
def test_head_tells_whether_the_stored_answer_is_still_right(section, headers, expected):
    assert rules.same_answer(arrived([(CC, "max-age=5"), ("ETag", '"v"')]), headers) is expected


@pytest.mark.parametrize("fields, expected", [
    ([("ETag", '"v"')], [("If-None-Match", '"v"')]), ([], []),
    ([("Last-Modified", date(-10))], [("If-Modified-Since", date(-10))])])
def test_validators_are_those_that_there_are(fields, expected):
    assert list(rules.validators(arrived([(CC, "max-age=5"), *fields]))) == expected


def test_validators_are_sent_as_they_came():
    made = arrived([("ETag", 'W/"v"'), ("last-modified", "Sunday, 06-Nov-94 08:49:37 GMT"), (CC, "no-cache")])
    assert list(rules.validators(made)) == [("If-None-Match", 'W/"v"'), ("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")]


@pytest.mark.parametrize("cookies, expected", [(None, (("accept", None), ("cookie", "a=1"))), ((), (("accept", None),)),
                                               (("a",), (("accept", None),))])
def test_where_the_route_says_which_cookies_count_the_others_do_not_vary_an_answer(cookies, expected):
    made = arrived([(CC, "max-age=60"), ("Vary", "Cookie, Accept")], asked=[("Cookie", "a=1")], key=CacheKey(cookies=cookies))
    assert made.vary == expected
