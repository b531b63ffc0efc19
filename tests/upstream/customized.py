"""What programs change of ``requests`` and of its sessions, as more scenarios (scenarios.py)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from unittest import mock

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.structures import CaseInsensitiveDict
from scenarios import Web, describe_cookies, fetch, session


class Client(requests.Session):
    """A session as libraries derive them."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.headers["X-Client"] = "1"
        self.prepared: list[str] = []

    def prepare_request(self, request):
        request.params = {**request.params, "key": "k"}
        prepared = super().prepare_request(request)
        self.prepared.append(prepared.url)
        return prepared

    def request(self, method, url, **arguments):
        return super().request(method, self.base + url, **arguments)

    def get_redirect_target(self, response):
        target = super().get_redirect_target(response)
        return target and target + "?followed=1"

    def rebuild_auth(self, prepared_request, response):
        prepared_request.headers["X-Rebuilt"] = "1"


class Outer(BaseAdapter):
    """An adapter around the usual one, which looks at the answer before the session does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = requests.sessions.HTTPAdapter()

    def send(self, request, **arguments):
        answer = self.inner.send(request, **arguments)
        answer.headers["X-First"] = answer.raw.read(2).decode("latin-1")
        return answer

    def close(self):
        self.inner.close()


class Signed(requests.auth.AuthBase):
    def __call__(self, prepared):
        prepared.headers["X-Signed"] = f"{prepared.method} {prepared.path_url} {prepared.body!r}"
        prepared.prepare_url(prepared.url, {"signed": "1"})
        prepared.register_hook("response", lambda answer, **_: answer.headers.update({"X-RequestRecord": str(answer.raw.tell())}))
        return prepared


def derived(web: Web) -> Any:
    with Client(web.base) as client:
        answers = [client.get("/echo"), client.post("/echo", json={"a": 1}), client.get("/moved"), client.head("/plain")]
        return answers, [url.removeprefix(web.base) for url in client.prepared]


def around(web: Web) -> Any:
    client = requests.Session()
    client.mount("http://", Outer())
    return [client.get(web.base + path).content for path in ("/plain", "/moved", "/latin1")]


def jars(web: Web) -> Any:
    """Cookies kept elsewhere, and by other rules."""
    found = []
    for jar in (CookieJar(), requests.cookies.RequestsCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))):
        client = session(cookies=jar)
        found.append([client.get(web.base + path) for path in ("/cookies", "/echo", "/chain/2")])
        found.append(describe_cookies(client.cookies))
    return found


def step_by_step(web: Web) -> Any:
    """Redirects followed by the program."""
    client = requests.Session()
    answers = [client.get(web.base + "/chain/3", allow_redirects=False)]
    while answers[-1].next is not None:
        answers.append(client.send(answers[-1].next, allow_redirects=False))
    return answers, list(client.resolve_redirects(answers[0], answers[0].request)), describe_cookies(client.cookies)


def sent_again(web: Web) -> Any:
    """The same prepared request, changed in between."""
    client = requests.Session()
    first = client.get(web.base + "/echo", headers={"X-A": "1"})
    request = first.request.copy()
    request.headers["X-A"] = "2"
    request.prepare_cookies({"late": "1"})
    request.prepare_url(web.base + "/echo?again", None)
    return [first, client.send(request), client.send(first.request), copy.copy(first).content, copy.deepcopy(first.headers)]


def one_session_changed(web: Web) -> Any:
    """Settings that come and go on one session."""
    client, answers = requests.Session(), []
    for change in (lambda: client.headers.update({"X-S": "1"}), lambda: client.headers.update({"Accept": None}),
                   lambda: setattr(client, "headers", {"Only": "mine"}), lambda: setattr(client, "params", {"p": "1"}),
                   lambda: setattr(client, "headers", CaseInsensitiveDict()), lambda: setattr(client, "trust_env", False),
                   lambda: client.hooks["response"].append(lambda answer, **_: setattr(answer, "reason", "hooked")),
                   lambda: setattr(client, "auth", ("a", "b")), lambda: setattr(client, "stream", True),
                   lambda: client.proxies.update({"no_proxy": "127.0.0.1"}), lambda: setattr(client, "headers", None)):
        change()
        answers.append(client.get(web.base + "/echo"))
    return answers


def replaced(place: str, by: Any) -> Callable[[Web], Any]:
    def run(web: Web) -> Any:
        with mock.patch(place, by):
            return [requests.get(web.base + "/echo"), requests.get(web.base + "/latin1"), requests.get(web.base + "/moved")]
    return run


CUSTOMIZED: dict[str, Callable[[Web], Any]] = {
    "a session of another class": derived,
    "jars of all kinds": jars,
    "redirects step by step": step_by_step,
    "a request sent again": sent_again,
    "one session, changed": one_session_changed,
    "an adapter around the usual": around,
    "auth that changes everything": fetch("/echo", "POST", auth=Signed(), data="x"),
    "auth on the way of a redirect": fetch("/moved", auth=Signed()),
    "auth for a GET": fetch("/echo", auth=Signed()),
    "params as pairs, bytes and text": lambda web: [requests.get(web.base + "/echo", params=params) for params in (
        [("a", "1"), ("a", "2")], b"x=1", "y=2&z", {"a": None}, {}, [], "", {"é": ["1", 2, None]}, (("t", "1"),))],
    "a URL as bytes, with white space, as an object": lambda web: [requests.get(url) for url in (
        (web.base + "/echo").encode(), f"  {web.base}/echo", type("Url", (str,), {})(web.base + "/echo"))],
    "headers of all kinds": lambda web: [requests.get(web.base + "/echo", headers=headers) for headers in (
        CaseInsensitiveDict({"X-A": "1", "accept": "x"}), {"X-A": b"1", "ACCEPT": None}, {b"X-B": "1"}, {}, None)],
    "headers as pairs": fetch("/echo", headers=[("X-L", "1")]),
    "an object for cookies": fetch("/echo", cookies=[("a", "1")]),
    "user agent replaced": replaced("requests.utils.default_user_agent", lambda name="x": f"{name} of mine"),
    "encoding replaced": replaced("requests.adapters.get_encoding_from_headers", lambda headers: "utf-16"),
    "netrc replaced": replaced("requests.sessions.get_netrc_auth", lambda url: ("from", "elsewhere")),
    "content replaced": replaced("requests.models.Response.content", property(lambda self: self.raw.read())),
    "build_response replaced": replaced("requests.adapters.HTTPAdapter.build_response", HTTPAdapter.build_response),
    "redirects replaced": replaced("requests.models.REDIRECT_STATI", ()),
    "session replaced": replaced("requests.sessions.Session", type("Own", (requests.Session,), {"max_redirects": 0})),
}
