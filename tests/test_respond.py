import pytest

from gateway.config import RespondSettings as Settings
from gateway.message import Request
from gateway.respond import Respond


@pytest.mark.parametrize("settings, status, body, kind", [
    ({"status": 410, "json": {"message": "moved"}}, 410, b'{"message":"moved"}', "application/json"),
    ({"text": "hé"}, 200, "hé".encode(), "text/plain; charset=utf-8"), ({"json": None}, 200, b"null", "application/json"),
    ({"json": []}, 200, b"[]", "application/json"), ({"status": 204}, 204, b"", ""),
    ({"text": "<p>", "headers": {"content-type": "text/html"}}, 200, b"<p>", "text/html")])
def test_respond(settings, status, body, kind):
    answer = Respond(Settings(**settings))(Request("GET", "/", []))
    assert (answer.status, answer.body, answer.header("Content-Type")) == (status, body, kind)


@pytest.mark.parametrize("settings, length", [
    ({"text": "h\xe9"}, "3"), ({"status": 404}, "0"), ({"status": 204}, ""), ({"status": 304}, "")])
def test_the_length_is_said_whatever_the_method(settings, length):
    answer = Respond(Settings(**settings))(Request("HEAD", "/", []))
    assert ", ".join(answer.header_list("Content-Length")) == length


def test_one_answers_headers_are_not_the_nexts():
    target = Respond(Settings(text="x"))
    target(Request("GET", "/", [])).headers.append(("X-A", "1"))
    assert target(Request("GET", "/", [])).header("X-A") == ""


@pytest.mark.parametrize("headers, written", [({}, True), ({"Date": "today"}, False)])
def test_the_head_is_written_before_where_it_can_be(headers, written):
    answer = Respond(Settings(text="x", headers=headers))(Request("GET", "/", []))
    assert (answer.head_lines is not None) is written
    assert len(answer.header_list("Date")) == (written or "Date" in headers)
