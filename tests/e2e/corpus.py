"""Requests, valid and malformed, for whoever has to read them alike. ``REQUESTS`` maps a name to the bytes of one request."""

from __future__ import annotations

REQUESTS: dict[str, bytes] = {}


def add(group: str, items: list[bytes]) -> None:
    for number, data in enumerate(items):
        REQUESTS[f"{group}-{number}"] = data


def line(text: bytes) -> bytes:
    """A request with this request line."""
    return text + b"\r\nHost: shop.test\r\n\r\n"


def fields(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    """A request with these header lines after Host."""
    return b"\r\n".join([start, b"Host: shop.test", *lines, b"", b""])


def body(content: bytes, *lines: bytes, method: bytes = b"POST") -> bytes:
    return fields(*lines, start=method + b" /b HTTP/1.1") + content


def chunked(content: bytes, *lines: bytes) -> bytes:
    return body(content, b"Transfer-Encoding: chunked", *lines)


add("method", [line(method + b" / HTTP/1.1") for method in (
    b"GET", b"HEAD", b"DELETE", b"POST", b"PUT", b"PATCH", b"OPTIONS", b"PURGE", b"PROPFIND", b"M-SEARCH", b"CONNECT", b"TRACE",
    b"get", b"Get", b"G", b"GE", b"GET!", b"G#T", b"G@T", b"G\xc9T", b"", b"\x00GET", b"GET\x00", b"X" * 20, b"X" * 21, b"X" * 30,
    b"(GET)", b"GET:", b"\"GET\"", b"G_T", b"1234")])
add("target", [line(b"GET " + target + b" HTTP/1.1") for target in (
    b"/", b"/a", b"/a?b", b"/a?", b"/?", b"/a%20b", b"/%2F", b"/%2f/..", b"//", b"//a//b", b"/a/../b", b"/./", b"/a;b=c", b"/a#b",
    b"/#", b"/a?b#c", b"*", b"a", b"", b"?", b"#", b"http://shop.test/", b"HTTP://shop.test/a?b", b"http://other.test/",
    b"https://a", b"http://a?b", b"http://a:/", b"http://a:80//b", b"http://u@a/", b"http://a b/", b"http:///a", b"http:/a",
    b"http:a",
    b"http://[::1]/", b"http://[::1/", b"http://a/#b", b"http://a\\b/", b"http://a/caf\xc3\xa9", b"wss://a/", b"http://", b"https:",
    b"ftp://a/", b"://a", b"shop.test:80", b"/caf\xc3\xa9", b"/\xff", b"/\x7f", b"/\x01", b"/\x00", b"/a\tb", b"/a\rb",
    b"/'\"<>\\^`{|}",
    b"/" + b"a" * 4000, b"/" + b"a" * 8172, b"/" + b"a" * 8173, b"/" + b"a" * 8180, b"/" + b"a" * 9000, b"/?" + b"b" * 8100, b"/%",
    b"/%zz", b"/[::1]", b"//[", b"//shop.test/a", b"/http://a/")])
add("version", [line(b"GET / " + version) for version in (
    b"HTTP/1.0", b"HTTP/1.1", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1", b"HTTP/1.", b"HTTP/11", b"HTTP/1.10",
    b"HTTP/01.1", b"http/1.1", b"HTTP/1.1 ", b" HTTP/1.1", b"HTTP /1.1", b"HTTPS/1.1", b"", b"HTTP/1.1\t", b"HTTP/1.1x",
    b"HTTP/+1.1",
    b"HTTP/1,1", b"X")])
add("start", [
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    b"GET / HTTP/1.1\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / a HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: a\r\n\r\n"])
add("host", [b"GET / HTTP/1.1\r\n" + host + b"\r\n\r\n" for host in (
    b"Host: a", b"host: a", b"HOST: a", b"Host:a", b"Host:\ta\t", b"Host:  a  ", b"Host: a:", b"Host: :", b"Host: [::1]:",
    b"Host: a:80:", b"Host:", b"Host: ", b"Host: a\r\nHost: a",
    b"Host: a\r\nhost: b", b"Host: a, b", b"Host: a b", b"Host: a/b", b"Host: u@a", b"Host: a:80", b"Host: a:", b"Host: a:x",
    b"Host: a:99999", b"Host: [::1]", b"Host: [::1]:80", b"Host: [::1", b"Host: 127.0.0.1", b"Host: a_b", b"Host: %41", b"Host: a%",
    b"Host: \xc3\xa9", b"Host: a\x00b", b"Host : a", b" Host: a", b"Host: a.", b"X: y\r\nHost: a", b"H\xf6st: a")])
add("field", [fields(field) for field in (
    b"X: y", b"X:y", b"X:  y  ", b"X:\ty", b"X:", b"X: ", b"x: 1\r\nX: 2", b"X: 1\r\nX: 2\r\nX: 3", b"X_Y: 1", b"X-Y: 1\r\nX_Y: 2",
    b"X : y", b": y", b"X", b"X y", b"X\x00: y", b"X: y\x00", b"X: \x01", b"X: \x7f", b"X: a\tb", b"X: a\x0bb", b"X: caf\xc3\xa9",
    b"X: \xff\xfe", b"X\xe9: y", b"X: a\r\n b", b"X: a\r\n\tb", b"X: a\r\n : b", b" X: y", b"X: a\rb", b"X: a\nb",
    b"X: a\r\r\n", b"(X): y",
    b"X/Y: z", b"X@: z", b"X\": z", b"!#$%&'*+-.^`|~0: token", b"X: " + b"y" * 7000, b"X: " + b"y" * 8180, b"X: " + b"y" * 8185,
    b"X: " + b"y" * 8186, b"X: " + b"y" * 8187, b"X: " + b"y" * 8188, b"X: " + b"y" * 8189, b"X: " + b"y" * 8200,
    b"X: " + b"y" * 9000,
    b"Y" * 8180 + b": y", b"Y" * 9000 + b": y",
    b"\r\n".join([b"X%d: y" % n for n in range(98)]), b"\r\n".join([b"X%d: y" % n for n in range(99)]),
    b"\r\n".join([b"X%d: y" % n for n in range(100)]), b"\r\n".join([b"X%d: %b" % (n, b"y" * 500) for n in range(30)]),
    b"Content-Type: a\r\nContent-Type: b", b"Content-Type: text/plain", b"Cookie: a=1; b=2", b"Cookie: a=1\r\nCookie: b=2",
    b"Authorization: Basic YQ==", b"Authorization: Basic YQ==\r\nAuthorization: Basic Yg==",
    b"Authorization: Digest a=\"b\", c=\"d\"",
    b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http",
    b"X-Forwarded-SSL: on", b"X-Forwarded-Protocol: ssl", b"SCRIPT_NAME: /a", b"PATH_INFO: /a", b"Proxy: http://a",
    b"Forwarded: for=1.2.3.4",
    b"X-Request-Id: aaaaaaaa-bbbb", b"Accept: a, b", b"accept: a", b"Range: bytes=0-1", b"If-None-Match: \"a\"", b"Via: 1.1 a",
    b"Content-Encoding: gzip", b"Early-Data: 1")])
add("connection", [fields(field) for field in (
    b"Connection: close", b"Connection: keep-alive", b"connection: Close", b"Connection: KEEP-ALIVE", b"Connection: ",
    b"Connection: x",
    b"Connection: close, x", b"Connection: keep-alive, close", b"Connection: close\r\nConnection: keep-alive",
    b"Connection: x\r\nX: y",
    b"Connection: upgrade\r\nUpgrade: websocket", b"Upgrade: h2c\r\nHTTP2-Settings: AAA", b"Upgrade: x", b"Keep-Alive: 1",
    b"TE: trailers",
    b"Trailer: X", b"Proxy-Connection: close", b"Connection: close,", b"Connection:\tclose", b"Connection: \"close\"")])
add("ten", [b"GET / HTTP/1.0\r\n" + rest for rest in (
    b"\r\n", b"Host: a\r\n\r\n", b"Host: a\r\nConnection: keep-alive\r\n\r\n", b"Host: a\r\nConnection: close\r\n\r\n",
    b"Host: a\r\nExpect: 100-continue\r\n\r\n", b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")])
add("expect", [
    body(b"abc", b"Content-Length: 3", b"Expect: 100-continue"), body(b"abc", b"Content-Length: 3", b"expect: 100-Continue"),
    body(b"abc", b"Content-Length: 3", b"Expect: x"), fields(b"Expect: 100-continue"), fields(b"Expect:")])
add("length", [
    body(b"abc", b"Content-Length: 3"), body(b"", b"Content-Length: 0"), body(b"", b"content-length: 0"), body(b""),
    body(b"abc", b"Content-Length: 3", method=b"PUT"), body(b"abc", b"Content-Length: 3", method=b"PATCH"),
    body(b"abc", b"Content-Length: 3", method=b"GET"), body(b"abc", b"Content-Length: 3", method=b"DELETE"),
    body(b"abc", b"Content-Length: 3", method=b"PURGE"), body(b"", b"Content-Length: 0", method=b"GET"),
    body(b"abc", b"Content-Length: 3", b"Content-Length: 3"), body(b"abc", b"Content-Length: 3", b"Content-Length: 4"),
    body(b"abc", b"Content-Length: 3, 3"), body(b"abc", b"Content-Length: +3"), body(b"abc", b"Content-Length: -3"),
    body(b"abc", b"Content-Length: 03"), body(b"abc", b"Content-Length: 0x3"), body(b"abc", b"Content-Length: 3 "),
    body(b"abc", b"Content-Length:"), body(b"abc", b"Content-Length: x"), body(b"abc", b"Content-Length: 3.0"),
    body(b"abc", b"Content-Length: \xb2"), body(b"abc", b"Content-Length: 3", b"Content-Type: text/plain"),
    body(b'{"a":1}', b"Content-Length: 7", b"Content-Type: application/json"), body(b"x" * 70000, b"Content-Length: 70000"),
    body(b"\r\n\r\n", b"Content-Length: 4"), body(b"GET / HTTP/1.1\r\n\r\n", b"Content-Length: 18")])
add("chunked", [
    chunked(b"0\r\n\r\n"), chunked(b"3\r\nabc\r\n0\r\n\r\n"), chunked(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
    chunked(b"3;a=b\r\nabc\r\n0\r\n\r\n"),
    chunked(b"3\r\nabc\r\n0\r\nX: y\r\n\r\n"), chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), chunked(b"a\r\n0123456789\r\n0\r\n\r\n"),
    chunked(b"003\r\nabc\r\n0\r\n\r\n"), chunked(b"3\r\nabc\r\n000\r\n\r\n"),
    body(b"0\r\n\r\n", b"Transfer-Encoding: Chunked"), body(b"0\r\n\r\n", b"transfer-encoding: chunked", method=b"GET"),
    body(b"0\r\n\r\n", b"Transfer-Encoding: gzip, chunked"), body(b"0\r\n\r\n", b"Transfer-Encoding: chunked, chunked"),
    body(b"0\r\n\r\n", b"Transfer-Encoding: chunked, identity"), body(b"0\r\n\r\n", b"Transfer-Encoding: x"),
    body(b"0\r\n\r\n", b"Transfer-Encoding: "), body(b"0\r\n\r\n", b"Transfer-Encoding: identity"),
    body(b"0\r\n\r\n", b"Transfer-Encoding: xchunked"), body(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    body(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"), body(b"0\r\n\r\n", b"Transfer-Encoding:\tchunked"),
    body(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    body(b"0\r\n\r\n", b"Transfer_Encoding: chunked"),
    body(b"0\r\n\r\n", b"Transfer-Encoding : chunked"), body(b"0\r\n\r\n", b"Transfer-Encoding: \x0bchunked")])

# Bodies that are broken: the gateway's worker answers 400 where Gunicorn's gives the application a short read or fails with 500.
BROKEN: dict[str, bytes] = {f"broken-{number}": data for number, data in enumerate([
    chunked(b"zz\r\nabc\r\n0\r\n\r\n"), chunked(b"3\r\nabcX\r\n0\r\n\r\n"), chunked(b"-3\r\nabc\r\n0\r\n\r\n"),
    chunked(b"3\nabc\r\n0\r\n\r\n"),
    chunked(b"3 \r\nabc\r\n0\r\n\r\n"), chunked(b"\r\n\r\n"), chunked(b"3\r\nab"), chunked(b"3\r\nabc\r\n0\r\n"),
    body(b"ab", b"Content-Length: 3"), body(b"", b"Content-Length: 3"), body(b"ab", b"Content-Length: 999999999"),
    chunked(b"\nabc\r\n0\r\n\r\n"), chunked(b"\n"), chunked(b"3\r\nabc\n\r\n"), chunked(b"3\r\nabc\r\n\n\r\n"),
    chunked(b"ffffffffffffffff\r\nabc"), chunked(b"4000000000000000\r\nabc"), chunked(b"10000000000000000\r\nabc"),
    body(b"ab", b"Content-Length: 4611686018427387904"), body(b"ab", b"Content-Length: 18446744073709551616")])}
