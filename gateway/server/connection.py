"""The connections of a worker: from accept to close, one greenlet each, one request after the other.

::

    handle: [TLS] -> wait -+-> fast lane ----------------------------------> answer -+-> close
                     ^     +-> read head -> environ -> application -> answer ------- +
                     +----------------------- keep-alive ----------------------------+

A plainly simple request takes the fast lane (fastlane.py); everything else is read by Gunicorn's parser. Reading and writing are in
reader.py and writer.py, who waits and who is dismissed in keepalive.py.

What is refused here, before there is a request, is answered, measured and logged like everything else when the application is the
gateway's (``refuse``); any other application's clients get Gunicorn's own page.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Any

import gevent
from gunicorn import util
from gunicorn.http import errors as gunicorn_errors
from gunicorn.http import wsgi
from gunicorn.workers.ggevent import GeventWorker

from ..errors import (BadRequest, BodyTimeout, ExpectationFailed, GatewayError, HeadTimeout, HeadTooLarge, InternalError,
                      NotAllowedHere, TargetTooLong, TruncatedBody)
from ..message import REASONS
from .fastlane import Lane, LaneConnection
from .keepalive import Client, ClientGone, Dismissed, Waiting
from .reader import BodyReader, ClientConnection, GunicornRequest, PlainRequest
from .writer import ResponseWriter, closing_answer

IO_TIMEOUT = 60.0               # seconds without progress where no other limit holds
HEAD_TIMEOUT = 10.0             # seconds for a head, from its first byte on, where no configuration says otherwise
BODY_TIMEOUT = 30.0             # seconds without a byte of a body, likewise
UNREAD = 5.0                    # seconds for the rest of a body that the application did not read

REFUSALS: list[tuple[type[Exception], type[GatewayError]]] = [
    (gunicorn_errors.InvalidResponseHeader, InternalError), (gunicorn_errors.LimitRequestLine, TargetTooLong),
    (gunicorn_errors.LimitRequestHeaders, HeadTooLarge),
    (gunicorn_errors.ExpectationFailed, ExpectationFailed), (gunicorn_errors.UnsupportedTransferCoding, NotAllowedHere),
    (gunicorn_errors.ConfigurationProblem, InternalError), (gunicorn_errors.ParseException, BadRequest), (ssl.SSLError, BadRequest)]


class ConnectionHandler(GeventWorker):
    """The half of the worker that serves connections; worker.py is the other."""

    draining: bool
    parting: bool
    _waiting: Waiting
    _heads: Waiting
    _lane: Lane | None
    _tls: ssl.SSLContext | None
    _crowded: bool                                           # all connections are taken, and all were busy
    _pool: Any
    application: Any
    head_timeout = HEAD_TIMEOUT
    body_timeout = BODY_TIMEOUT
    send_timeout: float
    _count: Callable[[], None]                               # one request more; worker.py

    def handle(self, listener: Any, sock: Any, addr: Any) -> None:
        """Serve one connection until it ends. ``listener`` is the address it was accepted on."""
        sock.settimeout(IO_TIMEOUT)
        if isinstance(addr, tuple):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(listener, sock, addr, self.send_timeout)
        if self._pool is not None and self._pool.full():
            self._make_room()
        try:
            if self._tls is not None:
                self._handshake(client, self._tls)
            while self._serve_one(client):
                pass
        except (Dismissed, gevent.GreenletExit):
            client.lingers = False
        except OSError as error:                             # Gunicorn's NoMoreData, the end of half a head, among them
            self.log.debug("The client ended the connection: %s", error)
        except Exception as error:                           # of Gunicorn's parser: what the client sent is not HTTP
            self._refuse(client, None, error)
        finally:
            client.close()

    def _make_room(self) -> None:
        """The last place is taken: end the connection that has been idle for longest, or else the next one that becomes so. What
        waits in the queue of the kernel would else wait for as long as idle clients like."""
        closed = self._waiting.dismiss_longest()
        if not closed and not self._crowded:
            self.log.warning("Worker %s: all %d connections are busy; new ones wait", self.pid, self.worker_connections)
        self._crowded = not closed
        if self.application is not None:
            self.application.count_crowded(closed)

    def _handshake(self, client: Client, context: ssl.SSLContext) -> None:
        client.sock = context.wrap_socket(client.sock, server_side=True, do_handshake_on_connect=False,
                                          suppress_ragged_eofs=self.cfg.suppress_ragged_eofs)
        client.native = None
        client.unreader.sock = client.sock
        self._waiting.enter(client)
        try:
            client.sock.do_handshake()
        finally:
            self._waiting.leave(client)

    def _serve_one(self, client: Client) -> bool:
        """Wait for a request and answer it; whether another may follow."""
        if client.ahead:
            gevent.sleep(0)                                  # a client that pipelines is not to keep the others waiting
        data, client.ahead = client.ahead or self._wait(client), b""
        if not data or client.lost:
            return False
        lane = self._lane
        plain = lane.read(data) if lane is not None else None
        if lane is not None and plain is not None:
            client.served += 1
            client.ahead = data[plain.size:]
            return self._serve_plain(client, plain, lane)
        client.settle()                                      # from here on others write to the socket, wait for it and close it
        client.readable.unwatch()
        client.unreader.unread(data)
        request = self._read_head(client)
        client.served += 1
        going = self.handle_request(client, request)
        client.ahead = client.unreader.take_buffered()
        return going

    def _wait(self, client: Client) -> bytes:
        """The first bytes of the next request; none when there will be no other."""
        if (self.parting or self._crowded) and client.served and client.quiet():
            self._crowded = False
            return b""
        client.begun = False
        client.since = monotonic()                           # as enter() and leave() do, for every request
        self._waiting[client] = None
        try:
            return client.wait()
        finally:
            del self._waiting[client]

    def _read_head(self, client: Client) -> GunicornRequest:
        """The request that has begun to arrive, by Gunicorn's parser. Raises HeadTimeout."""
        client.begun = True
        self._heads.enter(client)
        try:
            request = GunicornRequest(self.cfg, client.unreader, client.addr, client.served + 1, self.application is not None)
        except Dismissed:
            raise HeadTimeout(f"the head did not come within {self.head_timeout:g} s") from None
        finally:
            self._heads.leave(client)
        client.proxied = request.proxy_protocol_info = request.proxy_protocol_info or client.proxied
        return request

    def _serve_plain(self, client: Client, plain: PlainRequest, lane: Lane) -> bool:
        """Answer a request of the fast lane; whether another may follow."""
        connection = LaneConnection(plain.headers, client, lane)
        writer = None
        try:
            self._count()
            response = self.application.receive(plain, connection, client.peer)
            body = response.body
            if connection.taken or not connection.alive:     # a view has used the connection itself
                if not isinstance(body, bytes):
                    body.close()
                return False
            if isinstance(body, bytes):
                data, closing = lane.rendered(plain, response, body, self.draining)
                connection.started = True
                if closing:
                    client.settle()
                    client.send(data)
                    return False
                client.post(data)
                return True
            client.settle()
            client.readable.unwatch()
            writer = ResponseWriter(plain, client.sock, self.cfg, connection, None, lambda: self.draining)
            writer.transmit = client.send
            try:
                writer.start_response(f"{response.status} {response.reason}", response.headers)
            except BaseException:
                body.close()
                raise
            self._deliver(body, writer, plain)
            return not writer.should_close()
        except OSError as error:
            self.log.debug("The client did not take the answer: %s", error)
            return False
        except BaseException as error:                       # SystemExit and gevent.Timeout of the application among them
            self._fail(client, plain, connection, writer, error)
            return False
        finally:
            connection.alive = False

    # A request

    def handle_request(self, client: Client, request: GunicornRequest) -> bool:
        """Run the application for one request; whether the connection may carry another."""
        began = datetime.now()
        connection = ClientConnection(request.raw_headers, client.sock, client.peer or "unix", client.unreader)
        writer: ResponseWriter | None = None
        environ: dict[str, Any] = {}
        try:
            self.cfg.pre_request(self, request)
            writer, environ = self._environ(client, request, connection)
            self._count()
            self._respond(environ, writer)
            return not connection.taken and self._may_go_on(client, writer)
        except StopIteration:                                # an application that has used the socket itself
            return False
        except ClientGone as error:
            self.log.debug("The client did not take the answer: %s", error)
            return False
        except BaseException as error:                       # SystemExit and gevent.Timeout of the application among them
            self._fail(client, request, connection, writer, error)
            return False
        finally:
            connection.alive = False
            if writer is not None:
                self.log.access(writer, request, environ, datetime.now() - began)
            try:
                self.cfg.post_request(self, request, environ, writer)
            except Exception:
                self.log.exception("Exception in post_request hook")

    def _environ(self, client: Client, request: GunicornRequest,
                 connection: ClientConnection) -> tuple[ResponseWriter, dict[str, Any]]:
        """Gunicorn's environ, with the body, the connection and the writer of this worker."""
        expects, request._expected_100_continue = request._expected_100_continue, False
        body = BodyReader(request, client.unreader, self.body_timeout)
        writer, environ = wsgi.create(request, client.sock, client.addr, client.listener, self.cfg, response_class=ResponseWriter,
                                      response_args=(connection, body, lambda: self.draining))
        writer.transmit = client.send
        if expects:
            body.announce(writer.send_continue)
        environ["wsgi.input"] = body
        environ["wsgi.multithread"] = True
        environ["gateway.connection"] = connection
        return writer, environ

    def _respond(self, environ: dict[str, Any], writer: ResponseWriter) -> None:
        result = self.wsgi(environ, writer.start_response)
        if self.is_already_handled(result):
            raise StopIteration
        self._deliver(result, writer, writer.req)

    def _deliver(self, result: Any, writer: ResponseWriter, request: GunicornRequest | PlainRequest) -> None:
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
                    self.log.exception("Closing the answer to %s %s", request.method, request.uri)

    def _may_go_on(self, client: Client, writer: ResponseWriter) -> bool:
        """After a complete answer: is the connection fit for another request?"""
        body = writer.body
        fit = body is None or body.done
        if body is not None and not fit and not writer.should_close():
            with gevent.Timeout(UNREAD, False):
                fit = body.discard()
        client.lingers = not fit
        return fit and not writer.should_close()

    def _fail(self, client: Client, request: GunicornRequest | PlainRequest, connection: ClientConnection,
              writer: ResponseWriter | None,
              error: BaseException) -> None:
        """The application failed: 500 where nothing was sent yet, else the answer is cut; so is that of one that is told to end."""
        if isinstance(error, gevent.GreenletExit):           # graceful_timeout is over
            if writer is not None:
                writer.cut()
            return
        if writer is not None and writer.headers_sent and connection.alive:
            writer.cut()
        elif connection.alive and not connection.taken:
            self._refuse(client, request, error)
            return
        if isinstance(error, GatewayError):                  # it has its line in the request log
            self.log.debug("The answer to %s %s was cut: %r", request.method, request.uri, error)
        else:
            self.log.error("Error handling request %s %s", request.method, request.uri, exc_info=error)

    def _refuse(self, client: Client, request: GunicornRequest | PlainRequest | None, error: BaseException) -> None:
        """Answer what cannot be served, and end the connection. ``request`` is None when it could not be read."""
        client.lingers = True
        if self.application is None:
            own = error if isinstance(error, GatewayError) else error.__cause__
            if isinstance(own, (HeadTimeout, BodyTimeout, TruncatedBody)):       # Gunicorn has no word for it
                self.log.debug("Invalid request from ip=%s: %s", client.peer, own)
                util.write_error(client.sock, own.status, REASONS[own.status], "")
                return
            self.handle_error(None if isinstance(request, PlainRequest) else request, client.sock, client.addr, error)
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
        except OSError as gone:
            self.log.debug("The client did not take the answer: %s", gone)
