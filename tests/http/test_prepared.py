"""An answer whose head was written before is the same answer: to the client, and to every step that looks at its fields."""

from __future__ import annotations

import pytest
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import HeaderRules
from gateway.headers import EditHeaders, edit_of
from gateway.http.prepared import PreparedResponse, head_lines_of
from gateway.message import Request, Response
from gateway.server.fastlane import Lane
from gateway.telemetry.observe import set_id

LANE = Lane(Config())
LENGTH = ("Content-Length", "2")
DATE = ("Date", "Sat, 01 Jan 2000 00:00:00 GMT")


def prepared(headers, status=200, reason="OK", body=b"ab"):
    written = head_lines_of(status, headers, len(body))
    assert written is not None
    return PreparedResponse(status, reason, written, body)


def sent(response, method="GET", asked=b"", leaving=False):
    plain = LANE.read(b"%b / HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method.encode(), asked))
    return LANE.render(plain, response, response.body, leaving)


FIELDS = st.lists(st.tuples(st.sampled_from(["Server", "x-a", "Set-Cookie", "ETag", "Age", "Via"]),
                            st.text(st.characters(max_codepoint=255, exclude_categories=("Cc",)), max_size=30)), max_size=6)


@given(FIELDS, st.sampled_from([(200, "OK"), (404, ""), (299, "So \xe9 ")]), st.sampled_from(["GET", "HEAD"]), st.booleans(),
       st.sampled_from([b"", b"Connection: close\r\n"]))
def test_it_is_sent_as_the_plain_one_is(headers, status, method, leaving, asked):
    headers = [*headers, LENGTH, DATE]
    one = sent(prepared(headers, *status), method, asked, leaving)
    assert one == sent(Response(status[0], headers, b"ab", status[1]), method, asked, leaving)


@pytest.mark.parametrize("status", [204, 304])
def test_what_has_no_body_has_none(status):
    response = prepared([DATE], status, "", b"")
    assert sent(response) == sent(Response(status, [DATE], b"", ""))


@given(FIELDS)
def test_its_fields_are_those_it_was_made_of(headers):
    assert prepared([*headers, LENGTH]).headers == [*headers, LENGTH]


def test_lines_are_appended_before_and_after_somebody_looked():
    response = prepared([LENGTH])
    response.append(b"Age: 1\r\nX: a: b\r\n")
    assert response.header("age") == "1" and response.head_lines is None
    response.append(b"Y: \r\n")
    assert response.headers == [LENGTH, ("Age", "1"), ("X", "a: b"), ("Y", "")]
    plain = Response(200, [LENGTH], b"ab")
    plain.append(b"Age: 1\r\n")
    assert plain.headers == [LENGTH, ("Age", "1")]


def test_a_change_of_the_fields_is_what_is_sent():
    response = prepared([("Server", "a"), LENGTH, DATE])
    response.headers = [field for field in response.headers if field[0] != "Server"]
    assert b"Server" not in sent(response)[0] and b"Content-Length: 2\r\n" in sent(response)[0]


def test_header_rules_apply():
    response = prepared([("Server", "a"), LENGTH, DATE])
    step = EditHeaders(lambda request: response, None, edit_of(HeaderRules(remove=["server"], set={"X": "1"})))
    data, _ = sent(step(Request("GET", "/", [])))
    assert b"Server" not in data and b"\r\nX: 1\r\n" in data


@pytest.mark.parametrize("looked", [False, True])
def test_there_is_one_request_id(looked):
    response = prepared([LENGTH, DATE])
    if looked:
        response.headers
    set_id(response, "0123456789")
    assert sent(response)[0].count(b"X-Request-Id: 0123456789\r\n") == 1


@pytest.mark.parametrize("status, headers, size", [
    (200, [("X", "a\r\nb"), LENGTH], 2), (200, [("X", "\u20ac"), LENGTH], 2), (200, [("no name", "a"), LENGTH], 2),
    (99, [LENGTH], 2), (101, [], 0), (200, [], 2), (200, [LENGTH], 3), (200, [("content-length", "02")], 2),
    (200, [LENGTH, LENGTH], 2), (204, [("Content-Length", "0")], 0), (200, [("CONNECTION", "x"), LENGTH], 2),
    (200, [("Transfer-Encoding", "chunked"), LENGTH], 2), (200, [("Upgrade", "x"), LENGTH], 2),
    (200, [("X-Request-ID", "x"), LENGTH], 2), (200, [("Trailer", "x"), LENGTH], 2)])
def test_what_needs_a_second_look_is_not_written(status, headers, size):
    assert head_lines_of(status, headers, size) is None


@pytest.mark.parametrize("status, reason", [(200, "O\nK"), (200, "\u20ac"), (1000, "")])
def test_a_status_that_cannot_be_sent_is_not(status, reason):
    with pytest.raises(ValueError):
        sent(prepared([LENGTH, DATE], status, reason))
