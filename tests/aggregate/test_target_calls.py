"""The calls of the parts: header fields, bodies, time and attempts."""

from __future__ import annotations

import orjson
import pytest

from gateway.aggregate.target import MAX_BODY, Aggregate
from gateway.deadline import Deadline
from gateway.errors import BadRequest, BodyTooLarge, PartFailed
from gateway.forward import Forwarding
from gateway.message import Request
from tests.aggregate.composing import ANN, answer_of, answering, body_of, built, compose, parts, request


def called(part, asked=None, **others):
    """The call that a part makes."""
    calls = []
    built(parts(part=part, **others), lambda upstream, call: calls.append(call) or answer_of(1))(asked or request())
    return calls[0]


CLIENT = [("Host", "shop.test"), ("cookie", "sid=1"), ("AUTHORIZATION", "Bearer x"), ("Accept-Language", "de"),
          ("Accept", "text/html"), ("X-Tenant", "a"), ("X-Tenant", "b"), ("TraceParent", "00-1-2-01"), ("tracestate", "x=y"),
          ("X-Request-Id", "forged"), ("X-Forwarded-For", "6.6.6.6"), ("Accept-Encoding", "gzip"), ("If-None-Match", '"1"')]
TRACE = [("TraceParent", "00-1-2-01"), ("tracestate", "x=y")]
JSON = ("Accept", "application/json")
PLAIN = ("Accept-Encoding", "identity")
ID = ("X-Request-Id", "req-1")


@pytest.mark.parametrize("settings, headers, sent", [
    ({}, [], [JSON, PLAIN, ID]),
    ({}, CLIENT, [CLIENT[1], CLIENT[2], CLIENT[3], *TRACE, JSON, PLAIN, ID]),
    ({"forward_headers": []}, CLIENT, [*TRACE, JSON, PLAIN, ID]),
    ({"forward_headers": ["x-tenant"]}, CLIENT, [CLIENT[5], CLIENT[6], *TRACE, JSON, PLAIN, ID]),
    ({"forward_headers": ["accept"]}, CLIENT, [CLIENT[4], *TRACE, PLAIN, ID]),
    ({"forward_headers": ["Cookie"]}, [("Cookie", "a=1"), ("Connection", "close, cookie")], [JSON, PLAIN, ID]),
    ({"forward_headers": [], "headers": {"ACCEPT": "application/hal+json"}}, [], [PLAIN, ("ACCEPT", "application/hal+json"), ID]),
    ({"forward_headers": ["X-Tenant"], "headers": {"x-tenant": "<{header.X-Tenant}>"}}, CLIENT,
     [*TRACE, JSON, PLAIN, ("x-tenant", "<a>"), ID]),
    ({"headers": {"X-Name": "é {query.q:-ü}"}}, [], [JSON, PLAIN, ("X-Name", "\xc3\xa9 \xc3\xbc"), ID]),
])
def test_header_fields(settings, headers, sent):
    assert called({"from": "a:/", **settings}, request(headers=headers)).headers == sent


def test_every_part_is_told_who_asked_whatever_it_takes_from_the_client():
    calls = []
    forwarding = Forwarding("wicketgate")
    send = answering({"a:/": {"x": 1}, "b:/1": 2}, calls)
    asked = Request("GET", "/", CLIENT, host="shop.test", peer="10.0.0.7")
    asked.id = "req-1"
    plain = {"forward_headers": [], "headers": {"Accept": "*/*"}}
    Aggregate(parts(a={"from": "a:/", **plain}, b={"from": "b:/{a.x}", **plain}), send, forwarding)(asked)
    assert [call.headers for call in calls] == [[*TRACE, PLAIN, ("Accept", "*/*"), *forwarding(asked)]] * 2
    assert ("X-Forwarded-For", "10.0.0.7") in calls[0].headers and ("Via", "1.1 wicketgate") in calls[0].headers


@pytest.mark.parametrize("settings, body, sent", [
    ({}, b"ignored", None),
    ({"method": "POST"}, b"ignored", b""),
    ({"method": "PUT"}, b"", b""),
    ({"method": "DELETE"}, b"", None),
    ({"json": {"a": [1, "x", "{{b}}"]}}, b"", b'{"a":[1,"x","{b}"]}'),
    ({"method": "POST", "json": {"q": "{query.q}", "id": "{body.user.id}", "all": "{body.user}", "text": "id {body.user.id}"}},
     b'{"user": {"id": 5}}', b'{"q":"Q","id":5,"all":{"id":5},"text":"id 5"}'),
    ({"method": "POST", "json": {"a": "{body.a:-none}"}}, b"", b'{"a":"none"}'),
])
def test_bodies(settings, body, sent):
    call = called({"from": "a:/", **settings}, request("/?q=Q", body=body_of(body), method="POST"))
    assert (call.method, call.body) == (settings.get("method", "GET"), sent)
    assert (("Content-Type", "application/json") in call.headers) == ("json" in settings)


def test_a_body_may_hold_another_parts_answer():
    calls = []
    compose({"user": "a:/", "score": {"from": "b:/", "json": "{user.address}"}}, {"a:/": {"address": ANN}, "b:/": 1}, calls=calls)
    assert orjson.loads(calls[1].body) == ANN


def test_an_answer_too_deep_for_a_body_is_a_failure():
    with pytest.raises(PartFailed, match="part 'score': the values for its body are nested too deeply"):
        compose({"user": "a:/", "score": {"from": "b:/", "json": "{user.0}"}}, {"a:/": b"[" * 500 + b"]" * 500})


@pytest.mark.parametrize("data, error", [(b"{", BadRequest), (b"\xff", BadRequest), (b" " * (MAX_BODY + 1), BodyTooLarge)])
@pytest.mark.parametrize("optional", [False, True])
def test_bodies_that_cannot_be_read(data, error, optional):
    with pytest.raises(error):
        called({"from": "a:/{body.a:-x}", "optional": optional}, request(body=body_of(data, None)))


def test_a_body_that_no_part_asks_for_is_not_read():
    asked = request(body=body_of(b"{"))
    called("a:/", asked)
    assert not asked.body.is_started


def test_time_attempts_and_target():
    asked = request(params={"id": "a/b"})
    asked.deadline = Deadline(10, clock=lambda: 100.0)
    call = called({"from": "a:/{id}", "timeout": "250ms"}, asked)
    assert (call.target, call.deadline.at, call.attempts is asked.attempts, call.host) == ("/a%2Fb", 100.25, True, None)
    assert called({"from": "a:/", "timeout": "20s"}, asked).deadline is asked.deadline
    assert called("a:/", asked).deadline is asked.deadline


def test_the_milliseconds_of_each_part_are_noted():
    now = [100.0]

    def send(upstream, call):
        now[0] += 0.0214
        return answer_of({"x": 1})

    asked = request()
    asked.deadline = Deadline(10, clock=lambda: now[0])
    built(parts(a="a:/", b="b:/{a.x}"), send)(asked)
    assert asked.notes == {"parts": {"a": 21.4, "b": 21.4}}
