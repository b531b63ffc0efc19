"""What programs do with ``requests``: a table of scenarios, each run against the same real services stock and governed.

A scenario is ``(web) -> value``; ``describe`` makes of responses and errors what must not differ.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import requests
from odd_service import BIG
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth

from gateway.config import UpstreamSettings as Settings
from gateway.upstream.client import Upstream
from tests.waiting import SAFETY


class Web(NamedTuple):
    """Where the services are: ``base`` and ``other`` over HTTP, ``tls`` over HTTPS; ``refused`` is a port where nobody listens."""

    base: str
    other: str
    tls: str
    refused: str
    full: str
    ca: str
    certificate: str
    folder: Path


def upstream(name: str, *bases: str, **settings: Any) -> Upstream:
    return Upstream(name, Settings(instances=bases, **settings))


def describe(value: Any, web: Web) -> Any:
    """``value`` with responses and errors taken apart and ports made equal."""
    if isinstance(value, requests.Response):
        return describe_response(value, web)
    if isinstance(value, BaseException):
        return describe_error(value)
    if isinstance(value, (list, tuple)):
        return [describe(item, web) for item in value]
    if isinstance(value, dict):
        return {key: describe(item, web) for key, item in value.items()}
    return value


def describe_response(response: requests.Response, web: Web) -> dict[str, Any]:
    raw = response.raw
    return {
        "status": response.status_code, "reason": response.reason, "url": response.url, "ok": response.ok,
        "headers": list(response.headers.items()), "raw headers": list(raw.headers.items()), "content": response.content,
        "encoding": response.encoding, "text": response.text, "apparent": response.apparent_encoding,
        "cookies": describe_cookies(response.cookies), "links": response.links,
        "history": [(past.status_code, past.url, past.content, describe_cookies(past.cookies)) for past in response.history],
        "redirect": (response.is_redirect, response.is_permanent_redirect, response.next and response.next.url),
        "asked": (response.request.method, response.request.url, without_nonce(response.request.headers.items())),
        "elapsed": response.elapsed.total_seconds() > 0, "connection": response.connection is not None,
        "raw": (raw.status, raw.reason, raw.closed, raw.chunked or raw.tell(), raw.read(), raw.getheader("Set-Cookie"),
                raw.headers.getlist("Set-Cookie"), raw.headers.get_all("x-a"), raw.decode_content),
    }


def without_nonce(headers: Any) -> list[tuple[str, Any]]:
    """Header fields in one order, without what digest authentication makes up."""
    return sorted((name, re.sub(r'(cnonce|response)="\w+"', "", value) if isinstance(value, str) else value)
                  for name, value in headers)


def describe_cookies(jar: Any) -> list[Any]:
    return sorted((c.name, c.value, c.domain, c.path, c.secure, sorted(c._rest)) for c in jar)


def describe_error(error: BaseException) -> list[Any]:
    """Its class, and those of what requests puts inside: programs look there too."""
    inside = error.args[0] if error.args else None
    found: list[Any] = [type(error), type(inside) if isinstance(inside, BaseException) else None]
    found.append(type(getattr(inside, "reason", None)))
    if isinstance(error, requests.RequestException):
        found += [error.request is not None, error.response is not None]
    return found


def session(**settings: Any) -> requests.Session:
    made = requests.Session()
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def fetch(path: str, method: str = "GET", **arguments: Any) -> Callable[[Web], Any]:
    return lambda web: requests.request(method, web.base + path, **arguments)


def file_of(web: Web, content: bytes) -> Any:
    place = web.folder / "upload.bin"
    place.write_bytes(content)
    return place.open("rb")


def upload_file(web: Web) -> Any:
    with file_of(web, b"from a file" * 3000) as file:
        return requests.post(web.base + "/echo", data=file)


def upload_rest_of_file(web: Web) -> Any:
    with file_of(web, b"0123456789") as file:
        file.seek(4)
        return requests.put(web.base + "/echo", data=file)


def upload_file_redirected(web: Web) -> Any:
    with file_of(web, b"again" * 20_000) as file:
        return requests.post(web.base + "/temporary", data=file)


def multipart(web: Web) -> Any:
    with file_of(web, b"content") as file:
        prepared = requests.Request("POST", web.base + "/echo", files={"f": ("n.txt", file, "text/x")}, data={"k": "v"}).prepare()
    boundary = re.search(rb"[0-9a-f]{32}", prepared.body)[0]
    prepared.body = prepared.body.replace(boundary, b"b" * 32)
    prepared.headers["Content-Type"] = "multipart/form-data; boundary=" + "b" * 32
    return requests.Session().send(prepared)


def broken_generator():
    yield b"first"
    raise LookupError("no more")


def cookies_of_a_session(web: Web) -> Any:
    with requests.Session() as client:
        client.cookies.set("mine", "0")
        answers = [client.get(web.base + path) for path in ("/cookies", "/echo", "/sub", "/chain/3")]
        return answers, describe_cookies(client.cookies)


def hooks(web: Web) -> Any:
    calls = []

    def note(response, **kwargs):
        calls.append((response.status_code, sorted(kwargs), response._content_consumed))

    answer = requests.get(web.base + "/chain/2", hooks={"response": note}, stream=False)
    replaced = requests.get(web.base + "/plain", hooks={"response": lambda response, **kwargs: "other"}, stream=True)
    return answer, calls, replaced


def keeps_going_after_errors(web: Web) -> Any:
    found = []
    with requests.Session() as client:
        for path in ("/plain", "/short", "/plain", "/bad-chunk", "/plain", "/says-close", "/plain", "/not-http", "/plain",
                     "/plain", "/500", "/head", "/204", "/plain"):
            try:
                found.append(client.get(web.base + path).content)
            except requests.RequestException as error:
                found.append(type(error))
    return found


def netrc(web: Web) -> Any:
    """The file is named by the environment, which the test sets."""
    answers = [requests.get(web.base + "/echo"), session(trust_env=False).get(web.base + "/echo")]
    return answers, requests.get(web.base + "/echo", auth=("explicit", "pw"))


def prepared_by_hand(web: Web) -> Any:
    client = requests.Session()
    request = client.prepare_request(requests.Request("GET", web.base + "/echo", headers={"X-A": "1"}))
    request.url = web.base + "/echo/%2e%2E//a%20b;c?x=[1]&y=%zz#frag"
    del request.headers["User-Agent"], request.headers["Accept-Encoding"]
    request.headers["Host"] = "by.hand"
    return client.send(request), client.get_adapter(request.url).send(request, stream=True).raw.read()


def streamed(read: Callable[[requests.Response], Any], path: str = "/big-chunked", **arguments: Any) -> Callable[[Web], Any]:
    def run(web: Web) -> Any:
        with requests.get(web.base + path, stream=True, **arguments) as response:
            before = response._content_consumed, response.raw.closed
            try:
                got = read(response)
            except Exception as error:
                got = error
            return before, got, response.status_code, response._content_consumed, response.raw.closed
    return run


def joined(pieces: Any) -> Any:
    pieces = list(pieces)
    return all(pieces), type(pieces[0])().join(pieces)


def partly(response: requests.Response) -> Any:
    return [next(pieces := response.iter_content(1000)), next(pieces)]


def sizes(size: int | None) -> Callable[[requests.Response], Any]:
    return lambda response: [len(piece) for piece in response.iter_content(size)]


class Custom(HTTPAdapter):
    def send(self, request, **kwargs):
        request.headers["X-Custom"] = "yes"
        return super().send(request, **kwargs)


def mounted(adapter: Callable[[], HTTPAdapter]) -> Callable[[Web], Any]:
    def run(web: Web) -> Any:
        with requests.Session() as client:
            client.mount(web.base, adapter())
            return client.get(web.base + "/echo")
    return run


def pickled_session(web: Web) -> Any:
    client = session(headers={"X-A": "1"})
    client.cookies.set("a", "1")
    again = pickle.loads(pickle.dumps(client))
    assert type(again.get_adapter(web.base)) is HTTPAdapter, "it must open where the gateway is not installed"
    return again.get(web.base + "/echo")


def over_tls(path: str, **arguments: Any) -> Callable[[Web], Any]:
    return lambda web: requests.get(web.tls + path, **{key: value(web) if callable(value) else value
                                                       for key, value in arguments.items()})


# What our transport serves.
GOVERNED: dict[str, Callable[[Web], Any]] = {
    **{"GET " + path: fetch(path) for path in (
        "/plain", "/empty", "/latin1", "/utf8", "/json", "/lines", "/big", "/big-chunked", "/gzip", "/x-gzip", "/gzip-chunked",
        "/deflate", "/raw-deflate", "/gzip-twice", "/gzip-broken", "/gzip-short", "/br", "/unknown-coding", "/chunked",
        "/chunked-empty", "/chunk-extension", "/trailers", "/chunked-upper", "/created", "/204", "/304", "/404", "/500", "/299",
        "/no-reason", "/no-reason-no-space", "/repeated", "/many-headers", "/link", "/cookies", "/continue",
        "/until-close", "/http10", "/http10-length", "/says-close", "/says-nothing", "/not-http", "/bad-status",
        "/short", "/short-big", "/short-chunk", "/short-chunks", "/bad-chunk", "/bad-first-chunk", "/reset", "/reset-later",
        "/moved", "/see-other", "/temporary", "/permanent", "/loop", "/relative", "/odd-location", "/no-location", "/to-mail",
        "/gzip-redirect", "/broken-redirect", "/chain/3", "/chain/30", "/chain/31")},
    **{"HEAD " + path: fetch(path, "HEAD") for path in ("/plain", "/chunked", "/gzip", "/204", "/404", "/moved", "/empty")},
    **{f"stop at {path}": fetch(path, allow_redirects=False) for path in ("/chain/2", "/moved", "/relative", "/temporary")},
    **{f"POST to {path}": fetch(path, "POST", data=b"payload") for path in ("/moved", "/see-other", "/temporary", "/permanent")},
    "params": fetch("/echo?first=1", params={"a": "1 2", "b": ["x", "y"], "ü": "€", "n": None}),
    "path: unicode": fetch("/echo/ünïcode/€"),
    "path: escapes": fetch("/echo/a%2Fb%2fc%20d e"),
    "path: dots and slashes": fetch("/echo/..//a/./b//../c"),
    "path: double slash first": fetch("//echo//x"),
    "path: odd characters": fetch("/echo/[a]{b}|c^`\"<>\\?x=[1]&y={2}&z=%zz&w='\""),
    "query without path": fetch("?x=1"),
    "empty query and fragment": fetch("/echo?#fragment"),
    "fragment on a redirect": fetch("/relative#mine"),
    "credentials in the URL": lambda web: requests.get(web.base.replace("//", "//ann:p%40ss@") + "/echo"),
    "capital scheme and host": lambda web: requests.get(web.base.replace("http://", "HTTP://") + "/plain"),
    "name instead of address": lambda web: requests.get(web.base.replace("127.0.0.1", "LOCALHOST") + "/echo"),
    "redirect to another host": lambda web: requests.get(web.base + "/away", auth=("ann", "pw"), headers={"X-Mine": "1"}),
    "basic auth": fetch("/echo", auth=("ann", "pässword")),
    "digest auth": lambda web: requests.get(web.base + "/digest", auth=HTTPDigestAuth("ann", "pw")),
    "digest auth refused": lambda web: requests.get(web.base + "/digest", auth=HTTPDigestAuth("eve", "pw")),
    "digest auth with a file": lambda web: requests.post(web.base + "/digest", data=io.BytesIO(b"x" * 5000),
                                                         auth=HTTPDigestAuth("ann", "pw")),
    "netrc": netrc,
    "cookies given": fetch("/echo", cookies={"a": "1", "b": "two words"}),
    "cookies of a session": cookies_of_a_session,
    "session settings": lambda web: session(headers={"X-S": "s", "Accept": None}, params={"k": "v"}, auth=("a", "b")).get(
        web.base + "/echo", headers={"X-R": "r"}, params={"r": 1}),
    "no defaults": fetch("/echo", headers={"User-Agent": None, "Accept-Encoding": None, "Accept": None, "Connection": None}),
    "host header": fetch("/echo", headers={"Host": "shop.test:81", "X-A": "1"}),
    "header values": fetch("/echo", headers={"X-Latin": "caf\xe9", "X-Bytes": b"\xe9\xff", "X-Empty": "", "X-Inner": "a  b\tc"}),
    "header with a line end": fetch("/echo", headers={"X-A": "a\r\nX-B: b"}),
    "connection: close": fetch("/echo", headers={"Connection": "close"}),
    "range": fetch("/echo", headers={"Range": "bytes=0-1"}),
    "post nothing": fetch("/echo", "POST"),
    "post empty bytes": fetch("/echo", "POST", data=b""),
    "post form": fetch("/echo", "POST", data={"a": "1", "b": ["2", "3 4"], "ü": "€"}),
    "post text": fetch("/echo", "POST", data="tëxt €"),
    "post bytes": fetch("/echo", "POST", data=b"\x00\xff"),
    "post json": fetch("/echo", "POST", json={"a": [1, None, "€"]}),
    "post a megabyte": fetch("/echo", "POST", data=BIG[:1_000_000].replace(b"\xff", b"x")),
    "post a file": upload_file,
    "post the rest of a file": upload_rest_of_file,
    "post a file, redirected": upload_file_redirected,
    "post text file": lambda web: requests.post(web.base + "/echo", data=io.StringIO("plain text")),
    "post empty file": lambda web: requests.post(web.base + "/echo", data=io.BytesIO()),
    "post multipart": multipart,
    "post generator": lambda web: requests.post(web.base + "/echo", data=iter([b"one", b"", "two é", b"3" * 100_000])),
    "post empty generator": lambda web: requests.post(web.base + "/echo", data=iter([])),
    "post broken generator": lambda web: requests.post(web.base + "/echo", data=broken_generator()),
    "put, patch, delete, options": lambda web: [
        requests.put(web.base + "/echo", data="x"), requests.patch(web.base + "/echo", json=1),
        requests.delete(web.base + "/echo"), requests.delete(web.base + "/echo", data="body"),
        requests.options(web.base + "/echo")],
    "odd methods": lambda web: [requests.request(method, web.base + "/echo") for method in ("PROPFIND", "purge", "M-SEARCH", "x!")],
    "get with a body": fetch("/echo", data=b"body"),
    "hooks": hooks,
    "keeps going after errors": keeps_going_after_errors,
    "prepared by hand": prepared_by_hand,
    "pickled session": pickled_session,
    "pickled response": lambda web: [pickle.loads(pickle.dumps(requests.get(web.base + "/gzip"))).content],
    "stream: unread": streamed(lambda response: None),
    "stream: content": streamed(lambda response: response.content),
    "stream: text": streamed(lambda response: response.text, "/utf8"),
    "stream: iter_content sizes": streamed(sizes(7000), "/big"),
    "stream: iter_content sizes, exact": streamed(sizes(512 * 6000), "/big"),
    "stream: iter_content sizes, chunked": streamed(lambda response: max(sizes(7000)(response)), "/big-chunked"),
    "stream: iter_content, chunked": streamed(lambda response: joined(response.iter_content(7000))),
    "stream: iter_content(None)": streamed(lambda response: joined(response.iter_content(None)), "/lines"),
    "stream: iter_content(None), chunked": streamed(lambda response: joined(response.iter_content(None))),
    "stream: iter_content(1)": streamed(lambda response: joined(response.iter_content()), "/lines"),
    "stream: iter_content gzip": streamed(lambda response: joined(response.iter_content(10)), "/gzip"),
    "stream: iter_content gzip chunked": streamed(lambda response: joined(response.iter_content(10)), "/gzip-chunked"),
    "stream: iter_content unicode": streamed(lambda response: joined(response.iter_content(1, decode_unicode=True)), "/utf8"),
    "stream: iter_lines": streamed(lambda response: list(response.iter_lines()), "/lines"),
    "stream: iter_lines chunked": streamed(lambda response: list(response.iter_lines(7)), "/lines-chunked"),
    "stream: iter_lines delimiter": streamed(lambda response: list(response.iter_lines(3, delimiter=b"e")), "/lines"),
    "stream: partly": streamed(partly),
    "stream: iterated twice": streamed(lambda response: [joined(response.iter_content(9)), response.content], "/lines"),
    "stream: content then iterated": streamed(lambda response: [response.content, joined(response.iter_content(9))], "/lines"),
    "stream: empty": streamed(lambda response: list(response.iter_content(9)), "/empty"),
    "stream: 204": streamed(lambda response: list(response.iter_content(9)), "/204"),
    "stream: until close": streamed(lambda response: joined(response.iter_content(4)), "/until-close"),
    "stream: short, big": streamed(lambda response: response.content, "/short-big"),
    "stream: short chunk": streamed(lambda response: list(response.iter_content(4)), "/short-chunk"),
    "stream: broken gzip": streamed(lambda response: response.content, "/gzip-broken"),
    "raw: read": streamed(lambda response: [response.raw.read(7), response.raw.tell(), response.raw.read(), response.raw.read()],
                          "/lines"),
    **{f"raw: read all of {path}": streamed(lambda response: response.raw.read(), path)
       for path in ("/short-chunk", "/short-chunks", "/short-big")},
    "raw: read chunked": streamed(lambda response: [response.raw.read(7), response.raw.read(), response.raw.read(5)], "/chunked"),
    "raw: read everything": streamed(lambda response: response.raw.read()),
    "raw: packed": streamed(lambda response: response.raw.read(), "/gzip"),
    "raw: unpacked": streamed(lambda response: response.raw.read(decode_content=True), "/gzip"),
    "raw: unpacked in pieces": streamed(lambda response: [response.raw.read(30, decode_content=True), response.raw.read(
        decode_content=True)], "/gzip-chunked"),
    "raw: read1": streamed(lambda response: [response.raw.read1(3), response.raw.read1(0)], "/lines"),
    "raw: readinto": streamed(lambda response: (response.raw.readinto(buffer := bytearray(6)), bytes(buffer)), "/lines"),
    "raw: lines": streamed(lambda response: [response.raw.readline(), list(response.raw)], "/lines"),
    "raw: stream": streamed(lambda response: joined(response.raw.stream(11)), "/lines"),
    "raw: stream chunked": streamed(lambda response: joined(response.raw.stream(11)), "/chunked"),
    "raw: stream unpacked": streamed(lambda response: joined(response.raw.stream(11, decode_content=True)), "/gzip-chunked"),
    "raw: read_chunked": streamed(lambda response: joined(response.raw.read_chunked()), "/chunked"),
    "raw: read_chunked of a plain one": streamed(lambda response: list(response.raw.read_chunked()), "/lines"),
    "raw: data": streamed(lambda response: response.raw.data, "/lines"),
    "raw: drained": streamed(lambda response: [response.raw.drain_conn(), response.raw.read()], "/lines"),
    "raw: as a text file": streamed(lambda response: io.TextIOWrapper(response.raw).read(), "/lines"),
    "raw: headers": streamed(lambda response: [response.raw.getheaders().getlist("x-a"), response.raw.info().get_all("Set-Cookie"),
                                               response.raw.headers["X-A"], dict(response.raw.headers)], "/repeated"),
    "raw: cookies": streamed(lambda response: response.raw._original_response.msg.get_all("Set-Cookie"), "/repeated"),
    "raw: closed": streamed(lambda response: [response.close(), response.raw.closed, response.raw.read()], "/lines"),
    "raw: released": streamed(lambda response: [response.raw.read(), response.raw.release_conn(), response.raw.isclosed()],
                              "/lines"),
    "closed session": lambda web: (client := requests.Session(), client.close(), client.get(web.base + "/plain"))[2],
    "refused": lambda web: requests.get(web.refused),
    "unknown name": lambda web: requests.get("http://name.invalid/", timeout=SAFETY),
    "read timeout": fetch("/stall", timeout=0.3),
    "read timeout of a pair": fetch("/stall", timeout=(SAFETY, 0.05)),
    "read timeout in the body": fetch("/stall-in-body", timeout=0.4),
    "connect timeout": lambda web: requests.get(web.full, timeout=0.05),
    "connect timeout of a pair": lambda web: requests.get(web.full, timeout=(0.05, SAFETY)),
    "timeout not reached": fetch("/plain", timeout=(SAFETY, None)),
    "tls: trusted": over_tls("/plain", verify=lambda web: web.ca),
    "tls: unknown issuer": over_tls("/plain"),
    "tls: unverified": over_tls("/echo", verify=False),
    "tls: wrong name": lambda web: requests.get(web.tls.replace("localhost", "127.0.0.1"), verify=web.ca),
    "tls: not spoken": lambda web: requests.get(web.base.replace("http:", "https:")),
    "tls: expected by the server": lambda web: requests.get(web.tls.replace("https:", "http:"), verify=False),
    "tls: session": lambda web: session(verify=web.ca).get(web.tls + "/chain/2"),
    "tls: client certificate": over_tls("/plain", verify=lambda web: web.ca, cert=lambda web: web.certificate),
    "tls: big": over_tls("/big", verify=lambda web: web.ca),
    "tls: redirect from http": lambda web: session(verify=web.ca).get(web.base + "/to-tls", auth=("a", "b")),
}

# What goes to the stock adapter, for which the outcome must not differ either.
STOCK: dict[str, Callable[[Web], Any]] = {
    "bad URL": lambda web: requests.get("http://"),
    "bad port": lambda web: requests.get("http://127.0.0.1:99999/"),
    "no scheme": lambda web: requests.get("127.0.0.1/x"),
    "odd scheme": lambda web: requests.get("ftp://127.0.0.1/x"),
    "bad label": lambda web: requests.get("http://*.example.org/"),
    "IDNA name": lambda web: requests.get("http://bücher.invalid/", timeout=SAFETY),
    "header name": fetch("/echo", headers={"X A": "1"}),
    "header beyond latin-1": fetch("/echo", headers={"X-A": "€"}),
    "bad method": fetch("/echo", "GE T"),
    "bad timeout": fetch("/echo", timeout=(1, 2, 3)),
    "negative timeout": fetch("/echo", timeout=-1),
    "timeout is text": fetch("/echo", timeout="soon"),
    "not a header value": fetch("/echo", headers={"X-A": 1}),
    "missing CA file": over_tls("/plain", verify="/no/such/file"),
    "missing client certificate": over_tls("/plain", verify=lambda web: web.ca, cert="/no/such/file"),
    "proxy": lambda web: requests.get("http://shop.test/echo", proxies={"http": web.base}),
    "proxy refused": lambda web: requests.get("http://shop.test/echo", proxies={"http": web.refused}),
    "own adapter": mounted(Custom),
    "retries": mounted(lambda: HTTPAdapter(max_retries=2)),
    "pool settings": mounted(lambda: HTTPAdapter(pool_maxsize=3)),
    "length that is not true": fetch("/echo", headers={"Content-Length": "0", "Transfer-Encoding": "identity"}),
}
