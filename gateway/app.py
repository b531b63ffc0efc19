"""The application: a Flask whose ``wsgi_app`` is the pipeline.

A declared route is answered by its steps, without a Flask request context; a view by ordinary Flask dispatch as the target of
its route (views.py). Errors of views become the gateway's own answers, unless the application registered a handler for them.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask
from flask import Response as FlaskResponse
from flask import request
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.routing import RoutingException

from . import rundir
from .cache import store
from .config import Config
from .configfile import load_text, read_text
from .errors import ConfigError, GatewayError
from .incoming import Incoming
from .message import Response
from .pipeline import Pipeline
from .problem import render_http
from .telemetry.log import RequestLog
from .telemetry.metrics import registry
from .upstream.requests_adapter import gateway_error, govern_requests
from .views import View, undeclared, without_view

if TYPE_CHECKING:
    from .fastlane import Plain

log = logging.getLogger("gateway")


class Gateway(Flask):
    """``Gateway(config)``. The pipeline is made when it is first needed, so that views can be added until then."""

    def __init__(self, config: Config, source: str = "") -> None:
        super().__init__("gateway", static_folder=None)
        self.settings = config
        self.source = source
        self.incoming = Incoming(config.gateway.trust, config.gateway.timeout)
        self.request_log = RequestLog(config.gateway.log)
        self._pipeline: Pipeline | None = None
        for name in config.gateway.views:
            self.register_views(name)

    @property
    def pipeline(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = self._build()
        return self._pipeline

    def _build(self) -> Pipeline:
        rules, declared = list(self.url_map.iter_rules()), self.settings.routes
        if missing := without_view(rules, declared):
            raise ConfigError([f'route "{route.path}": view: no Flask view answers this path; name the module of its blueprint '
                               f'in gateway.views' for route in missing], self.source)
        return Pipeline(self.settings, view=View(super().wsgi_app), log=self.request_log, registry=registry,
                        views=undeclared(rules, declared))

    def add_url_rule(self, *args: Any, **kwargs: Any) -> None:
        super().add_url_rule(*args, **kwargs)
        self._pipeline = None

    def register_views(self, module: str) -> None:
        """Register every blueprint of a module. Raises ConfigError when it cannot be imported or has none."""
        try:
            found = importlib.import_module(module)
        except Exception as error:                       # a module may fail in any way while it is run
            problem = f"gateway: views: cannot import {module!r}: {type(error).__name__}: {error}"
            raise ConfigError([problem], self.source) from error
        blueprints = [value for value in vars(found).values() if isinstance(value, Blueprint)]
        if not blueprints:
            raise ConfigError([f"gateway: views: the module {module!r} has no Flask Blueprint"], self.source)
        for blueprint in blueprints:
            self.register_blueprint(blueprint)

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        response = self.pipeline.handle(self.incoming(environ))
        if response.takeover is not None:
            response.takeover()
            return ()
        start_response(f"{response.status} {response.reason}", sized(response, environ["REQUEST_METHOD"]))
        return [response.body] if isinstance(response.body, bytes) else response.body

    def receive(self, plain: Plain, connection: Any, peer: str) -> Response:
        """Answer what the worker's fast lane has read, without WSGI."""
        return self.pipeline.handle(self.incoming.plain(plain, connection, peer))

    def reopen_logs(self) -> None:
        """The request log's file was moved away (SIGUSR1)."""
        self.request_log.reopen()

    def handle_exception(self, e: Exception) -> Any:
        """What a view did not catch: the application's own handler for 500 if there is one, else the gateway's answer."""
        if self._find_error_handler(InternalServerError(), request.blueprints) is not None:
            return super().handle_exception(e)
        cause = None if isinstance(e, GatewayError) else gateway_error(e)
        if cause is None:
            raise e
        raise cause from e

    def handle_http_exception(self, e: HTTPException) -> Any:
        """``abort(404)`` and its like: the application's handler, else a problem document like every other error."""
        handled = super().handle_http_exception(e)
        if handled is not e or e.response is not None or e.code is None or isinstance(e, RoutingException):
            return handled
        response = render_http(e.code, e.name, e.description or "", e.get_headers(), request.headers.get("Accept", ""),
                               request.environ["HTTP_X_REQUEST_ID"])
        return FlaskResponse(response.body, response.status, response.headers)


def sized(response: Response, method: str) -> list[tuple[str, str]]:
    """The header fields with the Content-Length of a body that is in memory, unless the answer has none by its nature."""
    body = response.body
    if isinstance(body, bytes) and method != "HEAD" and response.status not in (204, 304):
        for name, _ in response.headers:
            if len(name) == 14 and name.lower() == "content-length":
                return response.headers
        response.headers.append(("Content-Length", str(len(body))))
    return response.headers


def create_app(config: Config | str | None = None) -> Gateway:
    """The gateway as a WSGI application and a Flask.

    ``config`` is a Config, the path of a file, or None for ``GATEWAY_CONFIG``. In a running instance whose file has become
    unusable, the last one that worked is used, and what is wrong is logged and shown on the admin listener. Raises ConfigError.
    """
    if isinstance(config, Config):
        return ready(Gateway(config))
    place = rundir.current()
    try:
        text, path = read_text(config, os.environ)
        app = ready(Gateway(load_text(text, os.environ, path), path))
    except ConfigError as error:
        kept = place.kept_config() if place is not None else None
        if place is None or kept is None:
            raise
        log.error("%s cannot be used; going on with the last configuration that worked: %s", error.source or "the configuration",
                  "; ".join(error.problems))
        place.report_config(error.problems)
        return ready(Gateway(load_text(kept, os.environ, "the last configuration that worked"), "kept"))
    if place is not None:
        place.keep_config(text)
    return app


def ready(app: Gateway) -> Gateway:
    """Make what can fail fail now, and let every ``requests`` call of the process use the upstreams."""
    store.init(app)
    govern_requests(app.pipeline.upstreams)
    return app


def start_worker(app: Gateway) -> None:
    """What runs in each worker process: the metrics' file and the log's writer. Called after the fork."""
    registry.start()
    app.request_log.start()
    app.pipeline.start()


def stop_worker(app: Gateway) -> None:
    """Write out what is buffered and close idle connections."""
    app.request_log.stop()
    app.pipeline.close()


__all__ = ["Gateway", "create_app", "start_worker", "stop_worker"]
