"""Step, the outermost: every request gets an id, is measured and logged once, and every error becomes an answer here.

A request is over when its answer is complete: at once for a small body in memory, else when all of it was sent, or when
the connection is given back for an upgrade. The line and the numbers are written then, and never twice.

=====================================  ===========================  ======================================================
what happens                           the client gets              status, flag
=====================================  ===========================  ======================================================
an answer                              it                           its own, ``-``
GatewayError                           a problem document           the error's
any other Exception                    a problem document           500 ``IE``, and the traceback in the error log
the greenlet is killed                 nothing, the kill goes on    0 ``KL``
the stream raises a GatewayError       a cut answer                 as sent, the error's flag
the stream raises another Exception    a cut answer                 as sent, ``IE``, and the traceback
the stream is closed before its end    whatever arrived             as sent, ``DC``; ``ST`` when it took nothing for too long
the head cannot be sent                500                          500 ``IE``
=====================================  ===========================  ======================================================
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from time import perf_counter, time
from typing import Any, Protocol

from ..errors import ClientDisconnected, GatewayError, InternalError
from ..http.fields import Kinds
from ..http.problem import render_error
from ..message import Attempt, Handler, Headers, Request, Response, RouteEntry, Stream
from .log import log_line
from .metrics import Counter, Histogram, Registry

FINE = "-"
KILLED = "KL"
OTHER = "OTHER"
LARGE = 65536                                    # bytes: a body that is longer is over when it was sent
COUNTED_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
OWN = Kinds({"x-request-id": 1})
SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")
MOST_INSTANCES = 2000

log = logging.getLogger("gateway")


class Lines(Protocol):
    """Where the lines of requests go: a RequestLog."""

    enabled: bool
    destination: str

    def write(self, line: bytes) -> None: ...


class Observe:
    """``problems`` makes the answer of an error; ``log`` and ``registry`` take what is measured. ``edit_of(request)`` is what the
    rules of a request's route make of an error's fields, for a request that was refused before its route was looked for."""

    def __init__(self, next: Handler, log: Lines, registry: Registry,
                 problems: Callable[[GatewayError, Request], Response] = render_error,
                 edit_of: Callable[[Request], Callable[[Headers], Headers] | None] = lambda request: None,
                 most_instances: int = MOST_INSTANCES, clock: Callable[[], float] = perf_counter,
                 wall_clock: Callable[[], float] = time) -> None:
        self.next = next
        self.edit_of = edit_of
        self.log = log
        self.registry = registry
        self.problems = problems
        self.in_flight = registry.gauge("gateway_requests_in_flight", "Requests that are being answered.")
        self.clock = clock
        self.wall_clock = wall_clock
        self.upstreams = UpstreamNumbers(registry, most_instances)
        self._none: RouteNumbers | None = None               # of what no route takes

    def __call__(self, request: Request) -> Response:
        start = self.clock()
        request.id = client_id(request) if request.trusted else new_id()
        in_flight = self.in_flight
        in_flight.values[in_flight.index] += 1.0             # what inc() does; here and below without the calls
        error: GatewayError | None = None
        try:
            response = self.next(request)
        except GatewayError as exception:
            error = exception
            response = self.problem(exception, request)
        except Exception as exception:
            error = defect(exception, request)
            response = self.problem(error, request)
        except BaseException:                    # a greenlet being killed, the process ending: not ours to stop
            self.finish(request, start, 0, 0, KILLED)
            raise
        set_id(response, request.id)
        body = response.body
        if response.takeover is not None:
            response.takeover = ObservedUpgrade(self, request, start, response.takeover)
        elif isinstance(body, bytes):
            size = 0 if request.method == "HEAD" else len(body)
            if size > LARGE:
                if not response.header("Content-Length"):
                    response.headers.append(("Content-Length", str(size)))
                response.body = ObservedStream(self, request, start, response.status, InMemory(body), error)
                return response
            self.finish(request, start, response.status, size, error.flag if error else FINE, error)
        else:
            response.body = ObservedStream(self, request, start, response.status, body)
        return response

    def refuse(self, request: Request, error: GatewayError) -> Response:
        """The answer to a request that could not be read: measured and logged like any other."""
        start = self.clock()
        request.id = new_id()
        self.in_flight.inc()
        response = self.problem(error, request)
        set_id(response, request.id)
        self.finish(request, start, response.status, len(response.read(65536)), error.flag, error)
        return response

    def problem(self, error: GatewayError, request: Request) -> Response:
        """The answer of an error, with the fields that its route adds to all; a bare one when even that fails."""
        try:
            response = self.problems(error, request)
        except Exception:
            log.exception("no problem document for %r", error)
            response = Response(error.status, [("Content-Type", "text/plain"), ("Cache-Control", "no-store")], error.title.encode())
        edit = request.entry.edit if request.entry is not None else self.edit_of(request)
        if edit is not None:
            response.headers = edit(response.headers)
        return response

    def finish(self, request: Request, start: float, status: int, size: int, flag: str,
               error: GatewayError | None = None) -> None:
        """Count and log a request that is over."""
        seconds = self.clock() - start
        entry = request.entry
        numbers = self._none if entry is None else entry.numbers
        if numbers is None:
            numbers = self._numbers(entry)
        in_flight = self.in_flight
        in_flight.values[in_flight.index] -= 1.0
        numbers.count(request.method, status, size, seconds, flag)
        for attempt in request.attempts:
            self.upstreams.count(attempt)
        if self.log.enabled:
            self.log.write(log_line(request, now=self.wall_clock(), route=numbers.name, target=numbers.target, status=status,
                                    size=size, seconds=seconds, flag=flag, error=error))

    def _numbers(self, entry: RouteEntry | None) -> RouteNumbers:
        if entry is None:
            self._none = RouteNumbers(self.registry, None)
            return self._none
        entry.numbers = RouteNumbers(self.registry, entry.route)
        return entry.numbers

    def __repr__(self) -> str:
        return f"observe: id, metrics, log to {self.log.destination}, errors become answers"


class InMemory:
    """A large body in memory as a stream, since it takes its time to send."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        view = memoryview(self._body)
        return (bytes(view[start:start + LARGE]) for start in range(0, len(view), LARGE))

    def close(self) -> None:
        """Nothing is held."""

    def __repr__(self) -> str:
        return f"InMemory({len(self._body)} bytes)"


class ObservedStream:
    """The body of an answer while it is sent. A piece counts when the server asks for the next one; of the last piece the bytes
    count that the connection says have left. ``error`` is what it is the answer to, if any."""

    __slots__ = ("observe", "request", "start", "status", "stream", "error", "size", "in_transit", "is_finished")

    def __init__(self, observe: Observe, request: Request, start: float, status: int, stream: Stream,
                 error: GatewayError | None = None) -> None:
        self.observe = observe
        self.request = request
        self.start = start
        self.status = status
        self.stream = stream
        self.error = error
        self.size = 0
        self.in_transit = 0                           # bytes of the piece that is being sent
        self.is_finished = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            if not getattr(self.stream, "ready", True):
                yield b""                        # the head goes out now: the first piece may be long in coming
            for piece in self.stream:
                self.in_transit = len(piece)
                yield piece
                self.size += self.in_transit
        except GatewayError as error:
            self.end(error.flag, error)
            raise
        except Exception as exception:
            self.end(InternalError.flag, defect(exception, self.request))
            raise
        except GeneratorExit:                    # the server stopped asking; close() follows and says so
            raise
        except BaseException:
            self.end(KILLED)
            raise
        self.end(self.error.flag if self.error else FINE, self.error)

    def close(self) -> None:
        try:
            self.stream.close()
        finally:
            if self.request.method == "HEAD" or self.status in (204, 304):
                self.end(FINE)                   # nobody reads the body of these
            elif not self.is_finished:
                self.break_off(self.request.connection)

    def break_off(self, connection: Any) -> None:
        """The server stopped before the end of the body; its connection may know why."""
        error = getattr(connection, "failure", None) or ClientDisconnected("the answer was not taken to its end")
        self.size += max(0, self.in_transit - getattr(connection, "unsent", self.in_transit))
        if isinstance(error, InternalError):
            self.status = error.status           # its head could not be sent
        self.end(error.flag, error)

    def end(self, flag: str, error: GatewayError | None = None) -> None:
        if not self.is_finished:
            self.is_finished = True
            size = 0 if self.request.method == "HEAD" else self.size
            self.observe.finish(self.request, self.start, self.status, size, flag, error)

    def __repr__(self) -> str:
        return f"ObservedStream({self.stream!r}, {self.size} bytes sent)"


class ObservedUpgrade:
    """The takeover of a connection: the request is over when the connection is."""

    __slots__ = ("observe", "request", "start", "takeover")

    def __init__(self, observe: Observe, request: Request, start: float, takeover: Callable[[], None]) -> None:
        self.observe = observe
        self.request = request
        self.start = start
        self.takeover = takeover

    def __call__(self) -> None:
        flag, error = KILLED, None
        try:
            self.takeover()
            flag = FINE
        except GatewayError as exception:
            flag, error = exception.flag, exception
            raise
        except Exception as exception:
            error = defect(exception, self.request)
            flag = error.flag
            raise
        finally:
            self.observe.finish(self.request, self.start, 101, 0, flag, error)


class RouteNumbers:
    """The numbers of one route. Labels whose value a client chooses, the method and the status, take few values."""

    __slots__ = ("registry", "name", "target", "seconds", "bytes_sent", "_requests", "_method", "_status", "_last")

    def __init__(self, registry: Registry, route: Any) -> None:
        self.registry = registry
        self.name = route.name if route is not None else "none"
        self.target = route.kind if route is not None else "none"
        self.seconds: Histogram = registry.histogram(
            "gateway_request_seconds", "Seconds from the head of a request to the end of its answer.", {"route": self.name})
        self.bytes_sent = registry.counter("gateway_response_bytes_total", "Bytes of response bodies.", {"route": self.name})
        self._requests: dict[tuple[str, int], Counter] = {}
        self._method, self._status = "", -1                  # what was counted last, most likely the next again, and its counter
        self._last: Any = None

    def count(self, method: str, status: int, size: int, seconds: float, flag: str) -> None:
        if method == self._method and status == self._status:
            counter = self._last
        else:
            counter = self._last = self._requests.get((method, status)) or self._counter(method, status)
            self._method, self._status = method, status
        counter.values[counter.index] += 1.0
        counter = self.bytes_sent
        counter.values[counter.index] += size
        if status != 101:                        # the length of a conversation says nothing about speed
            self.seconds.observe(seconds)
        if flag != FINE:
            self.registry.counter("gateway_request_flags_total", "Requests that were not fine, by the flag in the log.",
                                  {"route": self.name, "flag": flag}).inc()

    def _counter(self, method: str, status: int) -> Counter:
        is_known = method in COUNTED_METHODS
        counter = self.registry.counter("gateway_requests_total", "Requests answered.", {
            "route": self.name, "method": method if is_known else OTHER, "status": str(status) if 0 <= status < 600 else OTHER})
        if is_known:
            self._requests[method, status] = counter
        return counter


class UpstreamNumbers:
    """The numbers of attempts. Calls of views may go anywhere: after ``most`` instances the rest are counted together."""

    def __init__(self, registry: Registry, most: int) -> None:
        self.registry = registry
        self.most = most
        self._instances: set[tuple[str, str]] = set()
        self._attempts: dict[tuple[str, str, Any], tuple[Counter, Histogram]] = {}

    def count(self, attempt: Attempt) -> None:
        key = attempt.upstream, attempt.instance, attempt.flag or attempt.status // 100
        counter, seconds = self._attempts.get(key) or self._children(*key)
        counter.values[counter.index] += 1.0
        seconds.observe(attempt.seconds)

    def _children(self, upstream: str, instance: str, outcome: Any) -> tuple[Counter, Histogram]:
        key = upstream, instance, outcome
        is_known = (upstream, instance) in self._instances
        if not is_known and len(self._instances) < self.most:
            self._instances.add((upstream, instance))
            is_known = True
        if not is_known:
            upstream = instance = OTHER
        if isinstance(outcome, int):
            outcome = f"{outcome}xx" if 1 <= outcome <= 5 else "none" if outcome == 0 else OTHER
        children = (
            self.registry.counter("gateway_upstream_attempts_total", "Attempts on instances of upstreams, by status or flag.",
                                  {"upstream": upstream, "instance": instance, "outcome": outcome}),
            self.registry.histogram("gateway_upstream_seconds", "Seconds until the head of an answer, or the failure.",
                                    {"upstream": upstream}))
        if is_known:
            self._attempts[key] = children
        return children


def defect(exception: Exception, request: Request) -> InternalError:
    """The error that a client gets for an unexpected exception, whose traceback goes to the error log."""
    log.error("request %s: %s %r failed", request.id, request.method, request.path, exc_info=exception)
    error = InternalError()
    error.__cause__ = exception
    return error


def set_id(response: Response, id: str) -> None:
    """Replace any X-Request-Id by ours."""
    if response.head_lines is not None:
        response.append(b"X-Request-Id: %b\r\n" % id.encode())
        return
    headers = response.fields
    if [1 for name, _ in headers if OWN[name]]:
        headers = response.fields = [field for field in headers if not OWN[field[0]]]
    headers.append(("X-Request-Id", id))


def client_id(request: Request) -> str:
    """The id that a trusted client has sent, if it is sane, else a new one."""
    for name, value in request.headers:
        if OWN[name]:
            return value if SANE_ID.fullmatch(value) else new_id()
    return new_id()


_ids: list[str] = []
os.register_at_fork(after_in_child=_ids.clear)


def new_id() -> str:
    """128 random bits in hex, which is also a W3C trace-id. The system is asked once for 256 of them."""
    if not _ids:
        bits = os.urandom(4096).hex()
        _ids.extend(bits[start:start + 32] for start in range(0, len(bits), 32))
    return _ids.pop()
