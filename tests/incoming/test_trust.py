"""Whom to believe: the walk over X-Forwarded-For and Forwarded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.incoming.accept import Accept
from gateway.incoming.request import RequestFactory
from gateway.incoming.trust import MOST_ADDRESSES, Trust, bare_address
from gateway.message import Response
from tests.incoming.environs import environ


@pytest.mark.parametrize("networks, address, trusted", [
    ((), "127.0.0.1", False), (("127.0.0.1/32",), "127.0.0.1", True), (("10.0.0.0/8",), "10.200.3.4", True),
    (("10.0.0.0/8",), "11.0.0.1", False), (("::1/128",), "::1", True), (("10.0.0.1",), "10.0.0.1", True),
    (("127.0.0.1/32",), "::ffff:127.0.0.1", True), (("127.0.0.1/32",), "::ffff:7f00:1", True),
    (("::1",), "::ffff:127.0.0.1", False),
    (("unix",), "", True), (("10.0.0.0/8",), "", False), (("10.0.0.0/8",), "no address", False)])
def test_trust(networks, address, trusted):
    trust = Trust(networks)
    assert (address in trust) is trusted
    assert (address in trust) is trusted          # and again from memory


@pytest.mark.parametrize("peer, fields, client, scheme, host", [
    ("6.6.6.6", {"HTTP_X_FORWARDED_FOR": "1.1.1.1", "HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_HOST": "evil.test"},
     "6.6.6.6", "http", "shop.test"),
    ("10.0.0.9", {"HTTP_X_FORWARDED_FOR": "1.1.1.1", "HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_HOST": "www.test"},
     "1.1.1.1", "https", "www.test"),
    ("10.0.0.9", {"HTTP_X_FORWARDED_FOR": "9.9.9.9, 1.1.1.1"}, "1.1.1.1", "http", "shop.test"),
    ("10.0.0.9", {"HTTP_X_FORWARDED_FOR": "1.1.1.1, 10.0.0.5", "HTTP_X_FORWARDED_PROTO": "https, http"},
     "1.1.1.1", "https", "shop.test"),
    ("10.0.0.9", {"HTTP_X_FORWARDED_FOR": "10.0.0.4, 10.0.0.5"}, "10.0.0.4", "http", "shop.test"),
    ("10.0.0.9", {"HTTP_X_FORWARDED_PROTO": "gopher", "HTTP_X_FORWARDED_HOST": "a b"}, "10.0.0.9", "http", "shop.test"),
    ("10.0.0.9", {"HTTP_FORWARDED": 'for="[2001:db8::1]:44";proto=https;host=www.test'}, "2001:db8::1", "https", "www.test"),
    ("10.0.0.9", {"HTTP_FORWARDED": "for=1.1.1.1, for=10.0.0.4;proto=https"}, "1.1.1.1", "http", "shop.test"),
    ("10.0.0.9", {"HTTP_FORWARDED": "for=1.1.1.1", "HTTP_X_FORWARDED_FOR": "2.2.2.2"}, "2.2.2.2", "http", "shop.test"),
    ("10.0.0.9", {"HTTP_FORWARDED": 'for="_x;host='}, "10.0.0.9", "http", "shop.test"),
    ("10.0.0.9", {"HTTP_FORWARDED": 'for=1.1.1.1;host="a\\"b"'}, "1.1.1.1", "http", "shop.test"),
    ("10.0.0.9", {}, "10.0.0.9", "http", "shop.test")])
def test_who_is_believed(peer, fields, client, scheme, host):
    request = RequestFactory(("10.0.0.0/8",), 5)(environ(REMOTE_ADDR=peer, **fields))
    assert (request.client, request.scheme, request.host) == (client, scheme, host)
    assert request.peer == peer


@pytest.mark.parametrize("fields, chain, port", [
    ({"HTTP_X_FORWARDED_FOR": "1.1.1.1", "HTTP_FORWARDED": "for=6.6.6.6"}, ("X-Forwarded-For", "1.1.1.1"), ""),
    ({"HTTP_X_FORWARDED_PROTO": "https", "HTTP_FORWARDED": "for=6.6.6.6"}, None, ""),
    ({"HTTP_FORWARDED": "for=1.1.1.1;proto=https, for=10.0.0.4"}, ("Forwarded", "for=1.1.1.1;proto=https, for=10.0.0.4"), ""),
    ({"HTTP_X_FORWARDED_PORT": "8443"}, None, "8443"),
    ({"HTTP_X_FORWARDED_PORT": "8443", "HTTP_FORWARDED": "for=6.6.6.6"}, None, "8443"),
    ({"HTTP_X_FORWARDED_FOR": "1.1.1.1, 10.0.0.4", "HTTP_X_FORWARDED_PORT": "7, 443, 80"},
     ("X-Forwarded-For", "1.1.1.1, 10.0.0.4"), "443"),
    ({"HTTP_X_FORWARDED_PORT": "x"}, None, ""), ({"HTTP_X_FORWARDED_PORT": "-1"}, None, ""),
    ({"HTTP_X_FORWARDED_PORT": "\xb2"}, None, ""),
    ({"HTTP_X_FORWARDED_PORT": "123456"}, None, ""), ({}, None, "")])
def test_which_words_are_believed(fields, chain, port):
    request = RequestFactory(("10.0.0.0/8",), 5)(environ(**fields))
    assert (request.chain, request.port) == (chain, port)
    request = RequestFactory((), 5)(environ(**fields))
    assert (request.chain, request.port) == (None, "")


def test_an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address():
    incoming = RequestFactory(("10.0.0.0/8",), 5)
    for _ in range(2):
        request = incoming(environ(REMOTE_ADDR="::ffff:10.0.0.9", HTTP_X_FORWARDED_FOR="::ffff:1.1.1.1, ::ffff:10.0.0.4"))
        assert (request.peer, request.client, request.trusted) == ("10.0.0.9", "1.1.1.1", True)


def test_a_trust_remembers_no_end_of_addresses():
    trust = Trust(("10.0.0.0/8",))
    for number in range(MOST_ADDRESSES + 2):
        assert f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}" not in trust
    assert len(trust.verdicts) <= MOST_ADDRESSES and "10.0.0.1" in trust


@pytest.mark.parametrize("value, address", [
    ("1.2.3.4", "1.2.3.4"), ("1.2.3.4:80", "1.2.3.4"), ("::1", "::1"), ("[::1]", "::1"), ("[::1]:80", "::1"),
    ('"[::1]:80"', "::1"), ("unknown", "unknown"), ("_hidden", "_hidden")])
def test_bare_address(value, address):
    assert bare_address(value) == address


@pytest.mark.parametrize("fields, scheme", [
    ({"HTTP_X_FORWARDED_PROTO": "wss"}, "https"), ({"HTTP_X_FORWARDED_PROTO": "ws"}, "http"),
    ({"HTTP_X_FORWARDED_PROTO": "WSS"}, "https"), ({"HTTP_X_FORWARDED_PROTO": "Https"}, "https"),
    ({"HTTP_X_FORWARDED_PROTO": " wss , http"}, "http"), ({"HTTP_X_FORWARDED_PROTO": "http,wss"}, "https"),
    ({"HTTP_X_FORWARDED_FOR": "1.1.1.1, 10.0.0.4", "HTTP_X_FORWARDED_PROTO": "wss, http"}, "https"),
    ({"HTTP_FORWARDED": "for=1.1.1.1;proto=wss"}, "https"), ({"HTTP_FORWARDED": "proto=WS"}, "http"),
    ({"HTTP_FORWARDED": 'Proto="wss"'}, "https"), ({"HTTP_FORWARDED": "for=1.1.1.1;proto=https, for=10.0.0.4;proto=ws"}, "https"),
    ({"HTTP_X_FORWARDED_PROTO": "h2"}, "http"), ({"HTTP_X_FORWARDED_PROTO": "wss", "wsgi.url_scheme": "https"}, "https"),
    ({"HTTP_X_FORWARDED_PROTO": "ftp", "wsgi.url_scheme": "https"}, "https"), ({"HTTP_X_FORWARDED_PROTO": ""}, "http"),
    ({"HTTP_X_FORWARDED_PROTO": "ws", "wsgi.url_scheme": "https"}, "http")])
def test_the_scheme_of_a_websocket_is_that_of_http(fields, scheme):
    assert RequestFactory(("10.0.0.0/8",), 5)(environ(**fields)).scheme == scheme
    assert RequestFactory((), 5)(environ(**fields)).scheme == fields.get("wsgi.url_scheme", "http")


LATIN = st.text(alphabet=st.characters(max_codepoint=255), max_size=40)


@given(LATIN, LATIN)
def test_whatever_a_proxy_says_nothing_breaks(chain, forwarded):
    incoming = RequestFactory(("10.0.0.0/8",), 5)
    request = incoming(environ(HTTP_X_FORWARDED_FOR=chain, HTTP_FORWARDED=forwarded, HTTP_X_FORWARDED_HOST=forwarded))
    try:
        Accept(lambda request: Response(200, []))(request)
    except GatewayError as error:
        assert error.status == 400
    assert request.scheme in ("http", "https")
