"""Target: the files of a folder, each with an address that changes with its content.

==========================  =====================================================================================
address                     answer
==========================  =====================================================================================
``app.<hash>.css``          the file, for a year and immutable (RFC 8246): another content has another address
the same, an older hash     302 to the address of today
``app.css``                 the file, to be validated each time by its ETag
anything else               404: no file, a folder, a name that begins with a dot, a way out of the folder
==========================  =====================================================================================

Parts are sent by Range (http/range_header.py). A file beside it with ``.br``, ``.zst`` or ``.gz`` behind its name, and not older,
is sent in its place to whoever takes that coding (http/codings.py); the address keeps the hash of the file itself.

``url("app.css")`` gives the first of these. The hash is of the bytes themselves, taken once for each state of a file. A file is
opened step by step below the folder, following no link on the way: links are resolved before, and must stay inside.

The disk may block: everything is done in native threads, and waited for until the deadline of the request. The hash of a file is
taken once, however many ask for it, and of few files at a time. What is there and cannot be opened for want of descriptors is 503.
"""

from __future__ import annotations

import errno
import hashlib
import mimetypes
import os
import re
import stat
from collections.abc import Callable, Iterator
from email.utils import formatdate
from time import time
from urllib.parse import quote, unquote_to_bytes

from .deadline import Deadline
from .errors import NO_ROOM, MethodNotAllowed, NoRoute, OutOfFiles
from .http.codings import SUFFIXES, preferred_coding
from .http.range_header import Bounds, byte_ranges
from .loop.native_threads import native_thread, run_in_thread
from .loop.time_limit import TimeLimit
from .message import Headers, Request, Response
from .tasks import Event, Semaphore, current_request, spawn_apart

IMMUTABLE = "public, max-age=31536000, immutable"
HASHED_NAME = re.compile(r"(.+)\.([0-9a-f]{16})(\.[^./]+)?", re.DOTALL)
PIECE = 65536
IN_MEMORY = 1024 ** 2           # bytes
DIGESTS = 2                     # files hashed at a time: large ones leave threads for the others
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENXIO})
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
Stamp = tuple[int, ...]


class File:
    """An open file: its descriptor and hash. Reading it whole may take until ``deadline``, each piece of a stream as long as that.
    ``variants`` are the same file in other codings, by their names."""

    def __init__(self, descriptor: int, status: os.stat_result, deadline: Deadline | None = None) -> None:
        self.descriptor = descriptor
        self.status = status
        self.deadline = deadline
        self.digest = ""
        self.variants: dict[str, File] = {}

    def __iter__(self) -> Iterator[bytes]:
        return self.part(0, self.status.st_size - 1)

    def part(self, first: int, last: int) -> Iterator[bytes]:
        """The bytes from ``first`` to ``last``, both included."""
        seconds = None if self.deadline is None else self.deadline.seconds
        while first <= last:
            piece = run_in_thread(self._piece, first, last, deadline=None if seconds is None else Deadline(seconds))
            first += len(piece)
            yield piece

    def read(self, first: int, last: int) -> Iterator[bytes]:
        """The same in a native thread, where nothing has to be handed over."""
        while first <= last:
            piece = self._piece(first, last)
            first += len(piece)
            yield piece

    def hash(self) -> str:
        """The hash of the content. Runs in a native thread."""
        digest, at = hashlib.sha256(), 0
        while piece := os.pread(self.descriptor, IN_MEMORY, at):
            digest.update(piece)
            at += len(piece)
        return digest.hexdigest()[:16]

    def _piece(self, first: int, last: int) -> bytes:
        """Runs in a native thread."""
        piece = os.pread(self.descriptor, min(PIECE, last - first + 1), first)
        if not piece or first + len(piece) > last and stamp(os.fstat(self.descriptor)) != stamp(self.status):
            raise OSError("a file was changed while it was sent")    # its beginning may be of another content than its hash
        return piece

    def __del__(self) -> None:
        self.close()                                         # nobody waited for it any more

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        for file in self.variants.values():
            file.close()

    def __repr__(self) -> str:
        return f"File({self.digest}, {self.status.st_size} bytes)"


class HashJob:
    """The hash of a file, while it is computed."""

    def __init__(self) -> None:
        self.end = Event()
        self.digest = ""
        self.problem: OSError | None = None


class Parts:
    """Ranges of a file as a body: bytes as they are, and (first, last) of those that are read."""

    def __init__(self, file: File, pieces: list[bytes | Bounds]) -> None:
        self._file = file
        self._pieces = pieces
        self.length = sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] + 1 for piece in pieces)

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from self._file.part(*piece)

    def read(self) -> bytes:
        """All of it at once."""
        file = self._file
        return run_in_thread(lambda: b"".join(each for piece in self._pieces
                                              for each in ([piece] if isinstance(piece, bytes) else file.read(*piece))),
                             deadline=file.deadline)

    def close(self) -> None:
        self._file.close()

    def __repr__(self) -> str:
        return f"Parts({self._file!r}, {self.length} bytes)"


class Files:
    """The files of ``folder`` below the route's ``path``, which ends with ``/*``. Those above ``in_memory`` bytes are streamed."""

    sees_cookies = False

    def __init__(self, path: str, folder: str, in_memory: int = IN_MEMORY, now: Callable[[], float] = time) -> None:
        self.prefix = path[:-1]
        self.folder = folder
        self.in_memory = in_memory
        self.now = now
        self._segments = self.prefix.count("/")
        self._digests: dict[Stamp, str] = {}
        self._hash_jobs: dict[tuple[int, Stamp], HashJob] = {}
        self._turns = Semaphore(DIGESTS)

    def __call__(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        name = safe_name(request.path.split("/")[self._segments:])
        file, digest = self._open(name, request.deadline) if name else None, ""
        if file is None and name and (match := HASHED_NAME.fullmatch(name)):
            name, digest = match[1] + (match[3] or ""), match[2]
            file = self._open(name, request.deadline)
        if file is None:
            raise NoRoute("no such file")
        if digest and digest != file.digest:
            file.close()
            location = ("Location", self.prefix + quote(with_digest(name, file.digest)))
            return Response(302, [location, ("Cache-Control", "no-cache"), ("Content-Length", "0")])
        coding = preferred_coding(", ".join(request.header_list("Accept-Encoding")), file.variants) if file.variants else ""
        return file_response(request, file, name, IMMUTABLE if digest else "no-cache", coding, self.in_memory, self.now)

    def url(self, name: str) -> str | None:
        """The address of a file with its hash; None when there is no such file."""
        safe = safe_name(quote(name).split("/"))
        request = current_request.get()
        file = self._open(safe, None if request is None else request.deadline) if safe else None
        if file is None:
            return None
        file.close()
        return self.prefix + quote(with_digest(name, file.digest))

    def _open(self, name: str, deadline: Deadline | None) -> File | None:
        try:
            file: File | None = run_in_thread(self._open_all, name, deadline, deadline=deadline)
            if file is not None:
                file.digest = self._digest(file, deadline)
                for variant in file.variants.values():
                    variant.digest = self._digest(variant, deadline)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise OutOfFiles(str(error)) from error
            raise
        return file

    def _open_all(self, name: str, deadline: Deadline | None) -> File | None:
        """The file and its variants in other codings. Runs in a native thread."""
        file = self._open_one(name, deadline)
        if file is not None and mimetypes.guess_type(name)[1] is None:
            for coding, suffix in SUFFIXES.items():
                variant = self._open_one(name + suffix, deadline)
                if variant is not None and variant.status.st_mtime >= file.status.st_mtime:
                    file.variants[coding] = variant
        return file

    def _open_one(self, name: str, deadline: Deadline | None) -> File | None:
        try:
            descriptor = open_inside(self.folder, name)
        except ValueError:                                   # outside
            return None
        except OSError as error:
            if error.errno in ABSENT:                        # not there, or not to be read: all the same to a client
                return None
            raise
        file = File(descriptor, os.fstat(descriptor), deadline)
        return file if stat.S_ISREG(file.status.st_mode) else None

    def _digest(self, file: File, deadline: Deadline | None) -> str:
        """The hash, computed once for all that wait; a waiter that goes away does not stop it."""
        state = stamp(file.status)
        if (digest := self._digests.get(state)) is not None:
            return digest
        key = native_thread(), state
        job = self._hash_jobs.get(key)
        if job is None:
            job = self._hash_jobs[key] = HashJob()
            spawn_apart(self._hash, key, File(os.dup(file.descriptor), file.status), job)
        if deadline is None:
            job.end.wait()
        else:
            with TimeLimit(deadline.left(), deadline.over()):
                job.end.wait()
        if job.problem is not None:
            raise job.problem
        return job.digest

    def _hash(self, key: tuple[int, Stamp], file: File, job: HashJob) -> None:
        try:
            with self._turns:
                job.digest = run_in_thread(file.hash)
            if len(self._digests) >= 10_000:
                self._digests.clear()
            self._digests[key[1]] = job.digest
        except OSError as error:
            job.problem = error
        finally:
            file.close()
            del self._hash_jobs[key]
            job.end.set()

    def __repr__(self) -> str:
        return f"files of {self.folder}"


def file_response(request: Request, whole: File, name: str, caching: str, coding: str, in_memory: int,
                  now: Callable[[], float]) -> Response:
    """The response: the file or its variant in ``coding``, the ranges requested, 304 or 416. It owns the file from here on."""
    file = whole.variants.pop(coding) if coding else whole
    varying: Headers = [("Vary", "Accept-Encoding")] if coding or whole.variants else []
    if coding:
        whole.close()
    kind, encoding = mimetypes.guess_type(name)
    if encoding and name.lower().endswith(".svgz"):
        coding = "gzip"
    elif encoding:
        kind = None
    kind = kind or "application/octet-stream"
    tag = f'"{file.digest}"'
    about: Headers = [("Cache-Control", caching), ("ETag", tag), ("X-Content-Type-Options", "nosniff"),
                      ("Last-Modified", formatdate(file.status.st_mtime, usegmt=True)), *varying]
    if is_unchanged(request, about):
        file.close()
        return Response(304, about)
    kind = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
    about += [("Accept-Ranges", "bytes")] + ([("Content-Encoding", coding)] if coding else [])
    size = file.status.st_size
    current = request.method == "GET" and same_version(request, about, file.status.st_mtime, now)
    ranges = byte_ranges(request.header("Range"), size) if current else None
    if ranges is None:
        status, body = 200, Parts(file, [(0, size - 1)])
    elif not ranges:
        file.close()
        return Response(416, [*about, ("Content-Range", f"bytes */{size}"), ("Content-Length", "0")])
    elif len(ranges) == 1:
        status, body = 206, Parts(file, [ranges[0]])
        about.append(("Content-Range", content_range(ranges[0], size)))
    else:
        boundary = f"{file.digest}{os.urandom(8).hex()}"
        status, body = 206, Parts(file, multipart(ranges, size, kind, boundary))
        kind = f"multipart/byteranges; boundary={boundary}"
    about += [("Content-Type", kind), ("Content-Length", str(body.length))]
    if request.method == "GET" and body.length > in_memory:
        return Response(status, about, body)
    try:
        return Response(status, about, body.read() if request.method == "GET" else b"")
    finally:
        file.close()


def multipart(ranges: list[Bounds], size: int, kind: str, boundary: str) -> list[bytes | Bounds]:
    """The pieces of a multipart/byteranges body (RFC 9110 section 14.6)."""
    pieces: list[bytes | Bounds] = []
    for one in ranges:
        head = f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {content_range(one, size)}\r\n\r\n"
        pieces += [head.encode("latin-1"), one]
    return [*pieces, f"\r\n--{boundary}--\r\n".encode()]


def content_range(one: Bounds, size: int) -> str:
    return f"bytes {one[0]}-{one[1]}/{size}"


def same_version(request: Request, about: Headers, last_modified: float, now: Callable[[], float]) -> bool:
    """Does a range request want a part of this content (If-Range, RFC 9110 section 13.1.5)? A date is strong once its second is
    over (section 8.8.2.2). Several Range lines count as none."""
    fields = dict(about)
    condition = request.header("If-Range", fields["ETag"])
    strong = condition == fields["ETag"] or condition == fields["Last-Modified"] and int(last_modified) < int(now())
    return strong and len(request.header_list("Range")) == 1


def is_unchanged(request: Request, about: Headers) -> bool:
    """RFC 9110 section 13.2.2; a date matches only when it equals Last-Modified (section 13.1.3 leaves that open)."""
    fields = dict(about)
    if lines := request.header_list("If-None-Match"):
        tags = [tag.strip().removeprefix("W/") for line in lines for tag in line.split(",")]
        return "*" in tags or fields["ETag"] in tags
    return request.header("If-Modified-Since") == fields["Last-Modified"]


def open_inside(folder: str, name: str) -> int:
    """A descriptor of ``name`` inside ``folder``. Raises OSError when there is no such file, ValueError when a link leads
    outside."""
    base = os.path.realpath(folder)
    real = os.path.relpath(os.path.realpath(os.path.join(base, name)), base).split(os.sep)
    if real[0] in (os.pardir, os.curdir):
        raise ValueError("outside")
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for step in real:
        above = descriptor
        try:
            descriptor = os.open(step, OPEN, dir_fd=above)
        finally:
            os.close(above)
    return descriptor


def safe_name(segments: list[str]) -> str:
    """The decoded name below the folder; empty for an invalid or a hidden one."""
    names = [unquote_to_bytes(segment.encode("latin-1", "replace")) for segment in segments]
    if any(not name or name[:1] == b"." or b"/" in name or b"\\" in name or b"\0" in name for name in names):
        return ""
    try:
        return b"/".join(names).decode()
    except UnicodeDecodeError:
        return ""


def with_digest(name: str, digest: str) -> str:
    """``css/app.css`` as ``css/app.<hash>.css``."""
    stem, suffix = os.path.splitext(name)
    return f"{stem}.{digest}{suffix}"


def stamp(status: os.stat_result) -> Stamp:
    """Numbers that differ when a file's content has changed."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
