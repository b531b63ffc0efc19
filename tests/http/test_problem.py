"""Errors as answers; and docs/errors.md, which must tell exactly what gateway/errors.py says."""

import json
import re
from pathlib import Path

import pytest

from gateway import errors
from gateway.errors import ConnectFailed, DeadlineExceeded, GatewayError, InvalidTarget, MethodNotAllowed, NoRoute, PartFailed
from gateway.http.problem import prefers_html, render_error, render_http
from gateway.message import Request

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
DOCS = Path(__file__).parent.parent.parent / "docs"


def request(*accept, id="0af7651916cd43dd8448eb211c80319c"):
    made = Request("GET", "/", [("Accept", value) for value in accept])
    made.id = id
    return made


def classes(base=GatewayError):
    """Every error that becomes an answer."""
    return [base, *(found for child in base.__subclasses__() if child.__module__ == errors.__name__ for found in classes(child))]


def example(kind):
    """One of them, with what it needs."""
    if issubclass(kind, MethodNotAllowed):
        return kind(["GET", "HEAD"])
    return kind("user", "the reason") if issubclass(kind, PartFailed) else kind("the detail")


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_problem_document(kind):
    answer = render_error(example(kind), request())
    assert answer.status == kind.status
    assert answer.header("Content-Type") == "application/problem+json"
    assert answer.header("Cache-Control") == "no-store"
    problem = json.loads(answer.body)
    assert problem.pop("detail", None) == (example(kind).detail if kind.public else None)
    assert problem == {"type": f"urn:wicketgate:error:{kind.code}", "title": kind.title, "status": kind.status, "code": kind.code,
                       "request_id": "0af7651916cd43dd8448eb211c80319c"}


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_page_for_a_browser(kind):
    answer = render_error(example(kind), request(BROWSER))
    page = answer.body.decode()
    assert answer.status == kind.status
    assert answer.header("Content-Type") == "text/html; charset=utf-8"
    assert answer.header("Cache-Control") == "no-store"
    assert str(kind.status) in page and kind.title in page and kind.code in page and "0af7651916cd43dd8448eb211c80319c" in page
    assert (example(kind).detail.replace("'", "&#x27;") in page) is kind.public
    assert "http" not in page and "src=" not in page, "a page needs nothing from elsewhere"


@pytest.mark.parametrize("accept", [(), (BROWSER,)])
def test_fields_an_error_must_carry(accept):
    answer = render_error(MethodNotAllowed(["GET", "HEAD"]), request(*accept))
    assert answer.header("Allow") == "GET, HEAD"
    again = render_error(NoRoute("x"), request(*accept))
    assert again.header("Allow") == "", "the fields of one answer are not those of the next"


def test_time_decides_the_status_of_a_part():
    answer = render_error(PartFailed("user", "slow", DeadlineExceeded("over")), request())
    assert answer.status == json.loads(answer.body)["status"] == 504


def test_strangers_do_not_see_where_it_went():
    for accept in ("", BROWSER):
        answer = render_error(ConnectFailed("10.0.0.5:80 refused", "users", "http://10.0.0.5:80"), request(accept))
        assert b"10.0.0.5" not in answer.body and b"users" not in answer.body


@pytest.mark.parametrize("detail", ["<script>alert(1)</script>", '"><img>', "&amp;", "\x00\x1b", "caf\xe9", "\udcff"])
def test_what_the_client_sent_stays_text(detail):
    page = render_error(InvalidTarget(detail), request(BROWSER)).body.decode()
    assert "<script>" not in page and "<img>" not in page
    assert json.loads(render_error(InvalidTarget(detail), request()).body)["detail"] == detail.replace("\udcff", "?")


def test_answer_without_an_id():
    assert "request_id" not in json.loads(render_error(NoRoute("x"), request(id="")).body)
    assert b"request " not in render_error(NoRoute("x"), request(BROWSER, id="")).body


@pytest.mark.parametrize("accept, html", [
    (BROWSER, True),                                                   # Firefox, Chrome, Safari
    ("text/html", True), ("TEXT/HTML", True), ("text/html;q=0.9, application/json;q=0.8", True),
    ("text/*", True), ("text/html, */*;q=0.1", True), ("application/json;q=0.5, text/html;q=0.50001, text/*;q=0.7", False),
    ("text/html ; q=0.8 , application/json ; q=0.7", True), ("text/html;level=1;q=0.4", True),
    ("", False), ("*/*", False), ("application/json", False), ("application/problem+json, text/html", False),
    ("text/html, application/json", False), ("text/html;q=0.8, application/json;q=0.9", False),
    ("application/*, text/html", False),
    ("text/html;q=0", False), ("text/html;q=0, text/*", False), ("text/html;q=x", False), ("text/html;q=2", False),
    ("application/xhtml+xml", False), ("nonsense html", False), (",;,=", False), ("text/html;q=0.5, */*;q=0.5", False),
])
def test_who_gets_a_page(accept, html):
    assert prefers_html(accept) is html
    assert render_error(NoRoute("x"), request(accept)).header("Content-Type").startswith("text/html") is html


def test_repeated_accept_is_one_list():
    assert render_error(NoRoute("x"), request("application/json;q=0.5", "text/html")).header("Content-Type").startswith("text/html")


@pytest.mark.parametrize("status, title, code", [(404, "Not Found", "not_found"), (418, "I'm a teapot", "i_m_a_teapot"),
                                                 (599, "", "")])
def test_plain_http_errors(status, title, code):
    answer = render_http(status, title, "There is no such user.", [("Content-Type", "text/html"), ("Content-Length", "3"),
                                                                   ("Retry-After", "5")])
    assert answer.status == status
    assert [name for name, _ in answer.headers].count("Content-Type") == 1
    assert answer.header("Retry-After") == "5" and answer.header("Content-Length") == ""
    assert json.loads(answer.body) == {"type": "about:blank", "title": title, "status": status, "code": code,
                                       "detail": "There is no such user."}


def test_plain_http_error_for_a_browser():
    answer = render_http(404, "Not Found", "<b>", [], BROWSER, "the-id-1")
    assert b"&lt;b&gt;" in answer.body and b"the-id-1" in answer.body


def test_every_error_is_documented_as_it_is():
    """Code, status and flag of every class, one row each; nothing else in the table."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d, or]+) \| `([A-Z]{2})` \| (.+?) \| (.+?) \|$", (DOCS / "errors.md").read_text(), re.M)
    documented = {code: (int(status.split()[0]), flag) for code, status, flag, _, _ in rows}
    assert len(documented) == len(rows), "a code stands twice"
    assert documented == {kind.code: (kind.status, kind.flag) for kind in classes()}
    assert all(len(meaning) > 20 and len(remedy) > 20 for _, _, _, meaning, remedy in rows)


def test_codes_are_told_apart():
    """A code names one class; only the base and its plain InternalError share theirs. A flag may stand for several."""
    codes = [kind.code for kind in classes() if kind is not GatewayError]
    assert len(codes) == len(set(codes))


def test_every_flag_is_documented():
    rows = re.findall(r"^\| `([A-Z]{2}|-)` \|", (DOCS / "observe.md").read_text(), re.M)
    assert len(rows) == len(set(rows))
    assert set(rows) == {kind.flag for kind in classes()} | {"-", "KL"}
