"""One request that has been read, and its answer: the application runs, and its answer is sent, refused or cut.

There are two kinds of exchange: ``LaneExchange`` of a request of the fast lane (fastlane.py), answered by the gateway without an
environ, and ``WsgiExchange`` of one that Gunicorn's parser has read, answered by whatever application there is. ``RequestHandler``
serves either in the same way.

What is refused here, before there is a request or before its answer has begun, is answered, measured and logged like everything
else when the application is the gateway's (``refuse``); any other application's clients get Gunicorn's own page.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Any

import gevent
from gunicorn import util
from gunicorn.http import errors as gunicorn_errors
from gunicorn.http import wsgi

from ..errors import (BadRequest, BodyTimeout, ExpectationFailed, GatewayError, HeadTimeout, HeadTooLarge, InternalError,
                      NotAllowedHere, TargetTooLong, TruncatedBody)
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..message import REASONS, Stream
from .client_socket import Client, ClientGone
from .fastlane import Lane, LaneConnection
from .gunicorn_request import GunicornRequest
from .reader import BodyReader, ClientConnection, PlainRequest
from .writer import ResponseWriter, closing_answer

BODY_TIMEOUT = 30.0             # seconds without a byte of a body, where no configuration says otherwise
UNREAD = 5.0                    # seconds for the rest of a body that the application did not read

REFUSALS: list[tuple[type[Exception], type[GatewayError]]] = [
    (gunicorn_errors.InvalidResponseHeader, InternalError), (gunicorn_errors.LimitRequestLine, TargetTooLong),
    (gunicorn_errors.LimitRequestHeaders, HeadTooLarge),
    (gunicorn_errors.ExpectationFailed, ExpectationFailed), (gunicorn_errors.UnsupportedTransferCoding, NotAllowedHere),
    (gunicorn_errors.ConfigurationProblem, InternalError), (gunicorn_errors.ParseException, BadRequest), (ssl.SSLError, BadRequest)]


class RequestHandler:
    """Serves the requests of ``worker``, a Gunicorn worker: its ``wsgi`` is what runs, its hooks are called. ``application`` is the
    gateway's, None for any other. While it is ``draining``, every answer says that the connection ends. ``now`` gives the time for
    Gunicorn's access log."""

    def __init__(self, worker: Any, clock: MonotonicClock = CLOCK, now: Callable[[], datetime] = datetime.now) -> None:
        self.worker = worker
        self.cfg = worker.cfg
        self.log = worker.log
        self.clock = clock
        self.now = now
        self.application: Any = None
        self.body_timeout = BODY_TIMEOUT
        self.draining = False

    def is_draining(self) -> bool:
        return self.draining

    def serve(self, exchange: LaneExchange | WsgiExchange) -> bool:
        """Answer a request; whether the connection may carry another."""
        try:
            self.worker.count_request()
            return exchange.run()
        except ClientGone as error:
            self.log.debug("The client did not take the answer: %s", error)
            return False
        except BaseException as error:                       # SystemExit and gevent.Timeout of the application among them
            self._fail(exchange, error)
            return False
        finally:
            exchange.connection.alive = False
            exchange.end()

    def deliver(self, result: Any, writer: ResponseWriter) -> None:
        """Write the answer. What the application returned is closed, whatever happens."""
        try:
            if type(result) is list:
                writer.answer(b"".join(result))
                return
            for piece in result:
                writer.write(piece)
            writer.finish()
        finally:
            if hasattr(result, "close"):
                try:
                    result.close()
                except Exception:                            # the answer is what it is; the next request is not to suffer
                    self.log.exception("Closing the answer to %s %s", writer.req.method, writer.req.uri)

    def _fail(self, exchange: LaneExchange | WsgiExchange, error: BaseException) -> None:
        """The application failed: 500 where nothing was sent yet, else the answer is cut; so is that of a killed greenlet."""
        request, connection, writer = exchange.request, exchange.connection, exchange.writer
        if isinstance(error, gevent.GreenletExit):           # graceful_timeout is over
            if writer is not None:
                writer.cut()
            return
        if writer is not None and writer.headers_sent and connection.alive:
            writer.cut()
        elif connection.alive and not connection.taken_over:
            self.refuse(exchange.client, request, error)
            return
        if isinstance(error, GatewayError):                  # it has its line in the request log
            self.log.debug("The answer to %s %s was cut: %r", request.method, request.uri, error)
        else:
            self.log.error("Error handling request %s %s", request.method, request.uri, exc_info=error)

    def refuse(self, client: Client, request: GunicornRequest | PlainRequest | None, error: BaseException) -> None:
        """Answer what cannot be served, and end the connection. ``request`` is None when it could not be read."""
        client.lingers = True
        if self.application is None:
            own = error if isinstance(error, GatewayError) else error.__cause__
            if isinstance(own, (HeadTimeout, BodyTimeout, TruncatedBody)):       # Gunicorn has no word for it
                self.log.debug("Invalid request from ip=%s: %s", client.peer, own)
                util.write_error(client.sock, own.status, REASONS[own.status], "")
                return
            self.worker.handle_error(None if isinstance(request, PlainRequest) else request, client.sock, client.addr, error)
            return
        if not isinstance(error, GatewayError):
            kind = next((kind for of, kind in REFUSALS if isinstance(error, of)), InternalError)
            if kind is InternalError:
                self.log.error("Error handling request", exc_info=error)
            cause, error = error, kind(str(error))
            error.__cause__ = cause
        try:
            client.settle()
            client.send(closing_answer(self.application.refuse(error, client.peer)))
        except OSError as failure:
            self.log.debug("The client did not take the answer: %s", failure)


class LaneExchange:
    """A request of the fast lane: the gateway answers it, mostly with one send."""

    __slots__ = ("handler", "client", "request", "lane", "connection", "writer")

    def __init__(self, handler: RequestHandler, client: Client, request: PlainRequest, lane: Lane) -> None:
        self.handler = handler
        self.client = client
        self.request = request
        self.lane = lane
        self.connection = LaneConnection(request.headers, client, lane)
        self.writer: ResponseWriter | None = None

    def run(self) -> bool:
        client, request, connection = self.client, self.request, self.connection
        response = self.handler.application.receive(request, connection, client.peer)
        body = response.body
        if connection.taken_over or not connection.alive:         # a view has used the connection itself
            if not isinstance(body, bytes):
                body.close()
            return False
        if not isinstance(body, bytes):
            return self._stream(f"{response.status} {response.reason}", response.headers, body)
        data, closing = self.lane.render(request, response, body, self.handler.draining)
        connection.started = True
        if not closing:
            client.post(data)
            return True
        client.settle()
        client.send(data)
        return False

    def _stream(self, status: str, headers: list[tuple[str, str]], body: Stream) -> bool:
        handler, client = self.handler, self.client
        client.release()
        writer = self.writer = ResponseWriter(self.request, client.sock, handler.cfg, self.connection, None, handler.is_draining)
        writer.transmit = client.send
        try:
            writer.start_response(status, headers)
        except BaseException:
            body.close()
            raise
        handler.deliver(body, writer)
        return not writer.should_close()

    def end(self) -> None:
        """The gateway has logged it: there is a lane only where Gunicorn has nothing to do after a request."""


class WsgiExchange:
    """A request that Gunicorn's parser has read. The environ is Gunicorn's, with the body, the connection and the writer of this
    worker."""

    def __init__(self, handler: RequestHandler, client: Client, request: GunicornRequest) -> None:
        self.handler = handler
        self.client = client
        self.request = request
        self.connection = ClientConnection(request.raw_headers, client.sock, client.peer or "unix", client.unreader)
        self.writer: ResponseWriter | None = None
        self.environ: dict[str, Any] = {}
        self._start = handler.now()

    def run(self) -> bool:
        handler, worker = self.handler, self.handler.worker
        handler.cfg.pre_request(worker, self.request)
        writer = self._prepare()
        try:
            result = worker.wsgi(self.environ, writer.start_response)
        except StopIteration:                                # an application that has used the socket itself
            return False
        if worker.is_already_handled(result):
            return False
        handler.deliver(result, writer)
        return not self.connection.taken_over and self._may_go_on(writer)

    def _prepare(self) -> ResponseWriter:
        handler, client, request = self.handler, self.client, self.request
        expects, request._expected_100_continue = request._expected_100_continue, False
        body = BodyReader(request, client.unreader, handler.body_timeout, handler.clock)
        writer, environ = wsgi.create(request, client.sock, client.addr, client.listener, handler.cfg,
                                      response_class=ResponseWriter, response_args=(self.connection, body, handler.is_draining))
        writer.transmit = client.send
        if expects:
            body.announce(writer.send_continue)
        environ["wsgi.input"] = body
        environ["wsgi.multithread"] = True
        environ["gateway.connection"] = self.connection
        self.writer, self.environ = writer, environ
        return writer

    def _may_go_on(self, writer: ResponseWriter) -> bool:
        """After a complete answer: is the connection fit for another request?"""
        body = writer.body
        fit = body is None or body.complete
        if body is not None and not fit and not writer.should_close():
            with gevent.Timeout(UNREAD, False):
                fit = body.discard()
        self.client.lingers = not fit
        return fit and not writer.should_close()

    def end(self) -> None:
        """Gunicorn's access log and hook."""
        log = self.handler.log
        if self.writer is not None:
            log.access(self.writer, self.request, self.environ, self.handler.now() - self._start)
        try:
            self.handler.cfg.post_request(self.handler.worker, self.request, self.environ, self.writer)
        except Exception:
            log.exception("Exception in post_request hook")
