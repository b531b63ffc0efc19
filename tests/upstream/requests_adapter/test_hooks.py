"""Tools that hook into the layers below ``requests``, the real ones: what they do holds for governed calls."""

from __future__ import annotations

import http.client
import socket
import subprocess

import pytest
import requests
import responses
import sentry_sdk
import vcr
from gevent.server import StreamServer
from odd_service import answer, redirect
from requests.adapters import HTTPAdapter
from scenarios import upstream
from sentry_sdk.integrations.stdlib import StdlibIntegration
from sentry_sdk.transport import Transport
from urllib3.connectionpool import HTTPConnectionPool

from gateway import StockAdapter
from gateway.upstream.requests.adapter import govern_requests
from gateway.upstream.requests.hooks import Way, hooks


@pytest.fixture
def shop(service):
    one = service()
    made = upstream("shop", one.base)
    govern_requests({"shop": made})
    yield one
    made.close()


class MemoryTransport(Transport):
    """Keeps what would be sent to Sentry."""

    events: list = []

    def capture_envelope(self, envelope):
        for item in envelope.items:
            self.events.append(item.payload.json)


@pytest.fixture
def sentry(monkeypatch):
    """Sentry as an application has it, and what it replaces as it was afterwards."""
    for owner in (http.client.HTTPConnection, http.client.HTTPResponse, subprocess.Popen):
        for name, value in list(vars(owner).items()):
            if callable(value):
                monkeypatch.setattr(owner, name, value)
    MemoryTransport.events = []
    with sentry_sdk.isolation_scope() as scope:
        client = sentry_sdk.Client("http://key@127.0.0.1:1/1", transport=MemoryTransport, traces_sample_rate=1.0,
                                   default_integrations=False, integrations=[StdlibIntegration()],
                                   auto_enabling_integrations=False)
        scope.set_client(client)
        if hooks.way() is Way.STRAIGHT:                  # it does so once in a process
            StdlibIntegration.setup_once()
        yield MemoryTransport.events
        client.close(timeout=0)


@pytest.mark.leaks_allowed                               # Sentry's own
@pytest.mark.parametrize("named", [False, True])
def test_sentry_sees_calls_and_continues_its_trace(named, shop, sentry, stock_calls):
    base = "http://shop" if named else shop.base
    assert hooks.way() is Way.VISIBLE
    shop.extra["/fails"] = lambda record: answer(b"no", status="503 Service Unavailable")
    with sentry_sdk.start_transaction(name="view") as transaction:
        got = requests.post(base + "/echo?a=1", data=b"body", headers={"X-Mine": "1"})
        assert requests.get(base + "/fails").status_code == 503
        with pytest.raises(requests.ConnectionError):
            requests.get(base + "/says-nothing")
        sentry_sdk.capture_message("with the way to here")
    assert got.json()["target"] == "/echo?a=1" and not stock_calls
    spans = [span for event in sentry for span in event.get("spans", ())]
    assert [(span["op"], span["description"].removeprefix(base)) for span in spans[:2]] == [
        ("http.client", f"POST {base}/echo"), ("http.client", f"GET {base}/fails")]
    assert [span["data"].get("http.response.status_code") for span in spans] == [200, 503, None]
    record = shop.requests[0]
    assert record.header("sentry-trace").startswith(transaction.trace_id) and record.header("X-Mine") == "1"
    assert record.header("baggage") and record.body == b"body"
    assert record.header("Host") == f"127.0.0.1:{shop.port}"
    crumbs = [crumb["data"] for event in sentry for crumb in (event.get("breadcrumbs") or {}).get("values", ())]
    assert [crumb.get("http.response.status_code") for crumb in crumbs] == [200, 503, None]


def test_what_a_hook_makes_of_the_head_is_sent(shop, monkeypatch):
    stock = http.client.HTTPConnection.putheader

    def putheader(self, name, *values):
        if name == "X-Secret":
            return
        stock(self, name, *(["other.test"] if name == "Host" else values))

    monkeypatch.setattr(http.client.HTTPConnection, "putheader", putheader)
    requests.get("http://shop/echo", headers={"X-Secret": "1", "X-Latin": "caf\xe9", "X-Empty": ""})
    record = shop.requests[0]
    assert [record.header(name) for name in ("Host", "X-Secret", "X-Latin", "X-Empty")] == ["other.test", None, "caf\xe9", ""]


@pytest.mark.parametrize("method", ["putrequest", "putheader", "endheaders", "getresponse"])
def test_every_method_of_a_connection_is_called(method, shop, monkeypatch):
    calls, stock = [], getattr(http.client.HTTPConnection, method)

    def wrapped(self, *arguments, **named):
        calls.append((self.host, self.port, self.default_port))
        return stock(self, *arguments, **named)

    monkeypatch.setattr(http.client.HTTPConnection, method, wrapped)
    assert requests.get("http://shop/plain").content == b"hello"
    assert set(calls) == {("shop", 80, 80)}


def test_without_hooks_nothing_is_shown(shop, monkeypatch):
    monkeypatch.setattr("gateway.upstream.requests.governor.show", None)
    assert hooks.way() is Way.STRAIGHT
    assert requests.get("http://shop/plain").content == b"hello"


def test_vcrpy_records_and_plays_back(shop, tmp_path):
    cassette = str(tmp_path / "one.yaml")
    with vcr.use_cassette(cassette) as recorded:
        assert hooks.way() is Way.STOCK
        assert requests.get(shop.base + "/plain").content == b"hello"
        assert len(recorded) == 1
    assert hooks.way() is Way.STRAIGHT
    with vcr.use_cassette(cassette, record_mode="none") as played:
        assert requests.get(shop.base + "/plain").content == b"hello"
        assert played.play_count == 1
    assert len(shop.requests) == 1
    (tmp_path / "named.yaml").write_text((tmp_path / "one.yaml").read_text().replace(shop.base, "http://shop"))
    with vcr.use_cassette(str(tmp_path / "named.yaml"), record_mode="none"):
        assert requests.get("http://shop/plain").content == b"hello"
    assert requests.get("http://shop/plain").content == b"hello"
    assert len(shop.requests) == 2


def test_vcrpy_records_an_upstream_by_its_name(orders, tmp_path):
    """Also a redirect to itself. Sessions take turns among the instances, and the Host is the one of a governed call."""
    one, two = orders(host="shop.test")
    one.extra["/there"] = two.extra["/there"] = lambda record: redirect("http://orders/echo")
    with vcr.use_cassette(str(tmp_path / "named.yaml")) as recorded:
        found = [requests.get(f"http://Orders/{path}").content for path in ("plain", "plain", "there")]
        assert [request.path for request in recorded.requests] == ["/plain", "/plain", "/there", "/echo"]
        assert {request.host for request in recorded.requests} == {"orders"}
    with vcr.use_cassette(str(tmp_path / "named.yaml"), record_mode="none"):
        assert [requests.get(f"http://orders/{path}").content for path in ("plain", "plain", "there")] == found
    assert {len(one.requests), len(two.requests)} == {1, 3}
    assert {record.header("Host") for record in (*one.requests, *two.requests)} == {"shop.test"}


def test_a_recorder_does_not_lead_others_to_an_upstream_by_its_name(orders, service, tmp_path):
    foreign = service()
    foreign.extra["/x"] = lambda record: redirect("http://orders/echo")
    one, two = orders()
    with vcr.use_cassette(str(tmp_path / "named.yaml")):
        with pytest.raises(requests.ConnectionError):
            requests.get(foreign.base + "/x")
        with requests.Session() as own, pytest.raises(requests.ConnectionError):
            own.mount("http://", StockAdapter())
            own.get("http://orders/echo")
    assert not one.requests and not two.requests


def test_a_recorder_reaches_an_instance_on_a_unix_socket_and_none_with_tls(tmp_path, web):
    def serve_one(sock, address):
        with sock:
            sock.recv(1000)
            sock.sendall(answer(b"hello", "Connection: close"))

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    server = StreamServer(listener, serve_one)
    server.start()
    local, secure = upstream("local", f"unix:{tmp_path / 's'}"), upstream("secure", web.tls)
    govern_requests({"local": local, "secure": secure})
    with vcr.use_cassette(str(tmp_path / "named.yaml")):
        assert requests.get("http://local/", timeout=20).content == b"hello"
        with pytest.raises(requests.ConnectionError, match="speaks TLS"):
            requests.get("http://secure/", timeout=20)
    server.stop()
    for each in (local, secure):
        each.close()


def test_who_replaces_a_part_of_urllib3_is_called(shop, stock_calls, monkeypatch):
    calls, stock = [], HTTPConnectionPool.urlopen

    def urlopen(self, method, url, *arguments, **named):
        calls.append((method, url))
        return stock(self, method, url, *arguments, **named)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", urlopen)
    assert requests.get(shop.base + "/plain").content == b"hello"
    assert calls == [("GET", "/plain")] and len(stock_calls) == 1


def test_responses(shop):
    with responses.RequestsMock() as mocked:
        mocked.get("http://shop/plain", body="mocked")
        assert requests.get("http://shop/plain").text == "mocked"
    assert requests.get("http://shop/plain").text == "hello"


def test_one_session_may_be_left_to_stock(shop, stock_calls):
    with requests.Session() as own:
        own.mount("http://", StockAdapter())
        assert isinstance(own.get_adapter("http://x/"), HTTPAdapter)
        assert own.get(shop.base + "/plain").content == b"hello"
        with pytest.raises(requests.ConnectionError):
            own.get("http://shop/plain")
    assert len(stock_calls) == 2
    assert requests.get("http://shop/plain").content == b"hello"
