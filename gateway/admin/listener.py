"""The admin listener: health, readiness, metrics, routes and the state of the configuration, for operators and probes.

=============  ==============================================================================================================
``/``          a page with all that matters and links to the rest
``/healthz``   200 while the process turns
``/readyz``    200 while a worker of this instance takes connections, else 503: starting, draining, gone
``/metrics``   Prometheus, summed over the workers of this instance
``/routes``    every route with its target and steps: JSON, or a page for a browser
``/config``    what is configured, and what is wrong with the configuration file now: as pages for a browser, else plain
``/cache``     what is stored, where, and what it does; with ``?key=`` an entry. ``POST /cache/purge`` (cache_page.py)
=============  ==============================================================================================================

It has a listening socket of its own, on loopback, that every worker of the instance accepts from: an answer is about the
instance, whoever gives it. Purging is all that it changes: else GET and HEAD only. A request whose Host is not this machine is
refused, so that a web page cannot read it under a name of its own that it lets point here (DNS rebinding); forwarded headers mean
nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import gevent
from flask import Flask, Response, jsonify, render_template, request
from gevent import socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from werkzeug.exceptions import Forbidden, HTTPException, InternalServerError, MethodNotAllowed

from ..build import RUNNING, Build, own_version
from ..http.problem import prefers_html, render_http
from ..local import run_directory
from ..loop.native_threads import run_in_thread
from ..telemetry import exposition
from ..telemetry.metrics import registry
from ..values import parse_instance
from .cache_page import cache_page, purge, size_text

if TYPE_CHECKING:
    from ..app import Gateway

CONNECTIONS = 64                # at once, for each worker
CONNECT_TIMEOUT = 1.0           # seconds for a connection to an instance, to say whether it takes any
SECONDS = 30.0                  # the longest that a connection may take
READ_METHODS = ("GET", "HEAD")
WRITE_METHODS = {"/cache/purge": ("POST",)}
LONGEST_BODY = 65536            # bytes
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/\s]+))(?::\d{1,5})?")
FIELDS = {
    "Cache-Control": "no-store",
    "Connection": "close",      # the next request may go to another worker, and none is in the way of a drain
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

log = logging.getLogger("gateway")


class Handler(WSGIHandler):
    """One connection, from accept to close."""

    def handle(self) -> None:
        with gevent.Timeout(self.server.seconds, False):
            super().handle()


class Listener(WSGIServer):
    """The admin pages of ``application`` on a listening socket. A connection may take ``seconds``."""

    def __init__(self, sock: Any, application: Gateway | None, seconds: float = SECONDS) -> None:
        super().__init__(sock, create_admin(application), log=None, error_log=log, handler_class=Handler, spawn=Pool(CONNECTIONS))
        self.seconds = seconds


def start(sock: Any, application: Gateway | None) -> Listener:
    """Serve the admin pages of ``application`` in this worker. ``stop()`` of what is returned ends it."""
    listener = Listener(sock, application)
    listener.start()
    return listener


def create_admin(application: Gateway | None, build: Build = RUNNING) -> Flask:
    """The admin pages of ``application`` as a WSGI application. Without one (another application is served) there are only those of
    the instance. ``build`` is what the pages say that runs."""
    admin = Flask("gateway.admin", root_path=os.path.dirname(os.path.dirname(__file__)), static_folder=None)
    admin.jinja_options = {"autoescape": True}
    admin.add_template_filter(size_text, "size")
    admin.json.sort_keys = False                             # type: ignore[attr-defined]
    admin.config["MAX_CONTENT_LENGTH"] = LONGEST_BODY
    admin.before_request(guard)
    admin.after_request(add_fields)
    admin.register_error_handler(Exception, answer_error)

    def show(path: str, view: Any) -> None:
        admin.add_url_rule(path, path, view, methods=["GET"], provide_automatic_options=False)

    show("/healthz", lambda: as_page({"status": "ok", "pid": os.getpid(), "version": own_version(), "build": build.name},
                                     "Health"))
    show("/readyz", readiness)
    show("/metrics", metrics)
    if application is None:
        return admin
    show("/", lambda: index(application, build))
    show("/routes", lambda: routes_page(application))
    show("/config", lambda: as_page({"problems": config_problems(), **summary(application)}, "Configuration"))
    show("/cache", lambda: cache_page(application.pipeline.store, registry, prefers_html))
    admin.add_url_rule("/cache/purge", "purge", lambda: purge(application.pipeline.store), methods=["POST"],
                       provide_automatic_options=False)
    return admin


# What is shown

def ready() -> bool:
    """Does a worker of this instance accept connections? A process outside an instance is ready when it answers."""
    run_dir = run_directory.current()
    return run_dir is None or run_dir.ready()


def workers() -> list[dict[str, Any]]:
    run_dir = run_directory.current()
    states = run_dir.states() if run_dir is not None else {}
    return [{"slot": slot, "pid": worker.pid, "state": worker.state} for slot, worker in sorted(states.items())]


def config_problems() -> list[str]:
    run_dir = run_directory.current()
    return run_dir.config_problems() if run_dir is not None else []


def summary(application: Gateway) -> dict[str, Any]:
    """The source of the configuration, its number of routes, its upstreams."""
    pipeline = application.pipeline
    return {"source": application.source, "routes": len(pipeline.routes),
            "upstreams": {name: list(settings.instances) for name, settings in pipeline.config.upstreams.items()}}


def index(application: Gateway, build: Build) -> str:
    """The page of the instance, with which instances of upstreams answer now. To see that, it connects to each of them."""
    upstreams = application.pipeline.config.upstreams
    answers = reachable({url for settings in upstreams.values() for url in settings.instances})
    config = summary(application)
    answering = {name: [answers[url] for url in urls] for name, urls in config["upstreams"].items()}
    down = [name for name, each in answering.items() if not any(each)]
    partly = [name for name, each in answering.items() if any(each) and not all(each)]
    return render_template("admin_index.html.j2", ready=ready(), workers=workers(), problems=config_problems(),
                           reached=answers, down=down, partly=partly, version=own_version(), build=build, config=config)


def reachable(urls: Iterable[str]) -> dict[str, bool]:
    """Which instances accept connections now."""
    pool, results = Pool(CONNECTIONS), {}

    def look(url: str) -> None:
        results[url] = takes_connections(url)

    for url in urls:
        pool.spawn(look, url)
    pool.join()
    return results


def takes_connections(url: str) -> bool:
    address = parse_instance(url)
    try:
        with gevent.Timeout(CONNECT_TIMEOUT, TimeoutError(url)):
            if address.unix_path is None:
                socket.create_connection((address.host, address.port), CONNECT_TIMEOUT).close()
                return True
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(address.unix_path)
                return True
    except OSError:
        return False


def wants_html() -> bool:
    """Does the client prefer HTML, as browsers do? Programs get JSON."""
    return prefers_html(request.headers.get("Accept", ""))


def as_page(content: dict[str, Any], title: str) -> Any:
    """JSON for programs; for a browser, a page with the same content and a link back."""
    if not wants_html():
        return content
    return render_template("admin_text.html.j2", title=title, text=json.dumps(content, indent=2, ensure_ascii=False))


def readiness() -> tuple[Any, int]:
    is_ready, run_dir = ready(), run_directory.current()
    directory = None if run_dir is None else {"usable": run_dir.usable, "repairs": run_dir.repairs}
    content = {"ready": is_ready, "workers": workers(), "config_problems": config_problems(), "run_dir": directory}
    return as_page(content, "Readiness"), 200 if is_ready else 503


def metrics() -> Response:
    """Rendered in a native thread: with thousands of routes it takes long, and requests must not wait for it."""
    accept = "" if wants_html() else request.headers.get("Accept", "")
    body, content_type = run_in_thread(exposition.render, registry, accept)
    if wants_html():
        return Response(render_template("admin_text.html.j2", title="Metrics", text=body.decode()))
    return Response(body, content_type=content_type)


def routes_page(application: Gateway) -> Any:
    pipeline = application.pipeline
    rows = [{"name": route.name, "target": route.target, "steps": pipeline.describe(route)} for route in pipeline.routes]
    if wants_html():
        return render_template("admin_routes.html.j2", routes=rows)
    return jsonify(routes=rows)


# Who may ask, and errors

def guard() -> None:
    """Refuse other methods, and a Host that is not this machine's (DNS rebinding)."""
    methods = WRITE_METHODS.get(request.path, READ_METHODS)
    if request.method not in methods:
        raise MethodNotAllowed(methods)
    if not is_loopback(request.environ.get("HTTP_HOST", "")):
        raise Forbidden("The Host of this request is not this machine.")


def is_loopback(host: str) -> bool:
    """Is this Host, with or without a port, an address of this machine's loopback or localhost?"""
    match = HOST.fullmatch(host)
    if match is None:
        return False
    if match[2] and match[2].lower() == "localhost":
        return True
    try:
        return ip_address(match[1] or match[2]).is_loopback
    except ValueError:
        return False


def add_fields(response: Response) -> Response:
    response.headers.update(FIELDS)
    return response


def answer_error(error: Exception) -> Response:
    """Every error as a problem document, or a page for a browser."""
    if not isinstance(error, HTTPException):
        log.error("the admin page %s failed", request.path, exc_info=error)
        error = InternalServerError()
    answer = render_http(error.code or 500, error.name, error.description or "", error.get_headers(),
                         request.headers.get("Accept", ""))
    return Response(answer.body, answer.status, answer.headers)
