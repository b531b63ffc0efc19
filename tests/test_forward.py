import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Route
from gateway.forward import CONNECTION_FIELDS, REPLACED_FIELDS, Forward, Forwarding, forwarded_element
from gateway.http.fields import PROXY_WORDS
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


FOR = ("X-Forwarded-For", "6.6.6.6, 1.1.1.1")


@pytest.mark.parametrize("headers, believed, addresses, elements", [
    ([FOR, ("Forwarded", "for=9.9.9.9")], {"chain": FOR, "client": "1.1.1.1"},
     "6.6.6.6, 1.1.1.1, 10.0.0.9", 'for=1.1.1.1;proto=https;host="www.test:8443", for=10.0.0.9'),
    ([("Forwarded", "for=1.1.1.1")], {"chain": ("Forwarded", "for=1.1.1.1"), "client": "1.1.1.1"},
     "1.1.1.1, 10.0.0.9", 'for=1.1.1.1, for=10.0.0.9;proto=https;host="www.test:8443"'),
    ([("X-Forwarded-Proto", "https"), ("Forwarded", "for=9.9.9.9")], {}, "10.0.0.9",
     'for=10.0.0.9;proto=https;host="www.test:8443"'),
    ([FOR], {"chain": ("X-Forwarded-For", "2001:db8::1"), "client": "2001:db8::1"},
     "2001:db8::1, 10.0.0.9", 'for="[2001:db8::1]";proto=https;host="www.test:8443", for=10.0.0.9'),
    ([FOR], {"chain": ("X-Forwarded-For", 'a";b'), "client": 'a";b'},
     'a";b, 10.0.0.9', 'for=unknown;proto=https;host="www.test:8443", for=10.0.0.9')])
def test_of_a_trusted_proxy_only_what_was_believed_is_continued(headers, believed, addresses, elements):
    sent = []
    target = forward(sent)
    for _ in range(2):                                       # and again from memory
        target(request(headers, trusted=True, scheme="https", host="www.test:8443", **{"client": "10.0.0.9", **believed}))
        fields = dict(sent.pop().headers)
        assert (fields["X-Forwarded-For"], fields["Forwarded"]) == (addresses, elements)
        assert (fields["X-Forwarded-Proto"], fields["X-Forwarded-Port"]) == ("https", "8443")


def test_the_port_a_trusted_proxy_names():
    sent = []
    forward(sent)(request([], trusted=True, port="8443"))
    assert dict(sent[0].headers)["X-Forwarded-Port"] == "8443"


def test_without_a_host_none_is_forwarded():
    sent = []
    forward(sent)(request([], host=""))
    fields = dict(sent[0].headers)
    assert "X-Forwarded-Host" not in fields and fields["Forwarded"] == "for=10.0.0.9;proto=http"


@pytest.mark.parametrize("trusted", [True, False])
def test_the_word_of_a_proxy_is_taken_from_proxies_only(trusted):
    sent = []
    others = PROXY_WORDS - REPLACED_FIELDS               # those that the gateway does not say itself
    forward(sent)(request([(name.title(), "1") for name in sorted(PROXY_WORDS)], trusted=trusted))
    assert {name.lower() for name, _ in sent[0].headers} & others == (others if trusted else set())
    assert ("X-Forwarded-Host", "1") not in sent[0].headers


@pytest.mark.parametrize("version, before, via", [
    ("1.1", [], "1.1 gg"), ("1.0", [], "1.0 gg"),
    ("1.0", [("Via", "1.1 x"), ("via", "1.1 y")], "1.1 x, 1.1 y, 1.0 gg")])
def test_via_names_the_version_of_the_message(version, before, via):
    sent = []
    forward(sent)(request(before, version=version))
    assert dict(sent[0].headers)["Via"] == via


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_via_names_the_version_of_the_answer(version):
    answer = Response(200, [])
    answer.version = version
    assert forward([], answer)(request([])).headers == [("Via", f"{version} gg")]


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
