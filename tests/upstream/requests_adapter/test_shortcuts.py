"""The shortcuts give what ``requests`` gives, are taken where that matters, and leave alone what is not as it is known."""

from __future__ import annotations

import copy
import io
import logging
import os
import string
from collections import OrderedDict
from http.cookiejar import CookieJar, DefaultCookiePolicy

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odd_service import answer
from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar, create_cookie
from requests.structures import CaseInsensitiveDict
from same import outcome

from gateway.upstream.requests import shortcuts as shortcuts
from gateway.upstream.requests.adapter import govern_requests, ungovern_requests
from gateway.upstream.requests.response import RawResponse, WholeResponse

# -- each function against its own


def prepared(prepare, *arguments):
    request = PreparedRequest()
    prepare(request, *arguments)
    return request.url if request.headers is None else list(request.headers._store.items())


PIECES = st.sampled_from(["a", "B", "1", ".", "..", "/", "//", "/.", "/..", "?", "#", "%41", "%2f", "%", "@", ":", ":80", ":080",
                          ":0", ":65535", ":65536", ":99999", "*", "[::1]", "[", "é", "℀", " ", "\n", "\\", "&", "=", "+", ";", "'",
                          '"', "~", "_", "-", "xn--", "|", "{", "$", "\0", "127.0.0.1", "1.2.3", "example.org", "a/b"])
URLS = st.builds("".join, st.tuples(st.sampled_from(["http://", "https://", "HTTP://", "http:", "ftp://", "", " http://"]),
                                    st.sampled_from(["h", "127.0.0.1", "shop.test:8080", "a..b", ".a", "A", "-", "h.", "a_b:1"]),
                                    st.lists(PIECES, max_size=8).map("".join)))


@settings(max_examples=400, deadline=None)
@given(url=URLS | st.text("htp:/.?#[]@%aA1 \n", max_size=20) | st.from_regex(shortcuts.PLAIN_URL, fullmatch=True),
       params=st.sampled_from([None, {}, OrderedDict(), "", [], (), {"a": "1"}, "x=1", b"x", {"n": None}]))
@example(url="http://h/a/..", params=None)
@example(url="http://h/a/..b/.c/...", params=None)
@example(url="http://h/a\n", params=None)
@example(url=b"http://h/", params=None)
@example(url=None, params=None)
def test_prepare_url(url, params):
    assert outcome(prepared, shortcuts.prepare_url, url, params) == outcome(prepared, shortcuts.stock_prepare_url, url, params)


@pytest.mark.parametrize("url, plain", [
    ("http://127.0.0.1:8080/json", True), ("https://shop.test/a/b.c/~d?x=1&y=/?", True), ("http://h/", True), ("http://h", False),
    ("http://h/?", False), ("http://H/", False), ("http://h:080/", False), ("http://h/a%20b", False), ("http://h/./a", False),
    ("http://h/#f", False), ("http://u@h/", False), ("http://h/é", False), ("http://h/..", False)])
def test_which_urls_are_plain(url, plain):
    assert bool(shortcuts.PLAIN_URL.fullmatch(url)) is plain


def test_a_prepared_request_of_another_class_prepares_itself():
    class Own(PreparedRequest):
        def _encode_params(self, data):
            return "always=1"

    request = Own()
    shortcuts.prepare_url(request, "http://h/a", {})
    assert request.url == "http://h/a?always=1"


NAMES = st.sampled_from(["Accept", "accept", "X-A", "", " X", "X:Y", "X\r\n", b"X-B", "User-Agent"])
VALUES = st.sampled_from(["*/*", "1", "", " x", "a\r\nb", b"bytes", b" b", 1, None, ["list"], "keep-alive"])
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from([dict, OrderedDict, CaseInsensitiveDict]), fields=FIELDS, usual=st.booleans())
def test_prepare_headers(kind, fields, usual):
    given = kind([*requests.utils.default_headers().items(), *fields] if usual else fields)
    assert outcome(prepared, shortcuts.prepare_headers, given) == outcome(prepared, shortcuts.stock_prepare_headers, given)


SETTINGS = (st.none() | st.booleans() | st.sampled_from(["text", ("a", "b"), ("k", None)])
            | st.builds(lambda kind, fields: kind(fields), st.sampled_from([dict, OrderedDict, CaseInsensitiveDict]),
                        st.lists(st.tuples(st.sampled_from(["a", "A", "b"]), st.sampled_from(["1", None, 2])), max_size=3)))


@settings(max_examples=300, deadline=None)
@given(own=SETTINGS, session=SETTINGS, kind=st.sampled_from([OrderedDict, CaseInsensitiveDict]))
@example(own={}, session=CaseInsensitiveDict({"A": "1", "b": None}), kind=CaseInsensitiveDict)
@example(own={}, session=CaseInsensitiveDict({"A": "1"}), kind=OrderedDict)
@example(own={}, session={}, kind=CaseInsensitiveDict)
def test_merge_setting(own, session, kind):
    merged = outcome(shortcuts.merge_setting, own, session, kind)
    assert merged == outcome(shortcuts.stock_merge_setting, own, session, kind)


def test_what_is_merged_is_a_copy():
    mine = requests.utils.default_headers()
    merged = shortcuts.merge_setting({}, mine, CaseInsensitiveDict)
    merged["X-A"] = "1"
    del merged["Accept"]
    assert mine == requests.utils.default_headers() and "x-a" in merged


class WithItems:
    def __init__(self, **own):
        vars(self).update(own)

    def items(self):
        return ()


READABLE = OrderedDict()
READABLE.read = lambda size=-1: b""
THINGS = [{}, {"a": 1}, OrderedDict(), READABLE, CaseInsensitiveDict(), [], (), "", b"", 1, None, io.BytesIO(), WithItems(),
          WithItems(read=1), WithItems(read=None, items=None), type("Own", (dict,), {"read": len})(),
          type("Own", (list,), {"items": None})(), iter([]), RequestsCookieJar(), dict, os.environ]


@pytest.mark.skipif(shortcuts.SupportsItems is None, reason="this version of requests has no protocols")
@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: type(thing).__name__)
def test_protocols(thing):
    for quick, stock in ((shortcuts.QuickItems, shortcuts.SupportsItems), (shortcuts.QuickRead, shortcuts.SupportsRead)):
        assert isinstance(thing, quick("Quick", (), {})) is isinstance(thing, stock)


@settings(max_examples=200, deadline=None)
@given(url=URLS | st.sampled_from([None, b"http://a:b@h/", "http://a:b%40@h/", "http://a@h/", "mailto:a@b", "//a:b@h"]))
def test_get_auth_from_url(url):
    assert outcome(shortcuts.get_auth_from_url, url) == outcome(shortcuts.stock_auth_from_url, url)


@settings(max_examples=200, deadline=None)
@given(value=st.none() | st.text(string.printable, max_size=20) | st.sampled_from([
    "text/html", "text/html; charset=utf-8", "application/json", "application/json; CHARSET='x'", "a/b;charset", "TEXT/plain", ""]))
def test_get_encoding_from_headers(value):
    headers = CaseInsensitiveDict({} if value is None else {"Content-Type": value})
    for _ in range(2):
        assert outcome(shortcuts.get_encoding_from_headers, headers) == outcome(shortcuts.stock_encoding, headers)


def jar_with(*cookies, kind=RequestsCookieJar, **given):
    jar = kind(**given)
    for cookie in cookies:
        jar.set_cookie(cookie)
    return jar


HERE, ELSEWHERE = create_cookie("a", "1", domain="h.test", path="/"), create_cookie("b", "2", domain="other.test", path="/")


@pytest.mark.parametrize("jar", [
    jar_with(), jar_with(HERE), jar_with(ELSEWHERE), jar_with(HERE, kind=CookieJar), jar_with(kind=CookieJar),
    jar_with(policy=DefaultCookiePolicy(rfc2965=True)), jar_with(HERE, policy=DefaultCookiePolicy(allowed_domains=[])),
    type("Own", (RequestsCookieJar,), {"add_cookie_header": lambda _, request: request.add_unredirected_header("Cookie", "x")})()])
@pytest.mark.parametrize("url", ["http://h.test/", "https://h.test/x", "mailto:a", "foo://[bad", "http://[", None, b"http://h/"])
def test_get_cookie_header(jar, url):
    request = PreparedRequest()
    request.url, request.headers = url, CaseInsensitiveDict()
    assert outcome(shortcuts.get_cookie_header, jar, request) == outcome(shortcuts.stock_cookie_header, jar, request)


@pytest.mark.parametrize("given", [None, {}, OrderedDict(), {"a": "1"}, [], ["a"], 5])
@pytest.mark.parametrize("jar", [None, jar_with(), jar_with(HERE), jar_with(HERE, kind=CookieJar)])
@pytest.mark.parametrize("overwrite", [True, False])
def test_cookiejar_from_dict(given, jar, overwrite):
    def make(function):
        made = function(given, copy.copy(jar), overwrite)
        return type(made), sorted((each.name, each.value, each.domain) for each in made)

    assert outcome(make, shortcuts.cookiejar_from_dict) == outcome(make, shortcuts.stock_jar_from_dict)


@pytest.mark.parametrize("jar", [jar_with(), jar_with(HERE), jar_with(kind=CookieJar), {}, None])
@pytest.mark.parametrize("more", [
    None, {}, {"a": "2"}, [], jar_with(), jar_with(ELSEWHERE), jar_with(kind=CookieJar), jar_with(ELSEWHERE, kind=CookieJar),
    type("Own", (RequestsCookieJar,), {"__iter__": lambda jar: iter([ELSEWHERE])})()])
def test_merge_cookies(jar, more):
    def merge(function):
        target = copy.copy(jar)
        merged = function(target, more)
        return merged is target, sorted((each.name, each.value, each.domain) for each in merged)

    assert outcome(merge, shortcuts.merge_cookies) == outcome(merge, shortcuts.stock_merge_cookies)


def test_a_session_keeps_its_cookies_from_call_to_call(service):
    one = service()
    one.extra["/cookie"] = lambda record: answer(b"in", "Set-Cookie: a=1; Path=/")
    govern_requests()
    with requests.Session() as session:
        session.get(one.base + "/cookie")
        found = session.get(one.base + "/plain", cookies={"b": "2"})
    assert found.request.headers["Cookie"] == "a=1; b=2"
    assert requests.get(one.base + "/plain").request.headers.get("Cookie") is None


def test_a_netrc_file_counts_as_soon_as_it_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path) + "/")
    found = []
    for change in (lambda: None, lambda: (tmp_path / "_netrc").write_text("machine h login a password b\n"),
                   lambda: (tmp_path / ".netrc").write_text("machine h login c password d\n"),
                   lambda: (tmp_path / ".netrc").unlink(), lambda: (tmp_path / "_netrc").unlink(),
                   lambda: (tmp_path / ".netrc").symlink_to(tmp_path / "later"),
                   lambda: (tmp_path / "later").write_text("machine h login e password f\n"),
                   lambda: monkeypatch.setenv("HOME", "/nowhere"), lambda: monkeypatch.setenv("NETRC", str(tmp_path / "later")),
                   lambda: monkeypatch.delenv("NETRC"), lambda: monkeypatch.delenv("HOME")):
        change()
        found.append(shortcuts.get_netrc_auth("http://h/"))
        assert found[-1] == shortcuts.stock_netrc_auth("http://h/")
    assert found[:9] == [None, ("a", "b"), ("c", "d"), ("a", "b"), None, None, ("e", "f"), None, ("e", "f")]


@pytest.mark.parametrize("environ", [
    {}, {"http_proxy": "http://p:1"}, {"HTTP_PROXY": "http://p:1"}, {"Http_Proxy": "http://p:1"}, {"http_proxy": ""},
    {"no_proxy": "h"}, {"http_proxy": "http://p:1", "no_proxy": "h"}, {"all_proxy": "socks5://p"}, {"A_PROXY_NAME": "x"},
    {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}])
@pytest.mark.parametrize("no_proxy", [None, "h", "other"])
def test_get_environ_proxies(environ, no_proxy, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert shortcuts.get_environ_proxies("http://h/", no_proxy) == shortcuts.stock_environ_proxies("http://h/", no_proxy)
    assert "no_proxy" not in os.environ or environ.get("no_proxy") == os.environ["no_proxy"]


def test_who_replaces_getproxies_is_asked(monkeypatch):
    monkeypatch.setattr(requests.utils, "getproxies", lambda: {"http": "http://mine"})
    assert shortcuts.get_environ_proxies("http://h/") == {"http": "http://mine"}


# -- taken where it matters

STOCK = ("merge_setting", "netrc_auth", "environ_proxies", "extract_cookies", "cookie_header", "jar_from_dict", "merge_cookies",
         "auth_from_url", "build_response", "prepare_url", "prepare_headers")


@pytest.fixture
def taken(monkeypatch):
    """``requests`` as it is delivered that a shortcut has called, by name."""
    called = []

    def count(name):
        stock = getattr(shortcuts, "stock_" + name)
        monkeypatch.setattr(shortcuts, "stock_" + name, lambda *given, **named: (called.append(name), stock(*given, **named))[1])

    for name in STOCK:
        count(name)
    return called


def test_a_bare_call_takes_all_of_them(service, taken, monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere")
    one = service()
    govern_requests()
    found = requests.get(one.base + "/json", timeout=20)
    found.json()
    assert taken == []
    assert type(found.raw) is WholeResponse
    found.close()
    assert type(found.raw) is WholeResponse
    assert (found.raw.tell(), type(found.raw)) == (len(found.content), RawResponse)


@pytest.mark.parametrize("call, name", [
    (lambda base: requests.get(base + "/cookies"), "extract_cookies"),
    (lambda base: requests.get(base + "/echo", cookies={"a": "1"}), "cookie_header"),
    (lambda base: requests.get(base + "/echo", cookies={"a": "1"}), "jar_from_dict"),
    (lambda base: requests.get(base + "/echo", cookies={"a": "1"}), "merge_cookies"),
    (lambda base: requests.get(base.replace("//", "//a:b@") + "/echo"), "auth_from_url"),
    (lambda base: requests.get(base + "/echo", params={"a": "1"}), "prepare_url"),
    (lambda base: requests.get(base + "/echo", headers={"X-A": "1"}), "merge_setting")])
def test_what_is_not_plain_goes_the_old_way(call, name, service, taken):
    govern_requests()
    call(service().base)
    assert name in taken


def test_a_small_answer_that_nobody_reads_leaves_nothing_behind(service, recwarn, capsys):
    one = service()
    govern_requests()
    for _ in range(3):
        requests.get(one.base + "/plain", stream=True)
    with requests.get(one.base + "/plain", stream=True) as unread:
        pass
    assert unread.raw.closed and one.connections == 1
    assert copy.copy(requests.get(one.base + "/plain")).content == b"hello"
    assert capsys.readouterr().err == ""


def test_a_hook_may_read_raw_before_requests_does(service):
    one = service()
    govern_requests()
    pieces = []
    found = requests.get(one.base + "/plain", hooks={"response": lambda response, **_: pieces.append(response.raw.read(2))})
    assert (pieces, found.content) == ([b"he"], b"llo")


# -- left alone where it is not as known

def standing() -> set[str]:
    return {shortcut.name for shortcut in shortcuts.SHORTCUTS if shortcut.stands}


def test_they_come_and_go(service):
    before = [vars(shortcut.owner)[shortcut.name] for shortcut in shortcuts.SHORTCUTS]
    assert standing() == set()
    govern_requests()
    govern_requests()
    assert standing() == {shortcut.name for shortcut in shortcuts.SHORTCUTS} and len(shortcuts.active) == len(before)
    ungovern_requests()
    assert [vars(shortcut.owner)[shortcut.name] for shortcut in shortcuts.SHORTCUTS] == before


def test_an_unknown_version_is_left_as_it_is(service, monkeypatch, caplog):
    monkeypatch.setattr(requests, "__version__", "2.99.0")
    monkeypatch.setattr(shortcuts, "past_messages", set())
    caplog.set_level(logging.INFO, "gateway")
    for _ in range(2):
        govern_requests()
        ungovern_requests()
    assert [record.message for record in caplog.records] == [
        "requests 2.99.0 is not known, and left as it is: calls take longer"]
    govern_requests()
    assert standing() == set()
    one = service()
    one.extra["/cookie"] = lambda record: answer(b"in", "Set-Cookie: a=1; Path=/")
    assert requests.get(one.base + "/plain").text == "hello"
    assert requests.get(one.base + "/cookie").cookies["a"] == "1"


def wrapped(function):
    def wrapper(*given, **named):
        wrapper.calls += 1
        return function(*given, **named)
    wrapper.calls = 0
    wrapper.__module__, wrapper.__qualname__, wrapper.__name__ = function.__module__, function.__qualname__, function.__name__
    return wrapper


@pytest.mark.parametrize("owner, name", [(requests.sessions, "merge_setting"), (PreparedRequest, "prepare_url"),
                                         (HTTPAdapter, "build_response"), (requests.sessions, "get_netrc_auth")])
def test_what_somebody_has_wrapped_stays_wrapped(owner, name, service, monkeypatch, caplog):
    monkeypatch.setattr(shortcuts, "past_messages", set())
    caplog.set_level(logging.INFO, "gateway")
    one, wrapper = service(), wrapped(vars(owner)[name])
    monkeypatch.setattr(owner, name, wrapper)
    govern_requests()
    assert requests.get(one.base + "/plain").text == "hello"
    assert wrapper.calls > 0 and name not in standing()
    assert [name in record.message for record in caplog.records] == [True]
    ungovern_requests()
    assert vars(owner)[name] is wrapper


def test_a_function_wrapped_before_we_came_is_known_by_its_globals(monkeypatch):
    """The names that ``functools.wraps`` copies say nothing."""
    foreign = wrapped(requests.sessions.merge_setting)
    monkeypatch.setattr(requests.sessions, "merge_setting", foreign)
    first = shortcuts.SHORTCUTS[0]
    assert (first.name, first.holds, first._replace(stock=foreign).holds) == ("merge_setting", False, False)


def test_who_wraps_a_shortcut_is_called_and_keeps_its_place(service, monkeypatch):
    monkeypatch.setattr(requests.sessions, "merge_setting", requests.sessions.merge_setting)         # put back in the end
    govern_requests()
    quick = requests.sessions.merge_setting
    wrapper = requests.sessions.merge_setting = wrapped(quick)
    one = service()
    assert requests.get(one.base + "/plain").text == "hello" and wrapper.calls
    ungovern_requests()
    assert requests.sessions.merge_setting is wrapper
    assert requests.get(one.base + "/plain").text == "hello"
    requests.sessions.merge_setting = quick              # as when somebody's wrapping ends later than ours
    govern_requests()
    ungovern_requests()
    assert requests.sessions.merge_setting is shortcuts.stock_merge_setting
