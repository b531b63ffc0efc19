import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Route
from gateway.forward import CONNECTION_FIELDS, REPLACED_FIELDS, Forward, Forwarding, forwarded_element
from gateway.message import Request, Response

ROUTE = Route(path="/*", upstream="legacy")


def forward(sent: list, answer: Response | None = None, **settings) -> Forward:
    def send(call):
        sent.append(call)
        return answer or Response(200, [])
    return Forward(ROUTE, send, upstream="legacy", forwarding=Forwarding("gg"), **{"host": "upstream", **settings})


def request(headers, **settings) -> Request:
    made = Request("GET", "/a?b", headers, host="shop.test", peer="10.0.0.9", scheme="http")
    made.id = "id-1"
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def test_fields_of_strangers_are_replaced():
    sent = []
    forward(sent)(request([("X-Forwarded-For", "6.6.6.6"), ("Via", "1.0 x"), ("X-A", "1")]))
    assert sent[0].headers == [
        ("X-A", "1"), ("X-Forwarded-For", "10.0.0.9"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "shop.test"),
        ("X-Forwarded-Port", "80"), ("Forwarded", 'for=10.0.0.9;proto=http;host="shop.test"'), ("Via", "1.0 x, 1.1 gg"),
        ("X-Request-Id", "id-1")]


def test_fields_of_a_trusted_proxy_are_continued():
    sent = []
    forward(sent)(request([("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "2.2.2.2"), ("Forwarded", "for=1.1.1.1")],
                          trusted=True, scheme="https", host="www.test:8443"))
    fields = dict(sent[0].headers)
    assert fields["X-Forwarded-For"] == "1.1.1.1, 2.2.2.2, 10.0.0.9"
    assert fields["Forwarded"] == 'for=1.1.1.1, for=10.0.0.9;proto=https;host="www.test:8443"'
    assert (fields["X-Forwarded-Proto"], fields["X-Forwarded-Port"]) == ("https", "8443")


@pytest.mark.parametrize("host, setting, sent_host", [
    ("shop.test", "upstream", None), ("shop.test", "preserve", "shop.test"),
    ("", "preserve", None), ("shop.test", "old.test", "old.test")])
def test_host(host, setting, sent_host):
    sent = []
    forward(sent, host=setting)(request([], host=host))
    assert sent[0].host == sent_host


def test_edit_has_the_last_word():
    sent = []
    forward(sent, edit=lambda headers: [("Only", "this")])(request([("X-A", "1")]))
    assert sent[0].headers == [("Only", "this")]


def test_path_is_replaced_and_the_query_kept():
    sent = []
    forward(sent, path=lambda path, params: "/new")(request([]))
    assert sent[0].target == "/new?b"


NAMES = st.sampled_from(["Connection", "X-A", "x-b", "TE", "Keep-Alive", "Upgrade", "Cookie", "Transfer-Encoding", "Host", "Via"])
VALUES = st.sampled_from(["close", "x-a", "X-B, close", "keep-alive", "1", "Cookie"])


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_nothing_of_the_connection_is_passed_on_and_the_rest_keeps_its_order(headers):
    sent = []
    response = forward(sent, Response(200, list(headers)))(request(list(headers)))
    named = {token.strip().lower() for name, value in headers if name == "Connection" for token in value.split(",")}
    end_to_end = [field for field in headers if field[0].lower() not in CONNECTION_FIELDS | REPLACED_FIELDS | named]
    assert sent[0].headers[:-7] == end_to_end
    assert response.headers[:-1] == [field for field in headers if field[0].lower() not in CONNECTION_FIELDS | named]


@pytest.mark.parametrize("peer, element", [
    ("10.0.0.1", 'for=10.0.0.1;proto=http;host="h"'), ("::1", 'for="[::1]";proto=http;host="h"'),
    ("unknown", 'for=unknown;proto=http;host="h"')])
def test_forwarded_element(peer, element):
    assert forwarded_element(peer, "http", "h") == element
