"""Ordinary ``requests``, governed: the same as stock, over our transport, with what the request that is answered adds."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import gevent
import pytest
import requests
from gevent.event import Event
from odd_service import End, Service, answer, chunked, echo, redirect
from requests.adapters import HTTPAdapter
from scenarios import GOVERNED, STOCK, Web, describe, describe_error, without_nonce

from gateway import gather
from gateway.config import Upstream as Settings
from gateway.deadline import Deadline
from gateway.errors import ConnectFailed, DeadlineExceeded, UpstreamClosed, UpstreamTimeout, UpstreamTruncated
from gateway.message import Request
from gateway.tasks import current_request
from gateway.upstream import requests_adapter, requests_places
from gateway.upstream.client import Upstream
from gateway.upstream.requests_adapter import (DeadlineTimeout, LazyAdapter, gateway_error, govern_requests, governor,
                                               ungovern_requests)

SAFETY = 20.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No proxies and certificates from outside, no warnings, and ``requests`` as it was afterwards."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    ungovern_requests()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """A folder with ca.pem, and both.pem: a certificate for localhost with its key."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-days", "2", "-subj", "/CN=test ca", "-keyout", "ca.key", "-out", "ca.pem",
            "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", *new, "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request.pem")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "cert.pem")
    (folder / "both.pem").write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return folder


@pytest.fixture
def service(serve):
    """``service()`` starts one more Service and gives it with its base URL."""
    started = []

    def start(tls=None) -> Service:
        made = Service(tls)
        made.port = serve(made.handle)
        made.base = f"http://127.0.0.1:{made.port}"
        started.append(made)
        return made

    start.all = started
    return start


@pytest.fixture
def stall():
    """``stall(first)`` answers with ``first`` and then with nothing, until the test is over."""
    over = Event()

    def make(first=b""):
        def reply(seen):
            if first:
                yield first
            over.wait(SAFETY)
            raise End
        return reply

    yield make
    over.set()


@pytest.fixture
def web(service, stall, certificates, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "both.pem")
    plain, other, secure = service(), service(), service(context)
    tls = f"https://localhost:{secure.port}"
    plain.extra.update({
        "/stall": stall(), "/stall-in-body": stall(answer(b"x", "Content-Length: 5", length=False)),
        "/away": lambda seen: redirect(other.base + "/echo"), "/to-tls": lambda seen: redirect(tls + "/echo")})
    refused, full, waiting = socket.socket(), socket.socket(), [socket.socket() for _ in range(3)]
    refused.bind(("127.0.0.1", 0))
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    for one in waiting:                                  # who connects now gets no answer
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password pw\n")
    url = "http://127.0.0.1:{}/".format
    yield Web(plain.base, other.base, tls, url(refused.getsockname()[1]), url(full.getsockname()[1]), str(certificates / "ca.pem"),
              str(certificates / "both.pem"), tmp_path)
    for one in (refused, full, *waiting):
        one.close()


@pytest.fixture
def stock_calls(monkeypatch):
    """The URLs that went to the stock adapter while governed."""
    urls = []
    stock = requests_adapter.stock_send

    def count(adapter, request, **arguments):
        urls.append(request.url)
        return stock(adapter, request, **arguments)

    monkeypatch.setattr(requests_adapter, "stock_send", count)
    return urls


@pytest.fixture
def in_request():
    """``in_request(seconds, headers)`` makes a request the current one."""
    tokens = []

    def enter(seconds=SAFETY, headers=()) -> Request:
        request = Request("GET", "/", list(headers), deadline=Deadline(seconds), host="public.test")
        request.id = "id-of-the-request"
        tokens.append(current_request.set(request))
        return request

    yield enter
    while tokens:
        current_request.reset(tokens.pop())


def upstream(name: str, *bases: str, **settings) -> Upstream:
    return Upstream(name, Settings(instances=bases, **settings))


# -- the same as stock

def outcome(scenario, web, services):
    """What a scenario gives or raises, and what the services saw of it."""
    for one in services:
        one.seen.clear()
    try:
        result = describe(scenario(web), web)
    except Exception as error:
        result = "raised", describe_error(error)
    return result, [(one.method, one.target, without_nonce(one.headers), one.body) for each in services for one in each.seen]


def groups(names: list[str], size: int) -> list[list[str]]:
    """Some scenarios at a time: making the services for each costs more than the scenario."""
    return [names[at:at + size] for at in range(0, len(names), size)]


@pytest.mark.parametrize("names", groups([*GOVERNED, *STOCK], 16), ids=lambda names: f"{names[0]} ... {names[-1]}")
def test_the_same_as_stock(names, web, service, stock_calls, monkeypatch):
    monkeypatch.setenv("NETRC", str(web.folder / ("netrc" if "netrc" in names else "none")))
    table = {name: GOVERNED.get(name) or STOCK[name] for name in names}
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
    "a field without a name is refused": (answer(b"x", ": value"), {}, requests.ConnectionError),
    "white space after a value is no part of it": (answer(b"x", "X-A: a  "), {}, b"x"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_where_the_transport_is_stricter(name, service):
    reply, more, expected = DIFFERENT[name]

    def send(seen):
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
    one.extra["/gone"] = lambda seen: answer(b"again") if one.seen.count(seen) > 1 else die()
    govern_requests()
    requests.get(one.base + "/plain")
    try:
        assert requests.request(method, one.base + "/gone").content == b"again"
    except requests.ConnectionError as error:
        assert isinstance(error.__cause__, UpstreamClosed) and times == 1
    assert [seen.target for seen in one.seen] == ["/plain"] + ["/gone"] * times


def die():
    raise End


def test_a_small_answer_that_is_cut_fails_at_once_even_streamed(service):
    govern_requests()
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(service().base + "/short", stream=True)


# -- which sessions, which adapters

def test_every_session_is_governed_and_stock_comes_back(service, stock_calls):
    one, stock, before = service(), HTTPAdapter.send, requests.Session()
    url = one.base + "/plain"
    govern_requests()
    govern_requests()
    direct = HTTPAdapter()
    prepared = requests.Request("GET", url).prepare()
    answers = [requests.get(url), before.get(url), requests.Session().get(url), direct.send(prepared), requests.Session().send(prepared)]
    assert [one.content for one in answers] == [b"hello"] * 5
    assert one.connections == 1 and stock_calls == []
    ungovern_requests()
    ungovern_requests()
    assert HTTPAdapter.send is stock and requests.sessions.HTTPAdapter is HTTPAdapter
    with requests.Session() as after:
        assert type(after.get_adapter(url)) is HTTPAdapter
        assert after.get(url).content == b"hello"
    assert one.connections == 2


def test_a_session_made_while_governed_goes_on_without(service):
    one = service()
    govern_requests()
    with requests.Session() as client:
        client.get(one.base + "/plain")
        ungovern_requests()
        assert [client.get(one.base + "/plain").content for _ in range(2)] == [b"hello"] * 2
        assert one.connections == 2


def test_a_new_session_makes_no_pools_until_they_are_asked_for():
    govern_requests()
    adapter = requests.Session().get_adapter("http://x/")
    adapter.close()
    assert "poolmanager" not in vars(adapter) and isinstance(adapter, HTTPAdapter)
    assert adapter.poolmanager.connection_pool_kw == HTTPAdapter().poolmanager.connection_pool_kw
    assert vars(adapter.max_retries) == vars(HTTPAdapter().max_retries)
    adapter.close()
    with pytest.raises(AttributeError):
        adapter.nothing
    assert type(pickle.loads(pickle.dumps(adapter))) is HTTPAdapter


class Pinned(LazyAdapter):
    """What a program gets that derives from ``requests.sessions.HTTPAdapter``."""


def changed(change) -> HTTPAdapter:
    adapter = requests.sessions.HTTPAdapter()
    change(adapter)
    return adapter


@pytest.mark.parametrize("make", [
    lambda: HTTPAdapter(max_retries=1),
    lambda: HTTPAdapter(pool_connections=1),
    lambda: HTTPAdapter(pool_block=True),
    lambda: requests.sessions.HTTPAdapter(pool_maxsize=1),
    lambda: Pinned(),
    lambda: changed(lambda adapter: setattr(adapter, "max_retries", HTTPAdapter(max_retries=2).max_retries)),
    lambda: changed(lambda adapter: adapter.init_poolmanager(10, 10, ssl_context=ssl.create_default_context())),
    lambda: changed(lambda adapter: adapter.poolmanager.connection_pool_kw.update(source_address=("127.0.0.1", 0))),
    lambda: changed(lambda adapter: setattr(adapter, "build_response", lambda *given: HTTPAdapter.build_response(adapter, *given))),
])
def test_an_adapter_with_a_will_of_its_own_is_left_alone(make, service, stock_calls):
    one = service()
    govern_requests()
    with requests.Session() as client:
        client.mount("http://", make())
        assert client.get(one.base + "/plain").content == b"hello"
    assert len(stock_calls) == 1


def test_who_patches_send_in_tests_still_wins(monkeypatch):
    govern_requests()
    monkeypatch.setattr(HTTPAdapter, "send", lambda self, request, **kwargs: "mocked")
    assert requests.Session().get_adapter("http://x/").send(None) == "mocked"
    ungovern_requests()
    assert HTTPAdapter.send(None, None) == "mocked"


@pytest.mark.parametrize("variable, value", [("http_proxy", "{}"), ("HTTP_PROXY", "{}"), ("All_Proxy", "{}")])
def test_a_proxy_of_the_environment_is_used(variable, value, service, stock_calls, monkeypatch):
    proxy = service()
    monkeypatch.setenv(variable, value.format(proxy.base))
    govern_requests()
    assert requests.get("http://shop.test/echo").status_code == 404
    assert proxy.seen[0].target == "http://shop.test/echo" and len(stock_calls) == 1


def test_unverified_https_is_warned_of(web):
    govern_requests()
    with pytest.warns(requests.packages.urllib3.exceptions.InsecureRequestWarning, match="localhost"):
        requests.get(web.tls + "/plain", verify=False)


# -- connections

def test_connections_are_shared_by_all_sessions_and_kept(service):
    one = service()
    govern_requests()
    for number in range(10):
        requests.get(one.base + "/plain", timeout=SAFETY + number)
        requests.Session().post(one.base + "/echo", data="x")
        requests.get(one.base + "/big-chunked")
    assert one.connections == 1


def test_calls_at_the_same_time_have_each_their_connection(service):
    one, meeting = service(), Event()

    def wait(seen):
        if len(one.seen) == 5:
            meeting.set()
        assert meeting.wait(SAFETY)
        return answer(seen.target.encode())

    one.extra["/meet"] = wait
    govern_requests()
    answers = gather(*[lambda number=number: requests.get(f"{one.base}/meet?{number}").text for number in range(5)])
    assert answers == [f"/meet?{number}" for number in range(5)]
    assert one.connections == 5


def test_tls_settings_do_not_share_connections(web, service):
    govern_requests()
    secure = service.all[2]
    requests.get(web.tls + "/plain", verify=False)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(web.tls + "/plain")
    requests.get(web.tls + "/plain", verify=web.ca)
    assert len(secure.seen) == 2 and secure.connections == 3


def test_the_place_called_longest_ago_is_closed(service, monkeypatch):
    monkeypatch.setattr(requests_places, "LIMIT", 2)
    one, two, three = service(), service(), service()
    govern_requests()
    for each in (one, two, one, three, one, two):
        requests.get(each.base + "/plain")
    assert [each.connections for each in (one, two, three)] == [1, 2, 1]
    assert repr(governor.places()) == "Places(0 named, 2 foreign)"


def test_an_unread_stream_holds_its_connection_until_closed_or_forgotten(service):
    one = service()
    govern_requests({"big": upstream("big", one.base, max_connections=1, pool_timeout="20ms")})
    held = requests.get("http://big/big", stream=True)
    with pytest.raises(requests.exceptions.ConnectTimeout) as caught:
        requests.get("http://big/plain")
    assert gateway_error(caught.value).status == 503
    held.close()
    assert requests.get("http://big/plain").text == "hello"
    requests.get("http://big/big", stream=True)          # nobody keeps it
    gc.collect()
    assert requests.get("http://big/plain").text == "hello"
    pieces = requests.get("http://big/big-chunked", stream=True).iter_content(10)
    next(pieces)
    pieces.close()
    assert requests.get("http://big/plain").text == "hello"
    govern_requests({})


def test_a_killed_call_leaves_nothing_behind(service, stall):
    one = service()
    one.extra["/stall"] = stall()
    govern_requests({"one": upstream("one", one.base, max_connections=1)})
    call = gevent.spawn(requests.get, "http://one/stall")
    while not one.seen:
        gevent.sleep(0.001)
    call.kill()
    assert requests.get("http://one/plain").text == "hello"
    governor.places().names["one"].upstream.close()


def test_native_threads_have_connections_of_their_own(service):
    one = service()
    orders = upstream("orders", one.base)
    govern_requests({"orders": orders})
    urls = [one.base + "/plain", "http://orders/plain"] * 3

    def calls():
        return [requests.get(url).text for url in urls]

    assert calls() == ["hello"] * 6
    assert one.connections == 2
    assert gevent.get_hub().threadpool.apply(calls) == ["hello"] * 6
    assert one.connections == 4
    assert calls() == ["hello"] * 6
    assert one.connections == 4
    orders.close()


PROGRAM = """
from gevent import monkey; monkey.patch_all()
import os, sys, requests
from gateway import govern_requests
govern_requests()
texts = [requests.get(sys.argv[1]).text]
if os.fork() == 0:
    print(requests.get(sys.argv[1]).text, flush=True)
    os._exit(0)
os.wait()
print(requests.get(sys.argv[1]).text, "flask" in sys.modules, flush=True)
"""


def test_alone_in_a_program_and_never_on_a_connection_of_the_parent(service):
    one = service()
    done = subprocess.run([sys.executable, "-c", PROGRAM, one.base + "/plain"], cwd=ROOT, text=True, capture_output=True,
                          timeout=SAFETY)
    assert (done.stdout, done.stderr) == ("hello\nhello False\n", "")
    assert one.connections == 2 and len(one.seen) == 3


# -- nothing of one user reaches another

def test_no_cookie_crosses_between_users(service):
    one = service()
    one.extra["/login"] = lambda seen: answer(b"in", f"Set-Cookie: sid={seen.target.partition('?')[2]}; Path=/")
    one.extra["/who"] = lambda seen: answer((seen.header("Cookie") or "nobody").encode())
    govern_requests({"shop": upstream("shop", one.base)})

    def visit(user, base):
        def run():
            first = requests.get(f"{base}/login?{user}")
            bare = requests.get(f"{base}/who").text
            with requests.Session() as own:
                own.get(f"{base}/login?{user}")
                gevent.sleep(0)
                return first.cookies["sid"], bare, own.get(f"{base}/who").text, requests.get(f"{base}/who").text
        return run

    for base in (one.base, "http://shop"):
        found = gather(*[visit(f"user{number}", base) for number in range(40)])
        assert found == [(f"user{number}", "nobody", f"sid=user{number}", "nobody") for number in range(40)]
    governor.places().names["shop"].upstream.close()


# -- configured upstreams, and what they are told

@pytest.fixture
def orders(service):
    """Two instances of the upstream ``orders``, governed; ``again(**settings)`` changes its settings."""
    one, two = service(), service()
    made = []

    def again(**settings):
        made.append(upstream("orders", one.base, two.base, **settings))
        govern_requests({"Orders": made[-1]})
        return one, two

    again()
    yield again
    for each in made:
        each.close()


def test_a_name_is_balanced_over_its_instances(orders, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")           # an internal name is for no proxy
    one, two = orders()
    answers = [requests.get("http://orders/echo", params={"n": number}).json() for number in range(6)]
    answers += [requests.Session().post("HTTP://ann:pw@ORDERS/echo").json()]
    assert [answer["target"] for answer in answers] == [f"/echo?n={number}" for number in range(6)] + ["/echo"]
    assert sorted((len(one.seen), len(two.seen))) == [3, 4]
    assert {seen.header("Host") for seen in one.seen} == {f"127.0.0.1:{one.port}"}
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
    seen = (one.seen + two.seen)[0]
    assert seen.header("Host") in ([f"127.0.0.1:{each.port}" for each in (one, two)] if expected == "instance" else [expected])


TRACED = [("Traceparent", "00-a-b-01"), ("tracestate", "x=1"), ("tracestate", "y=2"), ("X-Other", "secret"), ("Cookie", "sid=1")]


def told(seen) -> list[tuple[str, str]]:
    """What the client did not write itself."""
    usual = {"host", "user-agent", "accept-encoding", "accept", "connection"}
    return [(name.lower(), value) for name, value in seen.headers if name.lower() not in usual]


def test_an_upstream_is_told_of_the_request_and_a_foreign_host_is_not(orders, service, in_request):
    one, two = orders()
    foreign = service()
    requests.get("http://orders/echo")
    in_request(headers=TRACED)
    requests.get("http://orders/echo")
    requests.get("http://orders/echo", headers={"x-request-id": "mine", "TraceParent": "own"})
    requests.get(foreign.base + "/echo")
    seen = one.seen + two.seen
    assert sorted(map(told, seen)) == [
        [], [("x-request-id", "id-of-the-request"), ("traceparent", "00-a-b-01"), ("tracestate", "x=1"), ("tracestate", "y=2")],
        [("x-request-id", "mine"), ("traceparent", "own")]]
    assert told(foreign.seen[0]) == []


def test_a_redirect_from_an_upstream_to_a_foreign_host_tells_it_nothing(orders, service, in_request):
    foreign = service()
    for each in orders():
        each.extra["/away"] = lambda seen: redirect(foreign.base + "/echo")
    in_request(headers=TRACED)
    assert requests.get("http://orders/away").history
    assert told(foreign.seen[0]) == []


# -- time

def test_attempts_are_noted_on_the_request(orders, service, in_request):
    orders()
    foreign, request = service(), in_request()
    gather(lambda: requests.get("http://orders/plain"), lambda: requests.get(foreign.base + "/404"),
           lambda: pytest.raises(requests.ConnectionError, requests.get, foreign.base + "/says-nothing"))
    noted = sorted((attempt.upstream, attempt.status, attempt.flag) for attempt in request.attempts)
    place = f"127.0.0.1:{foreign.port}"
    assert noted == [(place, 0, "UC"), (place, 404, ""), ("orders", 200, "")]


@pytest.mark.parametrize("timeout", [None, SAFETY, (SAFETY, None), (None, SAFETY)])
@pytest.mark.parametrize("reply", ["nothing", "a part of a small body", "a part of a large body", "a part of a chunked body"])
def test_a_call_has_the_time_the_request_has_left(reply, timeout, orders, service, stall, in_request):
    first = {"nothing": b"", "a part of a small body": answer(b"x", "Content-Length: 5", length=False),
             "a part of a large body": answer(b"x", "Content-Length: 500000", length=False),
             "a part of a chunked body": chunked(b"x", end=b"")}[reply]
    foreign, instances = service(), orders()
    for each in (foreign, *instances):
        each.extra["/stall"] = stall(first)
    request = in_request(0.05)
    for base in (foreign.base, "http://orders"):
        request.deadline.restart()
        with pytest.raises(requests.exceptions.Timeout) as caught:
            requests.get(base + "/stall", timeout=timeout)
        error = caught.value
        assert type(error) is DeadlineTimeout and isinstance(error, (requests.ReadTimeout, DeadlineExceeded))
        assert (error.status, error.code) == (504, "deadline_exceeded")
        assert isinstance(gateway_error(error), DeadlineExceeded) and isinstance(error.__cause__, DeadlineExceeded)


def test_a_passed_deadline_sends_nothing(service, in_request):
    one, request = service(), in_request()
    govern_requests()
    request.deadline.at = 0.0
    for body in (None, b"x", iter([b"x"])):
        with pytest.raises(DeadlineTimeout):
            requests.post(one.base + "/echo", data=body)
    assert one.connections == 0


def test_an_upload_does_not_move_the_deadline_of_the_request(service, in_request):
    one, request = service(), in_request()
    govern_requests()
    before = request.deadline.at
    for body in (iter([b"x"] * 3), open(__file__, "rb")):
        with getattr(body, "__enter__", lambda: gevent.Timeout(None))():
            requests.post(one.base + "/echo", data=body)
    assert request.deadline.at == before


@pytest.mark.parametrize("upload", [False, True])
@pytest.mark.parametrize("path, error", [("/stall", requests.ReadTimeout), ("/stall-in-large-body", requests.ConnectionError)])
def test_the_timeout_of_a_call_holds_for_upstreams_and_uploads_too(path, error, upload, orders, stall):
    for each in orders():
        each.extra.update({"/stall": stall(), "/stall-in-large-body": stall(answer(b"x", "Content-Length: 500000", length=False))})
    with pytest.raises(error) as caught:
        requests.post("http://orders" + path, data=iter([b"body"]) if upload else b"body", timeout=0.1)
    assert isinstance(gateway_error(caught.value), UpstreamTimeout)


def test_a_slow_generator_is_not_the_servers_fault(service):
    def pieces():
        yield b"first"
        gevent.sleep(0.4)                                # longer than the answer may take
        yield b"second"

    one = service()
    govern_requests()
    assert requests.post(one.base + "/echo", data=pieces(), timeout=(SAFETY, 0.3)).json()["body"] == "firstsecond"


def test_times_of_calls_share_the_connections_of_their_place(service):
    one = service()
    govern_requests()
    for number in range(1, 40):
        requests.get(one.base + "/plain", timeout=(SAFETY + number, SAFETY))
    place = governor.places().foreign("http", f"127.0.0.1:{one.port}", True, None)
    assert one.connections == 1 and len(place._timed) <= requests_places.TIMES


# -- bodies as they come

def test_pieces_are_delivered_as_they_come(service):
    one, got = service(), [Event(), Event(), Event()]

    def events(seen):
        yield chunked(end=b"")
        for number in range(3):
            yield b"%x\r\n%b\r\n" % (7, b"data:%d\n" % number)
            assert got[number].wait(SAFETY)              # the next one only when this one has arrived
        yield b"0\r\n\r\n"

    one.extra["/events"] = events
    govern_requests()
    with requests.get(one.base + "/events", stream=True) as response:
        for number, line in enumerate(response.iter_lines()):
            assert line == b"data:%d" % number
            got[number].set()
    assert number == 2


def test_a_generator_body_is_read_in_the_context_of_the_call(service, in_request):
    def pieces():
        for _ in range(3):
            yield current_request.get().id.encode()

    one = service()
    govern_requests()
    in_request()
    assert requests.post(one.base + "/echo", data=pieces()).json()["body"] == "id-of-the-request" * 3


def test_an_answer_before_the_end_of_the_upload_is_heard(serve):
    def refuse(sock, address):
        sock.recv(1000)
        sock.sendall(answer(b"too large", "Connection: close", status="413 Content Too Large"))
        while sock.recv(65536):
            pass

    def endless():
        while True:
            yield b"x" * 65536

    govern_requests()
    assert requests.post(f"http://127.0.0.1:{serve(refuse)}/", data=endless()).status_code == 413


# -- errors

@pytest.mark.parametrize("path, expected, cause", [
    ("/says-nothing", requests.ConnectionError, UpstreamClosed),
    ("/short", requests.exceptions.ChunkedEncodingError, UpstreamTruncated),
    ("/short-big", requests.exceptions.ChunkedEncodingError, UpstreamTruncated),
])
def test_behind_every_error_is_one_of_ours(path, expected, cause, service):
    govern_requests()
    with pytest.raises(expected) as caught:
        requests.get(service().base + path)
    assert type(caught.value) is expected
    assert isinstance(gateway_error(caught.value), cause) and gateway_error(caught.value).instance


def test_a_refused_connection_names_the_place(web):
    govern_requests()
    with pytest.raises(requests.ConnectionError, match=r"HTTPConnectionPool\(host='127.0.0.1', port=\d+\): Max retries") as caught:
        requests.get(web.refused)
    assert isinstance(caught.value.__cause__, ConnectFailed)


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
