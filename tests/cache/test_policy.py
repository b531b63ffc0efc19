"""What a route's cache means for its targets: the key of a composition is what it is made of."""

from __future__ import annotations

import pytest

from gateway.cache.policy import policy_of
from gateway.cache.step import CacheStep
from gateway.config import Config, RespondSettings
from gateway.message import Response
from gateway.pipeline import Pipeline
from gateway.respond import Respond
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry


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
