"""What one client sends must not become what another gets: a real gateway before an upstream that puts all it hears into its page.

Such an upstream says in Vary by what it answers, or it cannot be cached at all; what is tried here is what no upstream says: whose
page it is, and what some frameworks take for the address, the method or the word of a proxy. All of it is tried twice: by a
stranger, and through a trusted proxy that passes on what its client says.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from running import Running, ask, free_port

from gateway.configfile.load import load_text
from gateway.http.fields import PROXY_WORDS
from tests.e2e.test_nginx import folder, nginx  # noqa: F401
from tests.waiting import until

EVIL = "evil-marker"
# Of a trusted proxy these are believed and passed on. They say who asks, and which request it is: an upstream that answers by that
# has to say so, as it has for strangers with their own addresses.
WHO_ASKS = {"x-forwarded-for", "x-real-ip", "x-request-id"}
CONFIG = """
[gateway]
trust = [{trust}]
[upstreams.echo]
instances = ["http://127.0.0.1:{port}"]
[[routes]]
path = "/*"
upstream = "echo"
cache = {{ ttl = "1h" }}
[[routes]]
path = "/paged/*"
upstream = "echo"
cache = {{ ttl = "1h", key = {{ query = ["page"], cookies = ["currency"] }} }}
"""


UPSTREAM = """
import socketserver, sys

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        data = b""
        while piece := self.request.recv(65536):
            data += piece
            head, end, body = data.partition(b"\\r\\n\\r\\n")
            lines = head.lower().split(b"\\r\\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            chunked = b"transfer-encoding: chunked" in lines
            if end and (body.endswith(b"0\\r\\n\\r\\n") if chunked else len(body) >= length):
                text = data.replace(b"\\r\\n", b" | ")
                answer = b"HTTP/1.1 200 OK\\r\\nCache-Control: max-age=60\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(text)
                self.request.sendall(answer + (b"" if head.startswith(b"HEAD") else text))
                data = b""

socketserver.ThreadingTCPServer.daemon_threads = True
socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""


@pytest.fixture(scope="module", params=["", '"127.0.0.1/32"'], ids=["stranger", "trusted"])
def gateway(request, tmp_path_factory):
    """Both are processes: they serve all tests of this file."""
    port = free_port()
    upstream = subprocess.Popen([sys.executable, "-c", UPSTREAM, str(port)])
    running = Running(tmp_path_factory.mktemp("attacks"), CONFIG.format(port=port, trust=request.param))
    running.trusts = bool(request.param)
    until(lambda: send(running, "/")[0] == 200)
    yield running
    running.stop()
    upstream.kill()
    upstream.wait()


def send(gateway, target, *lines, method="GET", host="shop.test", body=b""):
    head = "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""])
    status, fields, text = ask(gateway.port, head.encode() + body)
    return status, text


def page(gateway, target, *lines):
    """What somebody gets who did nothing."""
    status, text = send(gateway, target, *lines)
    assert status == 200 and text.startswith(b"GET ")
    return text


@pytest.mark.parametrize("name", [
    *sorted(PROXY_WORDS), "X-Host", "X-Override-URL", "X-Http-Destinationurl", "X-HTTP-Method-Override", "X-HTTP-Method",
    "X-Method-Override", "X-Original-Method", "X-Request-Id", "Cookie", "Authorization", "If-Match", "If-None-Match"])
def test_a_field_that_is_not_in_the_key(gateway, name):
    send(gateway, f"/field/{name}", f"{name}: {EVIL}")
    believed = gateway.trusts and name.lower() in WHO_ASKS
    assert (EVIL.encode() in page(gateway, f"/field/{name}")) is believed


@pytest.mark.parametrize("gateway", ['"127.0.0.1/32"'], indirect=True, ids=["trusted"])
@pytest.mark.parametrize("name", ["X-Forwarded-Ssl", "X-Forwarded-Prefix", "X-Original-URL"])
def test_what_a_trusted_proxy_passes_on_of_a_client_is_kept_for_that_client_alone(gateway, name):
    target = f"/told/{name}"
    evil, plain = page(gateway, target, f"{name}: {EVIL}", "X-Nr: 1"), page(gateway, target, "X-Nr: 2")
    assert EVIL.encode() in evil and EVIL.encode() not in plain
    assert page(gateway, target, f"{name}: {EVIL}", "X-Nr: 3") == evil, "it is kept"
    assert page(gateway, target, "X-Nr: 4") == plain, "and so is the other"


@pytest.mark.parametrize("gateway", ['"127.0.0.1/32"'], indirect=True, ids=["trusted"])
@pytest.mark.parametrize("name", [
    "X-Forwarded-Host", "X-Forwarded-Ssl", "Front-End-Https", "X-Url-Scheme", "X-Original-URL", "X-Script-Name"])
def test_a_word_of_a_proxy_behind_nginx(gateway, nginx, name):  # noqa: F811
    """Nothing of it gets through nginx, so that it is neither kept nor goes past the cache."""
    port = nginx([gateway.port], load_text(gateway.config.read_text(), {}))
    request = f"GET /nginx/{name} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n"
    attack = ask(port, f"{request}{name}: {EVIL}\r\n\r\n".encode())
    after = ask(port, f"{request}\r\n".encode())
    assert attack[0] == after[0] == 200 and attack[2] == after[2], "one answer, kept"
    assert EVIL.encode() not in after[2]


@pytest.mark.parametrize("path", [
    "/account/x.css", "/account%2fx.css", "/account%2Fx.css", "/account;x.css", "/account%3bx.css", "/account/..%2fx.css",
    "/account%00.css", "/account%0a.css", "/account%23.css", "/account%3f.css", "/account/.css", "/account//x.css",
    "/account\\x.css", "/static/..%2faccount", "/static/../account", "/%2e%2e/account", "/account.css?x", "/account/x.css/"])
def test_a_page_of_one_user_is_not_made_public_by_its_address(gateway, path):
    """Web cache deception: neither a stranger nor another user gets it, whatever the address looks like."""
    assert b"secret-of-ann" in page(gateway, path, "Cookie: sid=secret-of-ann")
    for headers in ((), ("Cookie: sid=bob",), ("Authorization: Basic eDp5",)):
        assert b"secret-of-ann" not in page(gateway, path, *headers)


@pytest.mark.parametrize("lines", [
    ("Connection: Cookie", "Cookie: sid=secret-of-ann"), ("Connection: Authorization", "Authorization: Basic secret-of-ann"),
    ("COOKIE: sid=secret-of-ann",), ("cookie: a=1", "Cookie: sid=secret-of-ann"), ("Cookie:sid=secret-of-ann",)])
def test_a_user_is_known_however_he_shows_himself(gateway, lines):
    target = f"/shows/{abs(hash(lines))}"
    send(gateway, target, *lines)
    assert b"secret-of-ann" not in page(gateway, target)


@pytest.mark.parametrize("first", [
    {"method": "HEAD"}, {"lines": ["Content-Length: 11"], "body": EVIL.encode()},
    {"method": "POST", "lines": ["Content-Length: 11"], "body": EVIL.encode()}, {"method": "OPTIONS"},
    {"method": "GET", "lines": ["Transfer-Encoding: chunked"], "body": b"b\r\nevil-marker\r\n0\r\n\r\n"}])
def test_another_method_or_a_body_fills_no_get(gateway, first):
    target = f"/method/{first.get('method')}{len(first)}{first.get('lines', [''])[0][:3]}"
    send(gateway, target, *first.get("lines", ()), method=first.get("method", "GET"), body=first.get("body", b""))
    assert EVIL.encode() not in page(gateway, target)


@pytest.mark.parametrize("query", ["page=1&page=evil-marker", "page=1&%70age=evil-marker", "page=1&x=1;page=evil-marker",
                                   "page=1&Page=evil-marker", "page=1&page[]=evil-marker", "page=1&+page=evil-marker"])
def test_a_parameter_that_only_the_upstream_sees(gateway, query):
    send(gateway, f"/paged/a?{query}")
    assert EVIL.encode() not in page(gateway, "/paged/a?page=1")


@pytest.mark.parametrize("cookie", ["currency=eur; currency=evil-marker", "currency=eur; Currency=evil-marker",
                                    "currency=eur; currency =evil-marker", "currency=eur; %63urrency=evil-marker"])
def test_a_cookie_that_only_the_upstream_sees(gateway, cookie):
    send(gateway, "/paged/b", f"Cookie: {cookie}")
    assert EVIL.encode() not in page(gateway, "/paged/b", "Cookie: currency=eur")


@pytest.mark.parametrize("host", ["evil-marker.test", "shop.test:81", "shop.test.", "shop.test@evil-marker.test"])
def test_another_host(gateway, host):
    send(gateway, "/host", host=host)
    text = page(gateway, "/host")
    assert b"X-Forwarded-Host: shop.test |" in text and EVIL.encode() not in text


def test_the_authority_of_a_url_as_target(gateway):
    """It goes before Host (RFC 9112 section 3.2.2): the page that it makes is another address's."""
    assert ask(gateway.port, b"GET http://evil-marker.test/url HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")[0] == 200
    assert EVIL.encode() not in page(gateway, "/url")


@pytest.mark.parametrize("head", [
    b"GET /two HTTP/1.1\r\nHost: shop.test\r\nHost: evil-marker\r\n",
    b"GET /two HTTP/1.1\r\nHost: shop.test\r\nX_Forwarded_Host: evil-marker\r\n",
    b"GET /two HTTP/1.1\r\nHost: shop.test\r\nCookie : sid=evil-marker\r\n"])
def test_what_could_be_read_in_two_ways_is_refused(gateway, head):
    assert ask(gateway.port, head + b"Connection: close\r\n\r\n")[0] == 400
    assert EVIL.encode() not in page(gateway, "/two")
