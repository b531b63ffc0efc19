"""What tests of governed ``requests`` share: odd services, the request that is being answered, and stock again at the end."""

from __future__ import annotations

import socket
import ssl
import subprocess
import warnings
from pathlib import Path

import pytest
from gevent.event import Event
from odd_service import End, Service, answer, redirect
from scenarios import Web, upstream

from gateway.deadline import Deadline
from gateway.message import Request
from gateway.tasks import current_request
from gateway.upstream.requests import adapter as requests_adapter
from gateway.upstream.requests import shortcuts as requests_shortcuts
from gateway.upstream.requests.adapter import govern_requests, ungovern_requests
from tests.waiting import SAFETY


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No proxies and certificates from outside, no warnings, and ``requests`` as it was afterwards."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not any(shortcut.stands for shortcut in requests_shortcuts.SHORTCUTS), "a test has left one behind"
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
        def reply(record):
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
        "/away": lambda record: redirect(other.base + "/echo"), "/to-tls": lambda record: redirect(tls + "/echo")})
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
