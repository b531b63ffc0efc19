"""Keys and Vary: which requests get the same answer."""

from __future__ import annotations

import pytest

from gateway.cache.entry import MOST_VARIANTS, Entry, Variants, with_entry
from gateway.cache.key import KeyOf, caller, normal, policy_of, select, selection
from gateway.cache.step import CacheStep
from gateway.config import CacheSettings, Config, RespondSettings
from gateway.message import Request, Response
from gateway.pipeline import Pipeline
from gateway.respond import Respond
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry


def asking(target="/a", headers=(), host="shop.test", scheme="http", caller=None, port=""):
    request = Request("GET", target, list(headers), host=host, scheme=scheme)
    request.port = port
    if caller is not None:
        request.notes["caller"] = caller
    return request


def same(policy, one, other, scope=""):
    key_of = KeyOf(CacheSettings.model_validate(policy), scope)
    return key_of(asking(**one)) == key_of(asking(**other))


COOKIE = {"headers": [("Cookie", "a=1; b=2")]}
APP = {"headers": [("Authorization", "Basic app")]}      # what all users of an application show


@pytest.mark.parametrize("policy, one, other, expected", [
    ({}, {}, {}, True),
    ({}, {}, {"host": "SHOP.test"}, True),
    ({}, {}, {"host": "other.test"}, False),
    ({}, {}, {"host": "shop.test:81"}, False),
    ({}, {}, {"scheme": "https"}, False),
    ({}, {}, {"target": "/A"}, False),
    ({}, {}, {"target": "/a/"}, False),
    ({}, {}, {"target": "/%61"}, False),                                 # a server may tell them apart
    ({}, {}, {"target": "/a?"}, False),
    ({}, {"target": "/a?x=1"}, {"target": "/a?x=2"}, False),
    ({}, {"target": "/a?x=1&y=2"}, {"target": "/a?y=2&x=1"}, False),
    ({}, {"target": "/a?x=1&x=2"}, {"target": "/a?x=2&x=1"}, False),
    ({"key": {"sort_query": True}}, {"target": "/a?x=1&y=2"}, {"target": "/a?y=2&x=1"}, True),
    ({"key": {"sort_query": True}}, {"target": "/a?x=1&x=2"}, {"target": "/a?x=2&x=1"}, False),
    ({"key": {"ignore_query": ["utm_*", "fbclid"]}}, {"target": "/a?utm_source=x&fbclid=1&p=2"}, {"target": "/a?p=2"}, True),
    ({"key": {"ignore_query": ["utm_*"]}}, {"target": "/a?utm_source=x"}, {"target": "/a"}, True),
    ({"key": {"ignore_query": ["utm_*"]}}, {"target": "/a?utm=x"}, {"target": "/a"}, False),
    ({"key": {"query": ["page"]}}, {"target": "/a?page=1&x=2"}, {"target": "/a?page=1&x=3"}, True),
    ({"key": {"query": ["page"]}}, {"target": "/a?page=1"}, {"target": "/a?page=2"}, False),
    ({"key": {"query": []}}, {"target": "/a?page=1"}, {"target": "/a"}, True),
    # What an upstream may take for a parameter that counts, counts
    *[({"key": {"query": ["page", "user_id"]}}, {"target": "/a?page=1"}, {"target": f"/a?page=1&{other}"}, False)
      for other in ("page=2", "%70age=2", "Page=2", "+page=2", "%20page=2", "page[]=2", "page%5Bx%5D=2", "x=1;page=2", "page%00=2",
                    "user.id=2", "user%20id=2")],
    *[({"key": {"query": ["page"]}}, {"target": "/a?page=1"}, {"target": f"/a?page=1&{other}"}, True)
      for other in ("x=2", "%78=page", "x[page]=2", "")],
    # What only looks like one that counts, or is ignored, does not
    ({"key": {"query": ["user_id"]}}, {"target": "/a?user_id=1"}, {"target": "/a?user_id=1&other_id=2"}, True),
    ({"key": {"query": ["page"]}}, {"target": "/a?page=1"}, {"target": "/a?page=1&pages=2&pag=3"}, True),
    ({"key": {"ignore_query": ["page"]}}, {"target": "/a?pages=1"}, {"target": "/a?pages=2"}, False),
    ({"key": {"ignore_query": ["page"]}}, {"target": "/a?pag=1"}, {"target": "/a?pag=2"}, False),
    ({"key": {"query": ["utm_*"]}}, {"target": "/a"}, {"target": "/a?UTM.x=1"}, False),
    ({"key": {"ignore_query": ["utm_*"]}}, {"target": "/a?page=1&utm_x=1;page=2"}, {"target": "/a?page=1"}, False),
    ({"key": {"ignore_query": ["utm_*"]}}, {"target": "/a?page=1&utm_x=1%3Bpage=2"}, {"target": "/a?page=1"}, True),
    *[({"key": {"cookies": ["my_a"]}}, {"headers": [("Cookie", "my_a=1")]}, {"headers": [("Cookie", other)]}, False)
      for other in ("my_a=1; my_a=2", "my_a=2; my_a=1", "my_a=1; my_a =2", "my_a=1; my.a=2", "my.a=1", "MY_A=1", "%6dy_a=1",
                    "my_a[]=1")],
    ({"key": {"cookies": ["a"]}}, {"headers": [("Cookie", "a=1"), ("Cookie", "a=2")]}, {"headers": [("Cookie", "a=1; a=2")]}, True),
    ({}, {"port": "8443"}, {}, False),
    ({}, {"port": "80"}, {}, True),
    ({}, {"port": "80", "scheme": "https"}, {"scheme": "https"}, False),
    ({}, {"port": "443", "scheme": "https"}, {"scheme": "https"}, True),
    ({}, {"port": "81", "host": "shop.test:81"}, {"host": "shop.test:81"}, True),
    ({}, {"port": "80", "host": "[::1]"}, {"host": "[::1]"}, True),
    ({}, {"headers": [("X-Team", "a")]}, {"headers": [("X-Team", "b")]}, True),
    ({"key": {"headers": ["X-Team"]}}, {"headers": [("x-team", "a")]}, {"headers": [("X-Team", "b")]}, False),
    ({"key": {"headers": ["X-Team"]}}, {"headers": [("x-team", "a , b")]}, {"headers": [("X-Team", "a"), ("X-TEAM", "b")]}, True),
    ({"key": {"headers": ["X-Team"]}}, {}, {"headers": [("X-Team", "")]}, False),
    ({"key": {"headers": ["X-A", "X-B"]}}, {"headers": [("X-A", "1")]}, {"headers": [("X-B", "1")]}, False),
    ({}, COOKIE, {}, True),
    ({"key": {"cookies": ["a"]}}, COOKIE, {"headers": [("Cookie", "b=9;  a=1")]}, True),
    ({"key": {"cookies": ["a"]}}, COOKIE, {"headers": [("Cookie", "a=3")]}, False),
    ({"key": {"cookies": ["a"]}}, COOKIE, {}, False),
    ({}, {"headers": [("Authorization", "x")]}, {"headers": [("Authorization", "y")]}, True),
    ({"vary_by_caller": True}, {"headers": [("Authorization", "x")]}, {"headers": [("authorization", "x")]}, True),
    ({"vary_by_caller": True}, {"headers": [("Authorization", "x")]}, {"headers": [("Authorization", "y")]}, False),
    ({"vary_by_caller": True}, {"headers": [("Authorization", "x")]}, {}, False),
    ({"vary_by_caller": True}, APP, {"headers": [*APP["headers"], ("Cookie", "sid=ann")]}, False),
    ({"vary_by_caller": True}, {"headers": [*APP["headers"], ("Cookie", "sid=bob")]},
     {"headers": [*APP["headers"], ("Cookie", "sid=ann")]}, False),
    ({"vary_by_caller": True, "key": {"cookies": ["sid"]}}, {"headers": [*APP["headers"], ("Cookie", "_ga=1; sid=ann")]},
     {"headers": [*APP["headers"], ("Cookie", "_ga=2; sid=ann")]}, True),
    ({"vary_by_caller": True}, {"caller": "ann", "headers": [("Cookie", "_ga=1")]}, {"caller": "ann"}, True),
    ({"vary_by_caller": True}, {"caller": "ann"}, {"caller": "bob"}, False),
    ({"vary_by_caller": True}, {"caller": "ann", "headers": [("Authorization", "x")]}, {"caller": "ann"}, True),
])
def test_the_same_key(policy, one, other, expected):
    assert same(policy, one, other) is expected


@pytest.mark.parametrize("value", ["", "None", "no cookie a"])
def test_what_is_missing_is_like_no_value(value):
    assert not same({"key": {"cookies": ["a"]}}, {}, {"headers": [("Cookie", f"a={value}")]})
    assert not same({"key": {"headers": ["X-A"]}}, {}, {"headers": [("X-A", value)]})


def test_an_address_is_purged_whatever_its_port():
    assert KeyOf(CacheSettings()).url(asking(port="8443")) == "http://shop.test/a"


def test_nothing_a_client_sends_can_look_like_another_part_of_a_key():
    key_of = KeyOf(CacheSettings.model_validate({"key": {"headers": ["X-A", "X-B"]}}))
    assert key_of(asking(headers=[("X-A", "1\tx-b: 2")])) != key_of(asking(headers=[("X-A", "1"), ("X-B", "2")]))


def test_routes_with_conditions_have_keys_of_their_own():
    assert KeyOf(CacheSettings(), "GET /a [header X-Beta=1]")(asking()) != KeyOf(CacheSettings())(asking())


def test_strangers_have_no_caller():
    assert caller(asking()) == ""
    assert caller(asking(headers=[("Authorization", "secret")])).find("secret") == -1


@pytest.mark.parametrize("name, lines, expected", [
    ("x", [], None), ("x", [""], ""), ("x", ["a,b"], "a,b"), ("x", [" a ,  b "], "a,b"), ("x", ["a", "b"], "a,b"),
    ("x", ["b, a"], "b,a"), ("x", ["A"], "A"), ("x", ["\tx,x "], "x,x"),
    ("accept-language", ["en, de"], "de,en"), ("accept-language", ["DE ,en"], "de,en"), ("accept-language", ["de", "en"], "de,en"),
    ("accept-language", ["en; q=0.5, de"], "de,en;q=0.5"), ("accept-encoding", ["gzip, br, gzip"], "br,gzip"),
    ("accept-encoding", ["gzip,, br,"], "br,gzip"),
    ("accept", ["Text/HTML,  a/b"], "a/b,text/html"), ("cookie", ["a=1, b"], "a=1, b"), ("cookie", ["a=1", "b=2"], "a=1; b=2")])
def test_the_normal_form_of_a_field(name, lines, expected):
    assert normal(name, lines) == expected


def entry(vary, asked, language=None):
    headers = [("Content-Type", "text/html"), *([("Content-Language", language)] if language else [])]
    return Entry(200, "OK", headers, b"", request_time=0, response_time=0, born=0, expires=1, stale_while_revalidate=1,
                 stale_if_error=1, vary=selection([vary], {name: [value] for name, value in asked.items()}))


@pytest.mark.parametrize("section, vary, stored, asked, language, expected", [
    ("4.1", "", {}, [("Foo", "2")], None, True),
    ("4.1", "Foo", {"foo": "1"}, [("FOO", "1")], None, True),
    ("4.1", "foo", {"foo": "1"}, [("Foo", "2")], None, False),
    ("4.1", "Foo", {"foo": "1"}, [], None, False),
    ("4.1", "Foo", {}, [("Foo", "1")], None, False),
    ("4.1", "Foo", {}, [], None, True),
    ("4.1", "Foo", {}, [("Foo", "")], None, False),
    ("4.1", "Foo, Bar", {"foo": "1", "bar": "2"}, [("Bar", "2"), ("Foo", "1")], None, True),
    ("4.1", "Foo, Bar", {"foo": "1", "bar": "2"}, [("Foo", "1")], None, False),
    ("4.1", "Foo", {"foo": "1, 2"}, [("Foo", "1"), ("Foo", "2")], None, True),
    ("4.1", "Foo", {"foo": "1,2"}, [("Foo", " 1,  2 ")], None, True),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "DE,en")], None, True),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "fr;q=0.5, de;q=1.0")], "de", True),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "fr;q=0.9, de;q=0.5")], "de", False),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "fr, de")], "de", False),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "fr, de")], "fr", False),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "fr, de, it;q=0.5")], "fr", False),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "de, fr;q=1.0")], "de", False),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "fr;q=1.0, de")], "fr", False),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "de, fr;q=0")], "de", True),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "de;level=1;q=0.3, fr;q=0.5")], "de", False),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "de")], "DE", True),
    ("4.1", "Accept-Language", {"accept-language": "en, de"}, [("Accept-Language", "de;q=0")], "de", False),
    ("4.1", "Accept-Language", {"accept-language": "en"}, [("Accept-Language", "de;q=x")], "de", False),
    ("4.1", "Accept-Language", {"accept-language": "en"}, [], "de", False),
    ("4.1", "Accept-Language", {"accept-language": "en"}, [("Accept-Language", "de")], "de, fr", False),
])
def test_vary(section, vary, stored, asked, language, expected):
    found = select(Variants([entry(vary, stored, language)]), asking(headers=asked))
    assert (found is not None) is expected


def test_the_latest_of_several_is_taken_and_one_of_the_same_fields_is_replaced():
    first, second, third = entry("Foo", {"foo": "1"}), entry("Foo", {"foo": "2"}), entry("Foo", {"foo": "1"})
    variants = with_entry(with_entry((first,), second), third)
    assert variants == (third, second)
    plain = entry("", {})
    assert select(with_entry(variants, plain), asking(headers=[("Foo", "2")])) is second       # section 4.1: one with a Vary
    assert select(with_entry(variants, plain), asking(headers=[("Foo", "3")])) is plain
    assert select(with_entry(variants, plain, second), asking(headers=[("Foo", "2")])) is plain       # asked for in its stead
    newer = entry("Bar", {})
    newer.born = 1.0
    for both in (with_entry((second,), newer), with_entry((newer,), second)):
        assert select(both, asking(headers=[("Foo", "2")])) is newer     # section 4: by Date, not by when it came
    twin = entry("Bar", {})
    assert select(with_entry((second,), twin), asking(headers=[("Foo", "2")])) is twin       # of the same Date: when it came


def test_variants_are_bounded():
    variants: Variants = ()
    for number in range(MOST_VARIANTS + 5):
        variants = with_entry(variants, entry("Foo", {"foo": str(number)}))
    assert len(variants) == MOST_VARIANTS
    assert variants[0].vary == (("foo", str(MOST_VARIANTS + 4)),)


# What a route's cache means for its targets: the key of a composition is what it is made of

def policy_for(**route):
    """The policy of the cache step of a route, and the settings it is made of."""
    upstream = {"instances": ["http://127.0.0.1:1"]}
    config = Config.model_validate({"routes": [{"path": "/a/*", **route}], "upstreams": {"up": upstream, "u": upstream}})
    pipeline = Pipeline(config, view=lambda request: Response(200, []), log=RequestLog("off"), registry=Registry())
    [step] = [step for step in pipeline.steps(config.routes[0]) if isinstance(step, CacheStep)]
    return step.policy, config.routes[0].cache


def policy(cache, **parts):
    return policy_for(cache=cache, aggregate=parts)[0]


@pytest.mark.parametrize("cache, parts, headers, cookies", [
    ({}, {"one": "up:/a"}, ("Accept-Language",), None),
    ({}, {"one": {"from": "up:/a", "forward_headers": []}}, (), ()),     # no cookie goes on, so none counts
    ({}, {"one": {"from": "up:/a", "forward_headers": []}, "two": {"from": "up:/b", "forward_headers": ["cookie"]}}, (), None),
    ({}, {"one": {"from": "up:/{cookie.c}", "forward_headers": []}}, (), None),
    ({}, {"one": {"from": "up:/{header.Cookie}", "forward_headers": []}}, (), None),
    ({}, {"one": {"from": "up:/a?x={header.X-Team}&y={cookie.c}", "forward_headers": ["Cookie"]}}, ("X-Team",), None),
    ({"key": {"headers": ["x-team"], "cookies": ["a"]}},
     {"one": {"from": "up:/a", "headers": {"X": "{header.X-Team} {cookie.c}"}, "json": ["{header.B}"], "forward_headers": []}},
     ("x-team", "B"), ("a", "c")),
])
def test_what_a_composition_sends_on_is_in_its_key(cache, parts, headers, cookies):
    made = policy(cache, **parts)
    assert (made.key.headers, made.key.cookies) == (headers, cookies)


@pytest.mark.parametrize("cache, respect", [
    ({}, "headers"), ({"ttl": "5s"}, "policy"), ({"ttl": "5s", "respect": "stricter"}, "policy")])
def test_a_ttl_goes_before_the_no_store_of_a_composition(cache, respect):
    assert policy(cache, one="up:/a").respect == respect


def test_other_targets_are_as_they_say():
    made, settings = policy_for(cache={"ttl": "5s"}, view=True)
    assert made is settings


@pytest.mark.parametrize("target, cookies", [
    ({"upstream": "u"}, None), ({"view": True}, None), ({"respond": {"text": "x"}}, ()), ({"files": "/srv"}, ()),
    ({"upstream": "u", "request_headers": {"remove": ["COOKIE"]}}, ()),
    ({"upstream": "u", "request_headers": {"remove": ["X"]}}, None),
    ({"upstream": "u", "request_headers": {"remove": ["Cookie"]}, "cache": {"key": {"cookies": ["a"]}}}, ("a",)),
])
def test_cookies_that_nobody_sees_do_not_count(target, cookies):
    made, _ = policy_for(**{"cache": {}, **target})
    assert made.key.cookies == cookies


def test_a_cookie_counts_where_one_of_several_targets_sees_it():
    _, settings = policy_for(cache={}, view=True)
    blind = Respond(RespondSettings(text="x"))
    assert policy_of(settings, [blind, blind]).key.cookies == ()
    assert policy_of(settings, [blind, lambda request: Response(200, [])]) is settings
