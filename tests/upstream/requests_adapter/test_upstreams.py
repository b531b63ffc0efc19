"""``http://<upstream>/``: balanced, and told of the request; the errors of a call."""

from __future__ import annotations

import pytest
import requests
from odd_service import redirect

from gateway.errors import ConnectFailed, UpstreamClosed, UpstreamTruncated
from gateway.upstream.requests.adapter import gateway_error, govern_requests, governor


def test_a_name_is_balanced_over_its_instances(orders, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")           # an internal name is for no proxy
    one, two = orders()
    answers = [requests.get("http://orders/echo", params={"n": number}).json() for number in range(6)]
    answers += [requests.Session().post("HTTP://ann:pw@ORDERS/echo").json()]
    assert [answer["target"] for answer in answers] == [f"/echo?n={number}" for number in range(6)] + ["/echo"]
    assert sorted((len(one.requests), len(two.requests))) == [3, 4]
    assert {record.header("Host") for record in one.requests} == {f"127.0.0.1:{one.port}"}
    assert (one.connections, two.connections) == (1, 1)
    assert repr(governor) == "Governor(active, Orders)"


def test_a_name_with_a_port_or_https_is_a_foreign_host(orders):
    orders()
    for url in ("http://orders:1/", "https://orders/"):
        with pytest.raises(requests.ConnectionError):
            requests.get(url)


@pytest.mark.parametrize("setting, inside, given, expected", [
    ("upstream", True, None, "instance"), ("preserve", True, None, "public.test"), ("preserve", False, None, "instance"),
    ("orders.internal", True, None, "orders.internal"), ("preserve", True, "mine.test", "mine.test"),
])
def test_the_host_an_upstream_sees(setting, inside, given, expected, orders, in_request):
    one, two = orders(host=setting)
    if inside:
        in_request()
    requests.get("http://orders/echo", headers={"Host": given} if given else {})
    record = (one.requests + two.requests)[0]
    assert record.header("Host") in ([f"127.0.0.1:{each.port}" for each in (one, two)] if expected == "instance" else [expected])


TRACED = [("Traceparent", "00-a-b-01"), ("tracestate", "x=1"), ("tracestate", "y=2"), ("X-Other", "secret"), ("Cookie", "sid=1")]


def context_fields(record) -> list[tuple[str, str]]:
    """What the client did not write itself."""
    usual = {"host", "user-agent", "accept-encoding", "accept", "connection"}
    return [(name.lower(), value) for name, value in record.headers if name.lower() not in usual]


def test_an_upstream_is_told_of_the_request_and_a_foreign_host_is_not(orders, service, in_request):
    one, two = orders()
    foreign = service()
    requests.get("http://orders/echo")
    in_request(headers=TRACED)
    requests.get("http://orders/echo")
    requests.get("http://orders/echo", headers={"x-request-id": "mine", "TraceParent": "own"})
    requests.get(foreign.base + "/echo")
    records = one.requests + two.requests
    assert sorted(map(context_fields, records)) == [
        [], [("x-request-id", "id-of-the-request"), ("traceparent", "00-a-b-01"), ("tracestate", "x=1"), ("tracestate", "y=2")],
        [("x-request-id", "mine"), ("traceparent", "own")]]
    assert context_fields(foreign.requests[0]) == []


def test_a_redirect_from_an_upstream_to_a_foreign_host_tells_it_nothing(orders, service, in_request):
    foreign = service()
    for each in orders():
        each.extra["/away"] = lambda record: redirect(foreign.base + "/echo")
    in_request(headers=TRACED)
    assert requests.get("http://orders/away").history
    assert context_fields(foreign.requests[0]) == []


# -- errors

@pytest.mark.parametrize("path, expected, cause", [
    ("/says-nothing", requests.ConnectionError, UpstreamClosed),
    ("/short", requests.exceptions.ChunkedEncodingError, UpstreamTruncated),
    ("/short-big", requests.exceptions.ChunkedEncodingError, UpstreamTruncated),
])
def test_behind_every_error_is_one_of_ours(path, expected, cause, service):
    govern_requests()
    with pytest.raises(expected) as excinfo:
        requests.get(service().base + path)
    assert type(excinfo.value) is expected
    assert isinstance(gateway_error(excinfo.value), cause) and gateway_error(excinfo.value).instance


def test_a_refused_connection_names_the_place(web):
    govern_requests()
    with pytest.raises(requests.ConnectionError, match=r"HTTPConnectionPool\(host='127.0.0.1', port=\d+\): Max retries") as excinfo:
        requests.get(web.refused)
    assert isinstance(excinfo.value.__cause__, ConnectFailed)


@pytest.mark.parametrize("error", [None, ValueError("mine"), requests.exceptions.InvalidURL("mine")])
def test_what_is_not_of_a_call_has_nothing_of_ours_behind_it(error):
    assert gateway_error(error) is None


def test_an_error_of_a_views_own_is_not_taken_for_the_upstreams(service):
    govern_requests()
    try:
        requests.get(service().base + "/says-nothing")
    except requests.ConnectionError:
        try:
            {}["defect"]
        except KeyError as defect:
            assert gateway_error(defect) is None
