"""What a route's cache means for compositions: their key is what they are made of."""

from __future__ import annotations

import pytest

from gateway.cache.policy import policy_of
from gateway.config import Route


def policy(cache, **parts):
    route = Route.model_validate({"path": "/a", "cache": cache, "aggregate": parts})
    return policy_of(route, route.cache)


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
    route = Route.model_validate({"path": "/a", "cache": {"ttl": "5s"}, "view": True})
    assert policy_of(route, route.cache) is route.cache


@pytest.mark.parametrize("target, cookies", [
    ({"upstream": "u"}, None), ({"view": True}, None), ({"respond": {"text": "x"}}, ()), ({"files": "/srv"}, ()),
    ({"upstream": "u", "request_headers": {"remove": ["COOKIE"]}}, ()),
    ({"upstream": "u", "request_headers": {"remove": ["X"]}}, None),
    ({"upstream": "u", "request_headers": {"remove": ["Cookie"]}, "cache": {"key": {"cookies": ["a"]}}}, ("a",)),
])
def test_cookies_that_nobody_sees_do_not_count(target, cookies):
    route = Route.model_validate({"path": "/a", "cache": {}, **target})
    assert policy_of(route, route.cache).key.cookies == cookies
