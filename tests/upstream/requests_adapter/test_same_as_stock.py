"""Every scenario gives the same, governed and stock; and where it differs, on purpose."""

from __future__ import annotations

import pytest
import requests
from customized import CUSTOMIZED
from odd_service import End, answer, chunked
from scenarios import GOVERNED, STOCK, describe, describe_error, without_nonce

from gateway.errors import UpstreamClosed
from gateway.upstream.requests.adapter import govern_requests


def outcome(scenario, web, services):
    """What a scenario gives or raises, and what the services saw of it."""
    for one in services:
        one.requests.clear()
    try:
        result = describe(scenario(web), web)
    except Exception as error:
        result = "raised", describe_error(error)
    return result, [(one.method, one.target, without_nonce(one.headers), one.body) for each in services for one in each.requests]


OURS = GOVERNED | CUSTOMIZED


def groups(names: list[str], size: int) -> list[list[str]]:
    """Some scenarios at a time: making the services for each costs more than the scenario."""
    return [names[at:at + size] for at in range(0, len(names), size)]


@pytest.mark.parametrize("names", groups([*OURS, *STOCK], 16), ids=lambda names: f"{names[0]} ... {names[-1]}")
def test_the_same_as_stock(names, web, service, stock_calls, monkeypatch):
    monkeypatch.setenv("NETRC", str(web.folder / ("netrc" if "netrc" in names else "none")))
    table = {name: OURS.get(name) or STOCK[name] for name in names}
    expected = {name: outcome(scenario, web, service.all) for name, scenario in table.items()}
    assert stock_calls == []
    govern_requests()
    for name, scenario in table.items():
        assert (name, outcome(scenario, web, service.all)) == (name, expected[name])
        assert not stock_calls or name in STOCK, f"{name} is for our own transport"
        stock_calls.clear()


# -- where it differs, on purpose

CUT_HEAD = b"HTTP/1.1 200 OK\r\nContent-Le"
DIFFERENT = {
    "an early hint is not the answer": (answer(b"final"), {"before": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"}, b"final"),
    "a head that is cut short is no answer": (CUT_HEAD, {"end": True}, requests.ConnectionError),
    "length and chunks at once are refused": (chunked(b"x", fields=("Content-Length: 1",)), {}, requests.ConnectionError),
    "a length that is no number is refused": (answer(b"x", "Content-Length: one", length=False), {"end": True},
                                              requests.exceptions.InvalidHeader),
    "a length with a sign is refused": (answer(b"x", "Content-Length: +1", length=False), {}, requests.exceptions.InvalidHeader),
    "a length said twice is one field": (answer(b"x", "Content-Length: 01"), {}, b"x"),
    "a field without a name is refused": (answer(b"x", ": value"), {}, requests.ConnectionError),
    "white space after a value is no part of it": (answer(b"x", "X-A: a  "), {}, b"x"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_where_the_transport_is_stricter(name, service):
    reply, more, expected = DIFFERENT[name]

    def send(record):
        yield more.get("before", b"") + reply
        if more.get("end"):
            raise End

    one = service()
    one.extra["/x"] = send
    govern_requests()
    if isinstance(expected, bytes):
        got = requests.get(one.base + "/x")
        assert (got.status_code, got.content, got.headers.get("X-A", "a")) == (200, expected, "a")
    else:
        with pytest.raises(expected):
            requests.get(one.base + "/x")


@pytest.mark.parametrize("method, times", [("GET", 2), ("PUT", 2), ("POST", 1), ("PATCH", 1)])
def test_only_an_idempotent_call_is_repeated_when_a_reused_connection_ends(method, times, service):
    one = service()
    one.extra["/gone"] = lambda record: answer(b"again") if one.requests.count(record) > 1 else die()
    govern_requests()
    requests.get(one.base + "/plain")
    try:
        assert requests.request(method, one.base + "/gone").content == b"again"
    except requests.ConnectionError as error:
        assert isinstance(error.__cause__, UpstreamClosed) and times == 1
    assert [record.target for record in one.requests] == ["/plain"] + ["/gone"] * times


def die():
    raise End
