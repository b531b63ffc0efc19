"""A service for tests of HTTP clients: each path answers in its own way, byte by byte, and every request is remembered."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Answer = bytes | Iterable[bytes]


class RequestRecord(NamedTuple):
    """One request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class End(Exception):
    """Close the connection after what has been sent."""


class Reset(Exception):
    """Reset it."""


def answer(body: bytes = b"", *fields: str, status: str = "200 OK", length: bool = True, version: str = "1.1") -> bytes:
    """A response with these header lines, and Content-Length unless fields otherwise."""
    lines = [f"HTTP/{version} {status}", *fields, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*pieces: bytes, fields: tuple[str, ...] = (), end: bytes = b"0\r\n\r\n") -> bytes:
    head = answer(b"", "Transfer-Encoding: chunked", *fields, length=False)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def redirect(location: str, *fields: str, status: str = "302 Found", body: bytes = b"moved") -> bytes:
    return answer(body, f"Location: {location}", *fields, status=status)


def then_end(data: bytes) -> Iterable[bytes]:
    yield data
    raise End


def then_reset(data: bytes) -> Iterable[bytes]:
    if data:
        yield data
    raise Reset


def echo(record: RequestRecord) -> bytes:
    fields = {"method": record.method, "target": record.target, "headers": sorted(record.headers),
              "body": record.body.decode("latin-1")}
    return answer(json.dumps(fields).encode(), "Content-Type: application/json")


def digest(record: RequestRecord) -> bytes:
    if (record.header("Authorization") or "").startswith("Digest ") and 'username="ann"' in record.header("Authorization"):
        return answer(b"welcome")
    return answer(b"who?", 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth", algorithm=MD5', "Set-Cookie: asked=1",
                  status="401 Unauthorized")


def chain(record: RequestRecord) -> bytes:
    left = int(record.target.rsplit("/", 1)[1])
    if left:
        return redirect(f"/chain/{left - 1}", f"Set-Cookie: step{left}=done; Path=/")
    return answer((record.header("Cookie") or "").encode())


LINES = b"one\ntwo\r\nthree\n\nfive"
BIG = bytes(range(256)) * 12000
PACKED = gzip.compress(LINES * 50, mtime=0)
FIXED: dict[str, Answer] = {
    "/plain": answer(b"hello", "Content-Type: text/plain"),
    "/empty": answer(b""),
    "/latin1": answer("é".encode("latin-1"), "Content-Type: text/html"),
    "/utf8": answer("é€".encode(), "Content-Type: text/html; charset=utf-8"),
    "/json": answer(b'{"a": [1, 2]}', "Content-Type: application/json"),
    "/lines": answer(LINES),
    "/big": answer(BIG),
    "/big-chunked": chunked(*(BIG[at:at + 100_000] for at in range(0, len(BIG), 100_000))),
    "/gzip": answer(PACKED, "Content-Encoding: gzip"),
    "/x-gzip": answer(PACKED, "Content-Encoding: x-gzip"),
    "/lines-chunked": chunked(b"one\ntwo\nth", b"ree\n\n", b"five"),
    "/gzip-chunked": chunked(PACKED[:7], PACKED[7:20], PACKED[20:], fields=("Content-Encoding: gzip",)),
    "/deflate": answer(zlib.compress(LINES * 9), "Content-Encoding: deflate"),
    "/raw-deflate": answer(zlib.compress(LINES * 9)[2:-4], "Content-Encoding: deflate"),
    "/gzip-twice": answer(gzip.compress(PACKED, mtime=0), "Content-Encoding: gzip, gzip"),
    "/gzip-broken": answer(b"this is not packed", "Content-Encoding: gzip"),
    "/gzip-short": answer(PACKED[:-9], "Content-Encoding: gzip"),
    "/br": answer(b"opaque", "Content-Encoding: br"),
    "/unknown-coding": answer(b"opaque", "Content-Encoding: rot13"),
    "/chunked": chunked(b"one", b"two", b"3" * 700),
    "/chunked-empty": chunked(),
    "/chunk-extension": answer(b"", "Transfer-Encoding: chunked", length=False) + b"3;name=value\r\none\r\n0\r\n\r\n",
    "/trailers": chunked(b"body", end=b"0\r\nX-Checksum: 7\r\n\r\n"),
    "/chunked-upper": answer(b"", "TRANSFER-ENCODING: Chunked", length=False) + b"A\r\n0123456789\r\n0\r\n\r\n",
    "/created": answer(b"", "Location: /plain", status="201 Created"),
    "/204": answer(b"", status="204 No Content", length=False),
    "/304": answer(b"", 'ETag: "x"', "Content-Length: 5", status="304 Not Modified", length=False),
    "/404": answer(b"nothing", status="404 Not Found"),
    "/500": answer(b"broken", status="500 Internal Server Error"),
    "/299": answer(b"odd", status="299 Quite Fine: really"),
    "/no-reason": answer(b"x", status="200 "),
    "/no-reason-no-space": b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx",
    "/repeated": answer(b"x", "X-A: 1", "x-a: 2", "Via: a", "X-A: 3", "Warning: a, b", "Set-Cookie: a=1", "Set-Cookie: b=2, 3"),
    "/values": answer(b"x", "X-Latin: caf\xe9", "X-Empty:", "X-Spaces:   a  b   ", "X-Tab: a\tb", "X-Colon: a: b:c"),
    "/many-headers": answer(b"x", *(f"X-{number}: {number}" for number in range(90))),
    "/link": answer(b"x", 'Link: </next>; rel="next", </prev>; rel=prev'),
    "/cookies": answer(b"x", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2; Path=/sub; HttpOnly", "Set-Cookie: gone=; Max-Age=0",
                       "Set-Cookie: other=1; Domain=example.org", "Set-Cookie: c=\"quoted value\"; Secure"),
    "/moved": redirect("/plain", status="301 Moved Permanently"),
    "/see-other": redirect("/echo", status="303 See Other"),
    "/temporary": redirect("/echo", status="307 Temporary Redirect"),
    "/permanent": redirect("/echo", status="308 Permanent Redirect"),
    "/loop": redirect("/loop"),
    "/relative": redirect("plain?x=1#there"),
    "/odd-location": redirect("/echo/caf\xc3\xa9 %2f?q=a b"),
    "/no-location": answer(b"where?", status="302 Found"),
    "/to-mail": redirect("mailto:ann@example.org"),
    "/gzip-redirect": redirect("/plain", "Content-Encoding: gzip", body=PACKED),
    "/broken-redirect": redirect("/plain", "Content-Encoding: gzip", body=b"not packed"),
    "/hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + answer(b"final"),
    "/continue": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"final"),
}
ENDING: dict[str, bytes] = {                             # what is sent before the connection closes
    "/until-close": answer(b"all of it", length=False),
    "/http10": answer(b"old", length=False, version="1.0"),
    "/http10-length": answer(b"old", version="1.0"),
    "/says-close": answer(b"bye", "Connection: close"),
    "/says-nothing": b"",
    "/half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "/not-http": b"220 mail.example.org ESMTP\r\n\r\n",
    "/bad-status": b"HTTP/1.1 abc OK\r\n\r\n",
    "/short": answer(b"only this", "Content-Length: 50", length=False),
    "/short-big": answer(b"x" * 200_000, "Content-Length: 300000", length=False),
    "/short-chunk": answer(b"", "Transfer-Encoding: chunked", length=False) + b"5\r\nhello\r\n9\r\nwor",
    "/short-chunks": answer(b"", "Transfer-Encoding: chunked", length=False) + b"5\r\nhello\r\n",
    "/bad-chunk": answer(b"", "Transfer-Encoding: chunked", length=False) + b"5\r\nhello\r\nxyz\r\nworld\r\n0\r\n\r\n",
    "/bad-first-chunk": answer(b"", "Transfer-Encoding: chunked", length=False) + b"xyz\r\nhello\r\n0\r\n\r\n",
    "/two-lengths": answer(b"hello", "Content-Length: 7"),
}
MADE: dict[str, Callable[[RequestRecord], Answer]] = {
    "/echo": echo,
    "/digest": digest,
    "/chain": chain,
    "/reset": lambda record: then_reset(b""),
    "/reset-later": lambda record: then_reset(answer(b"some", "Content-Length: 50", length=False)),
}


class Service:
    """``handle`` is for a StreamServer. ``requests`` are those that came, ``connections`` counts, ``extra`` adds paths."""

    def __init__(self, tls: Any = None) -> None:
        self.tls = tls
        self.requests: list[RequestRecord] = []
        self.connections = 0
        self.extra: dict[str, Callable[[RequestRecord], Answer]] = {}

    def handle(self, sock: Any, address: Any) -> None:
        self.connections += 1
        try:
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            with sock.makefile("rb") as reader:
                if reader.peek(1)[:1] == b"\x16":        # a TLS handshake: say in plain text that none is spoken here
                    sock.sendall(answer(b"plain HTTP, please", status="400 Bad Request"))
                    return
                while (record := read_request(reader)) is not None:
                    self.requests.append(record)
                    self.send(sock, record)
        except Reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (End, OSError, ValueError):               # the client may go whenever it wants, and ValueError: it speaks no HTTP
            return
        finally:
            sock.close()

    def send(self, sock: Any, record: RequestRecord) -> None:
        path = record.target.partition("?")[0]
        if path in ENDING:
            sock.sendall(ENDING[path])
            raise End
        made = self.extra.get(path) or MADE.get("/" + path.lstrip("/").partition("/")[0])
        pieces = made(record) if made is not None else FIXED.get(path, answer(b"no such path", status="404 Not Found"))
        if record.method == "HEAD" and isinstance(pieces, bytes):
            pieces = pieces.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        for piece in [pieces] if isinstance(pieces, bytes) else pieces:
            sock.sendall(piece)


def read_request(reader: Any) -> RequestRecord | None:
    """The next request on a connection, None at its end."""
    line = reader.readline()
    if not line:
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers = []
    while (line := reader.readline().rstrip(b"\r\n")):
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name, value.strip()))
    record = RequestRecord(method, target, headers, b"")
    if (record.header("Transfer-Encoding") or "").lower() == "chunked":
        pieces = []
        while size := int(reader.readline(), 16):
            pieces.append(reader.read(size))
            reader.readline()
        reader.readline()
        return record._replace(body=b"".join(pieces))
    return record._replace(body=reader.read(int(record.header("Content-Length") or 0)))
