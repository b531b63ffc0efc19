"""What a server receives of every kind of body: the same as from stock, or the same refusal."""

from __future__ import annotations

import array
import collections
import ctypes
import io
import mmap
import os
import tempfile

import pytest
import requests
from scenarios import upstream

from gateway.errors import TruncatedBody
from gateway.upstream.requests.adapter import gateway_error, govern_requests

BIG = bytes(range(256)) * 1000


def opened(content: bytes, mode: str = "rb", at: int = 0, **settings):
    file = tempfile.NamedTemporaryFile(delete=False)
    with file:
        file.write(content)
    again = open(file.name, mode, **settings)
    os.unlink(file.name)
    again.seek(at)
    return again


def mapped(content: bytes):
    made = mmap.mmap(-1, len(content))
    made.write(content)
    made.seek(2)
    return made


class Sized:
    """An iterable that knows its length in bytes."""

    def __init__(self, *pieces, length=None):
        self.pieces = pieces
        self.length = sum(map(len, pieces)) if length is None else length

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(self.pieces)


class Reader:
    """A file that is no file: it gives what it has, whatever it is asked for."""

    def __init__(self, *pieces, **also):
        self.pieces = list(pieces)
        vars(self).update(also)

    def __iter__(self):
        return iter(())

    def read(self, size=-1):
        return self.pieces.pop(0) if self.pieces else b""


class Encoder(io.RawIOBase):
    """As requests-toolbelt's MultipartEncoder: a ``len`` and a ``read``."""

    def __init__(self, content):
        self.content, self.len = io.BytesIO(content), len(content)

    def read(self, size=-1):
        return self.content.read(size)


class Convertible:
    def __init__(self, data):
        self.data = data

    def __bytes__(self):
        return self.data

    def __len__(self):
        return len(self.data)


def pipe(content: bytes):
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return os.fdopen(reader, "rb")


def broken(*pieces):
    yield from pieces
    raise LookupError("no more")


# name: a function that makes the body anew for each call
TAKEN = {
    "bytes": lambda: b"PK\3\4", "empty bytes": lambda: b"", "bytes of a class": lambda: type("B", (bytes,), {})(b"abc"),
    "str": lambda: "tëxt €", "empty str": lambda: "", "str of a class": lambda: type("S", (str,), {})("é"),
    "bytearray": lambda: bytearray(b"PK\3\4"), "empty bytearray": lambda: bytearray(), "big bytearray": lambda: bytearray(BIG),
    "memoryview": lambda: memoryview(b"PK\3\4"), "memoryview, writable": lambda: memoryview(bytearray(b"PK\3\4")),
    "empty memoryview": lambda: memoryview(b""), "big memoryview": lambda: memoryview(BIG),
    "memoryview, part": lambda: memoryview(b"0123456789")[3:7], "memoryview of signed": lambda: memoryview(b"\xff\1").cast("b"),
    "memoryview of characters": lambda: memoryview(b"ab").cast("c"), "array of bytes": lambda: array.array("B", [1, 2, 255]),
    "empty array": lambda: array.array("B"), "ctypes": lambda: (ctypes.c_char * 4)(*b"abcd"),
    "mmap, the rest": lambda: mapped(b"0123456789"), "deque": lambda: collections.deque([b"a", "b", b"c"]),
    "set": lambda: {b"one"}, "frozenset of str": lambda: frozenset(["é"]), "range of nothing": lambda: range(0),
    "generator": lambda: (piece for piece in [b"one", b"", "two é", b"3" * 100_000]), "empty generator": lambda: iter([]),
    "generator of bytearrays": lambda: iter([bytearray(b"one"), bytearray(b"")]),
    "generator of memoryviews": lambda: iter([memoryview(b"one"), memoryview(b""), memoryview(b"xtwo")[1:]]),
    "generator with None and zero": lambda: iter([b"a", None, 0, False, (), b"b"]),
    "generator of what can become bytes": lambda: iter([Convertible(b"abc")]), "map": lambda: map(str.encode, "abc"),
    "chars": lambda: iter("abc€"), "sized": lambda: Sized(b"one", b"two"),
    "sized, of memoryviews": lambda: Sized(memoryview(b"one")),
    "sized, of lists": lambda: Sized([b"o", b"ne"], length=3), "sized, of files": lambda: Sized(io.BytesIO(b"one"), length=3),
    "sized, of arrays": lambda: Sized(array.array("H", [1, 2]), length=4), "sized, too short": lambda: Sized(b"one", "é", length=4),
    "sized, nothing": lambda: Sized(), "BytesIO": lambda: io.BytesIO(b"content"), "empty BytesIO": lambda: io.BytesIO(),
    "BytesIO at an offset": lambda: (file := io.BytesIO(b"0123456789"), file.seek(4))[0],
    "BytesIO at its end": lambda: (file := io.BytesIO(b"0123456789"), file.seek(10))[0],
    "StringIO": lambda: io.StringIO("text"), "empty StringIO": lambda: io.StringIO(),
    "StringIO, not ASCII": lambda: io.StringIO("é€x"),
    "file": lambda: opened(BIG), "file at an offset": lambda: opened(b"0123456789", at=4), "empty file": lambda: opened(b""),
    "text file": lambda: opened("text é".encode(), "r", encoding="utf-8"),
    "text file in latin-1": lambda: opened("abc".encode("latin-1"), "r", encoding="latin-1"),
    "unbuffered file": lambda: opened(b"abc", buffering=0), "pipe": lambda: pipe(b"through a pipe"),
    "reader": lambda: Reader(b"ab", b"c"), "reader of text": lambda: Reader("é", "b"),
    "reader, None": lambda: Reader(b"ab", None, b"c"),
    "reader with a len": lambda: Reader(b"abc", len=3), "reader of bytearrays": lambda: Reader(bytearray(b"ab"), b"c"),
    "reader of memoryviews": lambda: Reader(memoryview(b"ab")), "encoder": lambda: Encoder(BIG), "None": lambda: None,
    "dict": lambda: {"a": "1", "b": ["2", "3 4"], "ü": "€"}, "empty dict": lambda: {},
    "list of pairs": lambda: [("a", "1"), ("a", "2")],
    "tuple of pairs": lambda: (("a", 1),), "empty list": lambda: [], "dict of bytes": lambda: {b"a": b"\xff"},
    "ordered dict": lambda: collections.OrderedDict(a=None, b=0),
}
REFUSED = {
    "memoryview, every second": lambda: memoryview(b"abcdef")[::2],
    "list of bytes": lambda: [b"ab", b"c"], "list of ints": lambda: [1, 2], "an int": lambda: 5, "true": lambda: True,
    "a float": lambda: 0.5,
    "an object": lambda: object(), "generator of ints": lambda: iter([80, 75]), "generator, then an int": lambda: iter([b"abc", 7]),
    "range": lambda: range(5), "set of ints": lambda: {1, 2}, "deque of ints": lambda: collections.deque([1]),
    "generator of lists": lambda: iter([[b"a"]]), "generator of floats": lambda: iter([1.5]),
    "generator of objects": lambda: iter([object()]),
    "sized, of ints": lambda: Sized(1, 2, length=2), "sized, of lists of str": lambda: Sized(["a"], length=1),
    "sized, of objects": lambda: Sized(object(), length=3), "reader of ints": lambda: Reader(1, 2),
    "broken generator": lambda: broken(b"one"),
    "broken at once": lambda: broken(), "closed file": lambda: (file := io.BytesIO(b"x"), file.close())[0],
}


class Recorder:
    """Takes one request on each connection and answers it; ``requests`` are method, framing fields, type and body."""

    def __init__(self):
        self.requests = []

    def handle(self, sock, address):
        with sock, sock.makefile("rb") as reader:
            line = reader.readline()
            if not line:
                return
            fields = {}
            while (text := reader.readline().strip()):
                name, _, value = text.decode("latin-1").partition(":")
                fields[name.lower()] = value.strip()
            framing_fields = {name: fields.get(name) for name in ("content-length", "transfer-encoding", "content-type")}
            self.requests.append([line, framing_fields, None])         # the body did not come whole
            body = b""
            if framing_fields["transfer-encoding"]:
                while size := int(reader.readline() or b"-1", 16):
                    if size < 0:
                        return
                    body += reader.read(size)
                    assert reader.read(2) == b"\r\n"
                reader.readline()
            elif framing_fields["content-length"]:
                body = reader.read(int(framing_fields["content-length"]))
                if len(body) < int(framing_fields["content-length"]):
                    return
            self.requests[-1][2] = body
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


@pytest.fixture
def recorder(serve):
    made = Recorder()
    made.base = f"http://127.0.0.1:{serve(made.handle)}"
    return made


def sent(recorder, url: str, make, **arguments):
    """What comes of a POST, and what the server saw of it."""
    recorder.requests.clear()
    try:
        response = requests.post(url, data=make(), timeout=20, **arguments)
        return response.status_code, recorder.requests.copy()
    except requests.RequestException as error:
        return type(error)
    except Exception as error:
        return type(error), str(error) if isinstance(error, (TypeError, LookupError)) else ""


@pytest.mark.parametrize("place", ["foreign", "named"])
@pytest.mark.parametrize("kind", [*TAKEN, *REFUSED])
@pytest.mark.filterwarnings("ignore")
def test_an_upload_is_that_of_stock(kind, place, recorder, stock_calls):
    make = TAKEN.get(kind) or REFUSED[kind]
    expected = sent(recorder, recorder.base, make)
    shop = upstream("shop", recorder.base)
    govern_requests({"shop": shop})
    assert sent(recorder, "http://shop" if place == "named" else recorder.base, make) == expected
    assert (type(expected[0] if isinstance(expected, tuple) else expected) is int) == (kind in TAKEN)
    assert not stock_calls
    shop.close()


class Raw:
    """Answers when ``end`` has come, the end of a body; ``requests`` are the field that announces it, and the bytes that came."""

    def __init__(self, end: bytes) -> None:
        self.end = end
        self.requests: list[tuple[bytes, bytes]] = []

    def handle(self, sock, address):
        with sock:
            data = b""
            while not data.endswith(self.end):
                piece = sock.recv(65536)
                if not piece:
                    return
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            framing = next(line for line in head.split(b"\r\n") if line.lower().startswith((b"content-length", b"transfer-enc")))
            self.requests.append((framing, body))
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


CHUNKED = b"Transfer-Encoding: chunked"
# A body, and what stock and we send of it; None: a ConnectionError.
DIFFERENT = {
    "a generator of arrays": (lambda: iter([array.array("H", [1, 2])]),
                              (CHUNKED, b"2\r\n\1\0\2\0\r\n0\r\n\r\n"), (CHUNKED, b"4\r\n\1\0\2\0\r\n0\r\n\r\n")),
    "a generator of wide memoryviews": (lambda: iter([memoryview(b"12345678").cast("I")]),
                                        (CHUNKED, b"2\r\n12345678\r\n0\r\n\r\n"), (CHUNKED, b"8\r\n12345678\r\n0\r\n\r\n")),
    "a length too short": (lambda: Sized(b"one", length=2),
                           (b"Content-Length: 2", b"one"), (b"Content-Length: 2", b"on")),
    "a length too long": (lambda: Sized(b"one", length=10), (b"Content-Length: 10", b"one"), None),
    "a length of a big body too long": (lambda: Sized(BIG, b"one", length=len(BIG) + 10),
                                        (b"Content-Length: 256010", BIG + b"one"), None),
    "a file that shrinks": (lambda: Reader(b"one", len=10), (b"Content-Length: 10", b"one"), None),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_where_an_upload_differs_from_that_of_stock(kind, serve):
    """Stock announces items for bytes, and sends what is not of the length that it has announced."""
    make, stock, ours = DIFFERENT[kind]
    raw = Raw(stock[1])
    url = f"http://127.0.0.1:{serve(raw.handle)}/"
    assert requests.post(url, data=make(), timeout=20).content == b"ok" and raw.requests == [stock]
    raw.requests.clear()
    raw.end = ours[1] if ours else b"never"
    govern_requests()
    if ours is None:
        with pytest.raises(requests.ConnectionError) as excinfo:
            requests.post(url, data=make(), timeout=20)
        assert isinstance(gateway_error(excinfo.value), TruncatedBody) and raw.requests == []
    else:
        assert requests.post(url, data=make(), timeout=20).content == b"ok" and raw.requests == [ours]


# Stock announces the number of the items for the number of bytes. No server understands that, and it is left to stock.
@pytest.mark.parametrize("make", [
    lambda: memoryview(b"12345678").cast("I"), lambda: array.array("d", [1.0]), lambda: (ctypes.c_int * 2)(1, 2)])
def test_a_body_that_is_not_of_bytes_is_left_to_stock(make, recorder, stock_calls):
    expected = sent(recorder, recorder.base, make)
    govern_requests()
    assert sent(recorder, recorder.base, make) == expected
    assert len(stock_calls) == 1


@pytest.mark.parametrize("more", [{"data": memoryview(b"12345678").cast("I")},
                                  {"data": b"x", "headers": {"Transfer-Encoding": "gzip"}}])
def test_what_an_upstream_is_not_sent_is_said_with_its_name(more, recorder):
    shop = upstream("shop-of-no-host", recorder.base)
    govern_requests({"shop-of-no-host": shop})
    with pytest.raises(requests.ConnectionError, match=r"upstream 'shop-of-no-host' is not sent .*(memoryview|bytes)"):
        requests.post("http://shop-of-no-host/", timeout=20, **more)
    shop.close()


@pytest.mark.parametrize("files", [
    {"f": b"bytes"}, {"f": "text €"}, {"f": io.BytesIO(b"x")}, {"f": ("n.txt", b"c", "text/x", {"X-A": "1"})},
    [("f", ("a", b"1")), ("f", ("b", b"2"))], {"f": bytearray(b"x")}, {"f": None}, {"f": ("n", None)}])
def test_multipart_is_that_of_stock(files, recorder, monkeypatch):
    monkeypatch.setattr("urllib3.filepost.choose_boundary", lambda: "boundary")
    for _, file in (files.items() if isinstance(files, dict) else files):
        if hasattr(file, "seek"):
            file.seek(0)
    expected = sent(recorder, recorder.base, lambda: {"k": "v"}, files=files)
    for _, file in (files.items() if isinstance(files, dict) else files):
        if hasattr(file, "seek"):
            file.seek(0)
    govern_requests()
    assert sent(recorder, recorder.base, lambda: {"k": "v"}, files=files) == expected
    assert expected[0] == 200
