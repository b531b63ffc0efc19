import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DuplicateHeader, GatewayError, InvalidHost, InvalidTarget, MethodNotAllowed
from gateway.incoming.accept import Accept
from gateway.incoming.request import Incoming
from gateway.incoming.trust import REMEMBERED, Trust, bare_address
from gateway.message import Response


def environ(**changes):
    return {"REQUEST_METHOD": "GET", "RAW_URI": "/", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http",
            "REMOTE_ADDR": "10.0.0.9", "HTTP_HOST": "shop.test", "wsgi.input": io.BytesIO(b""), **changes}


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
    request = Incoming(("10.0.0.0/8",), 5)(environ(REMOTE_ADDR=peer, **fields))
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
    request = Incoming(("10.0.0.0/8",), 5)(environ(**fields))
    assert (request.chain, request.port) == (chain, port)
    request = Incoming((), 5)(environ(**fields))
    assert (request.chain, request.port) == (None, "")


def test_an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address():
    incoming = Incoming(("10.0.0.0/8",), 5)
    for _ in range(2):
        request = incoming(environ(REMOTE_ADDR="::ffff:10.0.0.9", HTTP_X_FORWARDED_FOR="::ffff:1.1.1.1, ::ffff:10.0.0.4"))
        assert (request.peer, request.client, request.trusted) == ("10.0.0.9", "1.1.1.1", True)


def test_a_trust_remembers_no_end_of_addresses():
    trust = Trust(("10.0.0.0/8",))
    for number in range(REMEMBERED + 2):
        assert f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}" not in trust
    assert len(trust.verdicts) <= REMEMBERED and "10.0.0.1" in trust


@pytest.mark.parametrize("change, answered, sent", [
    ({"RAW_URI": "*"}, True, None), ({"HTTP_MAX_FORWARDS": "0"}, True, None), ({"HTTP_MAX_FORWARDS": "1"}, False, "0"),
    ({"HTTP_MAX_FORWARDS": "010"}, False, "9"), ({"HTTP_MAX_FORWARDS": "x"}, False, "x"),
    ({"HTTP_MAX_FORWARDS": "-1"}, False, "-1"),
    ({}, False, None), ({"REQUEST_METHOD": "GET", "HTTP_MAX_FORWARDS": "0"}, False, "0")])
def test_options_for_the_gateway_itself(change, answered, sent):
    seen = []

    def handle(request):
        seen.append(request.header("Max-Forwards") or None)
        return Response(404, [])

    answer = Accept(handle)(Incoming((), 5)(environ(**{"REQUEST_METHOD": "OPTIONS", **change})))
    assert seen == ([] if answered else [sent])
    if answered:
        assert (answer.status, answer.header("Content-Length"), "OPTIONS" in answer.header("Allow")) == (200, "0", True)


@pytest.mark.parametrize("value, address", [
    ("1.2.3.4", "1.2.3.4"), ("1.2.3.4:80", "1.2.3.4"), ("::1", "::1"), ("[::1]", "::1"), ("[::1]:80", "::1"),
    ('"[::1]:80"', "::1"), ("unknown", "unknown"), ("_hidden", "_hidden")])
def test_bare_address(value, address):
    assert bare_address(value) == address


@pytest.mark.parametrize("change, error", [
    ({"REQUEST_METHOD": "CONNECT"}, MethodNotAllowed), ({"REQUEST_METHOD": "TRACE"}, MethodNotAllowed),
    ({"REQUEST_METHOD": "CONNECT", "RAW_URI": "a:80"}, MethodNotAllowed), ({"RAW_URI": "ftp://shop.test/"}, InvalidTarget),
    ({"RAW_URI": "http://"}, InvalidTarget), ({"RAW_URI": "http:///a"}, InvalidTarget), ({"RAW_URI": "http:/a"}, InvalidTarget),
    ({"RAW_URI": "http://u@shop.test/"}, InvalidTarget), ({"RAW_URI": "http://a b/"}, InvalidTarget),
    ({"RAW_URI": "http://shop.test/a#b"}, InvalidTarget), ({"RAW_URI": "http://shop.test/\x00"}, InvalidTarget),
    ({"RAW_URI": "http://shop.test/", "HTTP_HOST": ""}, GatewayError), ({"RAW_URI": "http://a/", "HTTP_HOST": "b c"}, GatewayError),
    ({"HTTP_HOST": ":"}, InvalidHost), ({"HTTP_HOST": ":80"}, InvalidHost), ({"HTTP_HOST": "a::"}, InvalidHost),
    ({"RAW_URI": "shop.test:80"}, InvalidTarget), ({"RAW_URI": "*"}, InvalidTarget), ({"RAW_URI": "/a#b"}, InvalidTarget),
    ({"RAW_URI": "/a b"}, InvalidTarget), ({"RAW_URI": "/\x00"}, InvalidTarget), ({"RAW_URI": "/caf\xe9"}, InvalidTarget),
    ({"HTTP_HOST": ""}, InvalidHost), ({"HTTP_HOST": "a b"}, InvalidHost), ({"HTTP_HOST": "a/b"}, InvalidHost),
    ({"HTTP_HOST": "u@a"}, InvalidHost), ({"HTTP_HOST": "a:x"}, InvalidHost), ({"HTTP_HOST": "a:123456"}, InvalidHost),
    ({"HTTP_HOST": "[::1"}, InvalidHost), ({"HTTP_HOST": "a,b c"}, InvalidHost)])
def test_refused(change, error):
    with pytest.raises(error):
        Accept(lambda request: Response(200, []))(Incoming((), 5)(environ(**change)))


@pytest.mark.parametrize("change", [
    {}, {"REQUEST_METHOD": "OPTIONS", "RAW_URI": "*"}, {"HTTP_HOST": "", "SERVER_PROTOCOL": "HTTP/1.0"}, {"HTTP_HOST": "[::1]:80"},
    {"HTTP_HOST": "a_b.test:8080"}, {"HTTP_HOST": "a.test:"}, {"HTTP_HOST": "[::1]:"}, {"RAW_URI": "https://b.test:8443"},
    {"RAW_URI": "/%00?a=[1]|^"}, {"HTTP_AUTHORIZATION": 'Digest a="b", c="d"'}])
def test_accepted(change):
    assert Accept(lambda request: Response(200, []))(Incoming((), 5)(environ(**change))).status == 200


@pytest.mark.parametrize("change, target, host", [
    ({"RAW_URI": "http://b.test/x?y"}, "/x?y", "b.test"), ({"RAW_URI": "HTTPS://B.test:8443/"}, "/", "B.test:8443"),
    ({"RAW_URI": "http://b.test"}, "/", "b.test"), ({"RAW_URI": "http://b.test?y"}, "/?y", "b.test"),
    ({"RAW_URI": "http://b.test:/"}, "/", "b.test"), ({"RAW_URI": "http://[::1]:80//x"}, "//x", "[::1]:80"),
    ({"RAW_URI": "http://b.test", "REQUEST_METHOD": "OPTIONS", "HTTP_MAX_FORWARDS": "1"}, "*", "b.test"),
    ({"RAW_URI": "http://b.test/?", "REQUEST_METHOD": "OPTIONS"}, "/?", "b.test"),
    ({"RAW_URI": "http://b.test/", "HTTP_HOST": "", "SERVER_PROTOCOL": "HTTP/1.0"}, "/", "b.test"),
    ({"RAW_URI": "/x", "HTTP_HOST": "b.test:"}, "/x", "b.test"), ({"RAW_URI": "/x", "HTTP_HOST": "[::1]:"}, "/x", "[::1]")])
def test_the_authority_goes_before_host_and_an_empty_port_is_none(change, target, host):
    seen = []
    request = Incoming((), 5)(environ(**change))
    Accept(lambda request: seen.append(request) or Response(200, []))(request)
    assert seen or target == "*"
    path, _, query = target.partition("?")
    assert (request.target, request.path, request.query or "", request.scheme) == (target, path, query, "http")
    assert request.host == host and request.header_list("Host") == [host]


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
    assert Incoming(("10.0.0.0/8",), 5)(environ(**fields)).scheme == scheme
    assert Incoming((), 5)(environ(**fields)).scheme == fields.get("wsgi.url_scheme", "http")


class Connection:
    def __init__(self, headers):
        self.headers = headers


def test_two_authorizations():
    twice = Connection([("Authorization", "Basic a"), ("authorization", "Basic b")])
    request = Incoming((), 5)(environ(**{"HTTP_AUTHORIZATION": "Basic a,Basic b", "gateway.connection": twice}))
    with pytest.raises(DuplicateHeader):
        Accept(lambda request: Response(200, []))(request)


def test_without_the_workers_list_the_environ_serves():
    request = Incoming((), 5)(environ(HTTP_X_A="1", CONTENT_TYPE="text/plain", CONTENT_LENGTH="3",
                                      **{"wsgi.input": io.BytesIO(b"abc")}))
    assert ("X-A", "1") in request.headers and ("Content-Type", "text/plain") in request.headers
    assert request.body is not None and request.body.length == 3 and request.body.read() == b"abc"


def test_without_raw_uri_the_path_is_encoded_again():
    given = environ(PATH_INFO="/a b/caf\xc3\xa9", QUERY_STRING="x=1")
    del given["RAW_URI"]
    assert Incoming((), 5)(given).target == "/a%20b/caf%C3%A9?x=1"


LATIN = st.text(alphabet=st.characters(max_codepoint=255), max_size=40)


@given(LATIN, LATIN)
def test_whatever_a_proxy_says_nothing_breaks(chain, forwarded):
    incoming = Incoming(("10.0.0.0/8",), 5)
    request = incoming(environ(HTTP_X_FORWARDED_FOR=chain, HTTP_FORWARDED=forwarded, HTTP_X_FORWARDED_HOST=forwarded))
    try:
        Accept(lambda request: Response(200, []))(request)
    except GatewayError as error:
        assert error.status == 400
    assert request.scheme in ("http", "https")
