"""What is refused before any route, and what the gateway answers itself."""

import pytest

from gateway.errors import DuplicateHeader, GatewayError, InvalidHost, InvalidTarget, MethodNotAllowed
from gateway.incoming.accept import Accept
from gateway.incoming.request import RequestFactory
from gateway.message import Response
from tests.incoming.environs import environ


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

    answer = Accept(handle)(RequestFactory((), 5)(environ(**{"REQUEST_METHOD": "OPTIONS", **change})))
    assert seen == ([] if answered else [sent])
    if answered:
        assert (answer.status, answer.header("Content-Length"), "OPTIONS" in answer.header("Allow")) == (200, "0", True)


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
        Accept(lambda request: Response(200, []))(RequestFactory((), 5)(environ(**change)))


@pytest.mark.parametrize("change", [
    {}, {"REQUEST_METHOD": "OPTIONS", "RAW_URI": "*"}, {"HTTP_HOST": "", "SERVER_PROTOCOL": "HTTP/1.0"}, {"HTTP_HOST": "[::1]:80"},
    {"HTTP_HOST": "a_b.test:8080"}, {"HTTP_HOST": "a.test:"}, {"HTTP_HOST": "[::1]:"}, {"RAW_URI": "https://b.test:8443"},
    {"RAW_URI": "/%00?a=[1]|^"}, {"HTTP_AUTHORIZATION": 'Digest a="b", c="d"'}])
def test_accepted(change):
    assert Accept(lambda request: Response(200, []))(RequestFactory((), 5)(environ(**change))).status == 200


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
    request = RequestFactory((), 5)(environ(**change))
    Accept(lambda request: seen.append(request) or Response(200, []))(request)
    assert seen or target == "*"
    path, _, query = target.partition("?")
    assert (request.target, request.path, request.query or "", request.scheme) == (target, path, query, "http")
    assert request.host == host and request.header_list("Host") == [host]


class Connection:
    def __init__(self, headers):
        self.headers = headers


def test_two_authorizations():
    twice = Connection([("Authorization", "Basic a"), ("authorization", "Basic b")])
    request = RequestFactory((), 5)(environ(**{"HTTP_AUTHORIZATION": "Basic a,Basic b", "gateway.connection": twice}))
    with pytest.raises(DuplicateHeader):
        Accept(lambda request: Response(200, []))(request)
