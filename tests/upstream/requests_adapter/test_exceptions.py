"""Whatever goes wrong, the exception is that of stock: of the same class, with the same inside."""

from __future__ import annotations

import pytest
import requests
from odd_service import End, answer, chunked, redirect
from scenarios import describe_error, upstream

from gateway.upstream.requests.adapter import govern_requests

URLS = [
    "http://:1", "http://:1/", "http://", "http:///", "http:///path", "http://?x", "http://#f", "http:", "http:x", "http:/x",
    "https://:1",
    "https://", "http://@", "http://a@", "http://a:b@/", "http://a@:1/", "http://:0/", "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:-1/", "http://127.0.0.1:x/", "http://127.0.0.1:1:2/", "http://127.0.0.1: 1/", "http://[::1/", "http://[/",
    "http://]/",
    "http://[]/", "http://[x]/", "http://[::1%25lo]:1/", "http://[::1]x/", "http://[1.2.3.4]/", "http://::1/", "http://*/",
    "http://*.test/",
    "http://.test/", "http://a..test/", "http://.", "http://..", "http://a b/", "http://a%20b/", "http://a%00b/", "http://a\tb/",
    "http://%/", "http://%zz/", "http://-x.test/", "http://x_y.test/", "http://xn--/", "http://xn--a.test/",
    "http://" + "a" * 64 + ".test/",
    "http://" + "a." * 130 + "test/", "http://\xe9.test/", "http://\u2603.test/", "http://a,b/", "http://a;b/", "http://a|b/",
    "http://a'b/",
    'http://a"b/', "http://<a>/", "http://{a}/", "http://a\\b/", "http://\\", "http://256.256.256.256/", "http://1/",
    "http://0x7f.1:1/",
    "http://127.1:1/", "http://2130706433:1/", "http://a^b/", "http://a`b/", "http://$/", "http://!/", "http://~/", "http://(a)/",
    "ftp://127.0.0.1/", "gopher://x/", "file:///etc/passwd", "mailto:a@b.test", "about:blank", "javascript:alert(1)", "data:,x",
    "x", "",
    "://x", "//", "///", "////x", "//:1/", "//[/", "http+unix://x/", "HTTP://:1/", "http://127.0.0.1:1", "https://127.0.0.1:1",
    "http://nowhere.invalid/", "https://nowhere.invalid/", "http://127.0.0.1:1/\r\nX: y",
]


def outcome(function, *arguments, **named):
    try:
        result = function(*arguments, **named)
        return result.status_code, result.content
    except Exception as error:
        return describe_error(error)


@pytest.mark.parametrize("status", ["301 Moved Permanently", "307 Temporary Redirect"])
def test_a_redirect_to_what_is_no_url(status, service):
    one = service()
    for number, url in enumerate(URLS):
        location = url.encode().decode("latin-1").replace("\r\n", "%0d%0a")
        one.extra[f"/{number}"] = lambda record, location=location: redirect(location, status=status)
    expected = [outcome(requests.get, f"{one.base}/{number}", timeout=20) for number in range(len(URLS))]
    shop = upstream("shop", one.base)
    govern_requests({"shop": shop})
    for number, url in enumerate(URLS):
        assert outcome(requests.get, f"{one.base}/{number}", timeout=20) == expected[number], url
        if ":" in url:                                   # what is relative to a name has another outcome than to an address
            assert outcome(requests.get, f"http://shop/{number}", timeout=20) == expected[number], url
    shop.close()


def test_a_call_of_what_is_no_url():
    def by_hand(url):
        prepared = requests.Request("GET", "http://127.0.0.1:1/").prepare()
        prepared.url = url
        return requests.Session().send(prepared, timeout=20)

    expected = [(outcome(requests.get, url, timeout=20), outcome(by_hand, url)) for url in URLS]
    govern_requests()
    for url, (called, sent) in zip(URLS, expected):
        assert outcome(requests.get, url, timeout=20) == called, url
        assert outcome(by_hand, url) == sent, url


LENGTHS = [("5", "7"), ("5, 7",), ("5,5", "7"), ("5", "5"), ("5, 5",), ("7", "5", "5"), ("0", "5"),
           ("5", "05"), ("05, 5",), ("05",), ("5", "05", "6")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_conflicting_lengths(lengths, method, stream, service):
    one = service()
    one.extra["/x"] = lambda record: end_after(answer(
        b"hello" if method != "HEAD" else b"", *(f"Content-Length: {length}" for length in lengths), length=False))
    expected = outcome(requests.request, method, one.base + "/x", stream=stream, timeout=20)
    shop = upstream("shop", one.base)
    govern_requests({"shop": shop})
    for base in (one.base, "http://shop"):
        assert outcome(requests.request, method, base + "/x", stream=stream, timeout=20) == expected
    shop.close()


def end_after(*pieces):
    yield from pieces
    raise End


FAULTS = {
    "closed": lambda: end_after(), "a line of noise": lambda: end_after(b"\x00\xff\r\n\r\n"),
    "no status": lambda: end_after(b"HTTP/1.1\r\n\r\n"),
    "HTTP/3": lambda: end_after(b"HTTP/3 200 OK\r\n\r\n"), "a mail server": lambda: end_after(b"220 mail.test\r\n\r\n"),
    "status 99": lambda: end_after(b"HTTP/1.1 99 Low\r\n\r\n"), "status 1000": lambda: end_after(b"HTTP/1.1 1000 High\r\n\r\n"),
    "cut by length": lambda: end_after(answer(b"abc", "Content-Length: 9", length=False)),
    "cut in a chunk": lambda: end_after(chunked(b"abc")[:-9]), "cut between chunks": lambda: end_after(chunked(b"abc")[:-5]),
    "no last chunk": lambda: end_after(chunked(b"a" * 70_000)[:-5]),
    "bad chunk": lambda: end_after(chunked()[:-5] + b"zz\r\nabc\r\n0\r\n\r\n"),
    "negative chunk": lambda: end_after(chunked()[:-5] + b"-1\r\nabc\r\n0\r\n\r\n"),
    "bad gzip": lambda: end_after(answer(b"no gzip", "Content-Encoding: gzip")),
    "bad deflate": lambda: end_after(answer(b"no deflate", "Content-Encoding: deflate")),
    "bad gzip in chunks": lambda: end_after(chunked(b"no gzip", fields=("Content-Encoding: gzip",))),
    "cut gzip": lambda: end_after(answer(b"\x1f\x8b\x08\x00", "Content-Encoding: gzip", "Content-Length: 9", length=False)),
    "endless redirects": lambda: end_after(redirect("/x")),
    "a redirect without gzip": lambda: end_after(redirect("/none", "Content-Encoding: gzip", body=b"no gzip")),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_answer(fault, stream, service):
    one = service()
    one.extra["/x"] = lambda record: FAULTS[fault]()
    expected = outcome(requests.get, one.base + "/x", stream=stream, timeout=20)
    shop = upstream("shop", one.base)
    govern_requests({"shop": shop})
    for base in (one.base, "http://shop"):
        assert outcome(requests.get, base + "/x", stream=stream, timeout=20) == expected
    shop.close()


def streamed(url):
    """What the call gives or raises, then what reading the body does."""
    try:
        response = requests.get(url, stream=True, timeout=20)
    except Exception as error:
        return "call", describe_error(error)
    try:
        return response.status_code, b"".join(response.iter_content(2))
    except Exception as error:
        return response.status_code, describe_error(error)
    finally:
        response.close()


EARLY = {"bad chunk", "negative chunk"}                   # here with the head, and seen with it


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - EARLY))
def test_a_streamed_answer_fails_where_that_of_stock_does(fault, service):
    """What is wrong with a head fails the call, what is wrong with a body its reading, however small that is."""
    one = service()
    one.extra["/x"] = lambda record: FAULTS[fault]()
    expected = streamed(one.base + "/x")
    shop = upstream("shop", one.base)
    govern_requests({"shop": shop})
    for base in (one.base, "http://shop"):
        assert streamed(base + "/x") == expected
    shop.close()


ARGUMENTS = {
    "a header value of an object": {"headers": {"X-A": object()}}, "a header value of an int": {"headers": {"X-A": 1}},
    "a header value beyond latin-1": {"headers": {"X-A": "\u20ac"}}, "a header name beyond latin-1": {
        "headers": {"X-\u20ac": "1"}},
    "a header name with a space": {"headers": {"X A": "1"}}, "a header name with a colon": {"headers": {"X:A": "1"}},
    "an empty header name": {"headers": {"": "1"}}, "a header with a line end": {"headers": {"X-A": "1\nX-B: 2"}},
    "a header with a NUL": {"headers": {"X-A": "\0"}}, "a host beyond latin-1": {"headers": {"Host": "\u20ac"}},
    "a host with a space": {"headers": {"Host": "a b"}}, "an empty host": {"headers": {"Host": ""}},
    "a method with a space": {"method": "G T"}, "an empty method": {"method": ""}, "a method beyond ASCII": {"method": "GÉT"},
    "a method with a line end": {"method": "GET / HTTP/1.1\r\n"}, "CONNECT": {"method": "CONNECT"},
    "a timeout of 0": {"timeout": 0}, "a negative timeout": {"timeout": -1}, "a timeout of a str": {"timeout": "x"},
    "a timeout of True": {"timeout": True}, "a timeout of three": {"timeout": (1, 2, 3)}, "a timeout of NaN": {
        "timeout": float("nan")},
    "a CA that is not there": {"verify": "/none/ca.pem"}, "a verify that is an object": {"verify": object()},
    "a certificate that is not there": {"cert": "/none/cert.pem"}, "a certificate of three": {"cert": ("a", "b", "c")},
    "a proxy without a host": {"proxies": {"http": "http://:1"}}, "a proxy that is off": {
        "proxies": {"http": "http://127.0.0.1:1"}},
    "a length that is none": {"headers": {"Content-Length": "x"}, "data": b"x"},
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("what", ARGUMENTS)
@pytest.mark.filterwarnings("ignore")
def test_a_faulty_argument(what, scheme, web, service):
    arguments = {"method": "GET", "timeout": 5, "url": web.base + "/plain" if scheme == "http" else web.tls + "/plain",
                 "verify": True if scheme == "http" else web.ca, **ARGUMENTS[what]}
    expected = outcome(requests.request, **arguments)
    govern_requests()
    assert outcome(requests.request, **arguments) == expected
