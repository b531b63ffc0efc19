"""The Gunicorn worker: accepts connections, serves their requests one after the other, and leaves without losing any.

A connection, in one greenlet::

    handle: [TLS] -> read head -> handle_request: environ -> application -> answer -> [read away the rest] -+-> close
                     ^ waits                                                              keep-alive        |
                     +--------------------------------------------------------------------------------------+

Reading and writing are in reader.py and writer.py, who waits and who is dismissed in clients.py.

Leaving (TERM, HUP, TTOU, ``max_requests``)::

    serving --told to end--> leaving  --+--> draining --> exit
            --max_requests-> retiring --+
                ^                       |
                +-- its successor failed to start

A worker that is leaving serves on until another one does, when one is starting: so HUP and ``max_requests`` leave no gap, and a
broken deployment no hole. Draining: what the kernel has queued is accepted, the listeners are closed, idle connections end with
a FIN and nothing else, requests that have begun are answered with ``Connection: close``. The worker exits when the last one is
over, or cuts what is left after ``graceful_timeout``.

HTTP/1 only: it stands behind nginx, which speaks HTTP/2 and TLS to the world. TLS listeners and the PROXY protocol work.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.arbiter import Arbiter
from gunicorn.http import wsgi
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import GeventWorker

from . import rundir
from .clients import Client, Dismissed, Waiting
from .errors import ConfigError, GatewayError
from .fastlane import NO_MORE_BODY, Lane, LaneConnection, Plain, possible
from .reader import BodyReader, Connection, Request
from .writer import ClientGone, ResponseWriter

IO_TIMEOUT = 60.0               # seconds without progress of a body or an answer (nginx: client_body_timeout, send_timeout)
UNREAD = 5.0                    # seconds for the rest of a body that the application did not read
FRESH = 0.5                     # seconds a connection without any request yet gets for its first one when the worker drains
RETRY = 2.0                     # seconds before a worker that could not start gives way to the next try


class GatewayWorker(GeventWorker):
    """``worker_class = "gateway.worker.GatewayWorker"``. Runs any WSGI application."""

    alive: bool                                              # Gunicorn's: False ends the main loop
    nr: int                                                  # Gunicorn's: requests served

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.draining = False
        self.orphaned: Callable[[], None] | None = None      # called when the master has died
        self._told = False                                   # by a signal, not by max_requests
        self._waiting = Waiting()
        self._lane: Lane | None = None                       # set once the application is known
        self._tls: ssl.SSLContext | None = None
        self._pool: Any = None
        self._changed: Any = None                            # an Event once it runs: there may be something to do

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Called by Gunicorn at start. Raises RuntimeError for what this worker does not speak."""
        if "h2" in (cfg.http_protocols or ()) or cfg.http2_cleartext != "off":
            raise RuntimeError("gateway.worker.GatewayWorker does not speak HTTP/2: set http_protocols = \"h1\"")
        if cfg.protocol != "http":
            raise RuntimeError(f"gateway.worker.GatewayWorker does not speak {cfg.protocol}: set protocol = \"http\"")

    # A connection

    def handle(self, listener: Any, sock: Any, addr: Any) -> None:
        """Serve one connection until it ends. ``listener`` is the address it was accepted on."""
        sock.settimeout(IO_TIMEOUT)
        if isinstance(addr, tuple):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(listener, sock, addr)
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
            self.handle_error(None, client.sock, addr, error)
            client.lingers = True
        finally:
            client.close()

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
        data, client.ahead = client.ahead or self._wait(client), b""
        if not data:
            return False
        plain = self._lane.read(data) if self._lane is not None else None
        if plain is not None:
            client.served += 1
            client.ahead = data[plain.size:]
            return self._serve_plain(client, plain)
        client.unreader.unread(data)
        request = self._read_head(client)
        client.served += 1
        going = self.handle_request(client, request)
        client.ahead = client.unreader.take_buffered()
        return going

    def _wait(self, client: Client) -> bytes:
        """The first bytes of the next request; none when there will be no other."""
        if self.draining and client.served and client.quiet():
            return b""
        client.begun = False
        self._waiting.enter(client)
        try:
            return client.wait()
        finally:
            self._waiting.leave(client)

    def _read_head(self, client: Client) -> Request:
        """The request that has begun to arrive, by Gunicorn's parser."""
        client.begun = True
        self._waiting.enter(client)
        try:
            request = Request(self.cfg, client.unreader, client.addr, client.served + 1)
        finally:
            self._waiting.leave(client)
        client.proxied = request.proxy_protocol_info = request.proxy_protocol_info or client.proxied
        return request

    def _serve_plain(self, client: Client, plain: Plain) -> bool:
        """Answer a request of the fast lane; whether another may follow."""
        connection = LaneConnection(plain.headers, client, self._lane)
        writer = None
        try:
            self._count()
            response = self.wsgi.receive(plain, connection, client.peer)
            if type(response.body) is bytes:
                data, closing = self._lane.rendered(plain, response, self.draining)
                connection.started = True
                client.send(data)
                return not closing
            writer = ResponseWriter(plain, client.sock, self.cfg, connection, NO_MORE_BODY, lambda: self.draining)
            writer.start_response(f"{response.status} {response.reason}", response.headers)
            self._deliver(response.body, writer, plain)
            return not writer.should_close()
        except OSError as error:
            self.log.debug("The client did not take the answer: %s", error)
            return False
        except Exception as error:
            self._fail(client, plain, connection, writer, error)
            return False
        finally:
            connection.alive = False

    # A request

    def handle_request(self, client: Client, request: Request) -> bool:
        """Run the application for one request; whether the connection may carry another."""
        began = datetime.now()
        connection = Connection(request.raw_headers, client.sock, client.peer or "unix", client.unreader)
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
        except gevent.GreenletExit:                          # graceful_timeout is over
            if writer is not None:
                writer.cut()
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

    def _environ(self, client: Client, request: Request, connection: Connection) -> tuple[ResponseWriter, dict[str, Any]]:
        """Gunicorn's environ, with the body, the connection and the writer of this worker."""
        expects, request._expected_100_continue = request._expected_100_continue, False
        body = BodyReader(request, client.unreader)
        writer, environ = wsgi.create(request, client.sock, client.addr, client.listener, self.cfg, response_class=ResponseWriter,
                                      response_args=(connection, body, lambda: self.draining))
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

    def _deliver(self, result: Any, writer: ResponseWriter, request: Request | Plain) -> None:
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
        fit = writer.body.done
        if not fit and not writer.should_close():
            with gevent.Timeout(UNREAD, False):
                fit = writer.body.discard()
        client.lingers = not fit
        return fit and not writer.should_close()

    def _fail(self, client: Client, request: Request | Plain, connection: Connection, writer: ResponseWriter | None,
              error: BaseException) -> None:
        """The application failed: 500 where nothing was sent yet, else the answer is cut."""
        if writer is not None and writer.headers_sent and connection.alive:
            writer.cut()
        elif connection.alive and not connection.taken:
            client.lingers = True
            self.handle_error(None if isinstance(request, Plain) else request, client.sock, client.addr, error)
            return
        if isinstance(error, GatewayError):                  # it has its line in the request log
            self.log.debug("The answer to %s %s was cut: %r", request.method, request.uri, error)
        else:
            self.log.error("Error handling request %s %s", request.method, request.uri, exc_info=error)

    def _count(self) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Worker %s has served its %d requests", self.pid, self.nr)
            self.alive = False
            self._wake()

    # The life of the worker

    def init_process(self) -> None:
        try:
            super().init_process()
        except Exception as error:
            if not self.booted:
                self._give_up(error)
            raise

    def _give_up(self, error: Exception) -> None:
        """This worker cannot start. While others serve that is no reason to end the master, as exit codes 3 and 4 would."""
        place = rundir.current()
        if place is None:
            return
        if isinstance(error, ConfigError):
            place.report_config(error.problems)
            for problem in error.problems:
                self.log.error("%s: %s", error.source or "the configuration", problem)
            if not place.serves_without_me():
                sys.exit(Arbiter.WORKER_BOOT_ERROR)
        elif not place.serves_without_me():
            return
        self.log.error("Worker %s cannot start; those that serve go on", self.pid, exc_info=error)
        self._report("failed")
        until = monotonic() + RETRY
        while self.alive and monotonic() < until:
            gevent.sleep(0.1)
        if not self.alive:
            self._report("draining")                         # told to end: nobody is to take it for a broken deployment
        sys.exit(1)

    def run(self) -> None:
        self._changed = Event()
        signals = get_hub().loop.io(self.PIPE[0], 1)         # Python writes there when a signal has arrived
        signals.start(self._on_signal)
        servers = self._listen()
        self._report("serving" if self.alive else "draining")
        while True:
            while self.alive:
                self._tick(1.0)
            if self._may_leave():
                break
            self.alive, self._told, self.nr = True, False, 0
            self._report("serving")
        self._drain(servers)
        signals.stop()
        signals.close()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)        # what is left to do is not to be interrupted by being told again

    def _listen(self) -> list[StreamServer]:
        if self.cfg.is_ssl:
            self._tls = ssl_context(self.cfg)
        self._pool = Pool(self.worker_connections)
        if hasattr(self.wsgi, "receive") and possible(self.cfg):
            self._lane = Lane(self.cfg)
        servers = []
        for sock in self.sockets:
            sock.setblocking(1)
            server = StreamServer(sock, handle=partial(self.handle, sock.getsockname()), spawn=self._pool)
            if self.cfg.workers > 1:
                server.max_accept = 1
            server.start()
            servers.append(server)
        return servers

    def _tick(self, seconds: float) -> None:
        """Sleep until something changes, at most ``seconds``."""
        self.notify()
        self._waiting.dismiss_overdue(self.cfg.keepalive or IO_TIMEOUT)
        self._changed.wait(seconds)
        self._changed.clear()

    def notify(self) -> None:
        """The heartbeat. Without its master the worker ends too, but not before its requests."""
        self.tmp.notify()
        if self.ppid == os.getppid():
            return
        release, self.orphaned = self.orphaned, None
        if release is not None:
            release()
        if self.alive:
            self.log.info("Parent changed, shutting down: %s", self)
            self.alive, self._told = False, True

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._told = True
        super().handle_exit(sig, frame)

    def handle_usr1(self, sig: int, frame: Any) -> None:
        super().handle_usr1(sig, frame)
        if hasattr(self.wsgi, "reopen_logs"):
            gevent.spawn(self.wsgi.reopen_logs)

    def _on_signal(self) -> None:
        os.read(self.PIPE[0], 4096)
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def _may_leave(self) -> bool:
        """Serve on while a successor is starting. False: it failed, and this worker stays."""
        place = rundir.current()
        if place is None:
            return True
        self._report("leaving" if self._told else "retiring")
        if not self._told:
            os.kill(self.ppid, signal.SIGCHLD)               # wakes the master, which starts the successor
        succession = rundir.Succession(place.others())
        until = monotonic() + self.cfg.graceful_timeout
        while monotonic() < until:
            verdict = succession.may_leave(place.others(), self._told, monotonic())
            if verdict is False:
                self.log.error("Worker %s stays: its successor cannot start", self.pid)
            if verdict is not None:
                return verdict
            self._tick(0.05)
        return True

    def _report(self, state: str) -> None:
        place = rundir.current()
        if place is not None:
            try:
                place.set_state(state)
            except OSError as error:                         # the directory was deleted: the requests do not depend on it
                self.log.error("Cannot write to %r: %s", place, error)

    # The end

    def _drain(self, servers: list[StreamServer]) -> None:
        self.draining = True
        self._report("draining")
        limit = self.cfg.graceful_timeout
        until = monotonic() + limit - min(0.5, limit / 4)    # a master that is stopping kills when its own time is over
        for server in servers:
            self._accept_queued(server)
            server.close()
        self._waiting.dismiss_idle()
        if not self._emptied(min(FRESH, until - monotonic())):
            self._waiting.dismiss_idle(fresh=True)
        while not self._emptied(min(1.0, until - monotonic())):
            if monotonic() >= until:
                self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
                self._pool.kill(timeout=0.2)
                return

    def _emptied(self, seconds: float) -> bool:
        """Wait for the last connection to end, at most ``seconds``."""
        self.notify()
        self._waiting.dismiss_overdue(self.cfg.keepalive or IO_TIMEOUT)
        return bool(self._pool.join(timeout=max(0.0, seconds)))

    def _accept_queued(self, server: StreamServer) -> None:
        """Take what the kernel has accepted already: after the last listener is closed it would be reset."""
        for _ in range(self.cfg.backlog):
            if server.full():
                return
            accepted = server.do_read()
            if not accepted:
                return
            server.do_handle(*accepted)
