"""The application: a Flask whose ``wsgi_app`` is the pipeline.

A declared route is answered by its steps, without a Flask request context; a view by ordinary Flask dispatch as the target of
its route (views.py). Errors of views become the gateway's own answers, unless the application registered a handler for them.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from itertools import chain
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, cast

import flask.app
from flask import Blueprint, Flask
from flask import Response as FlaskResponse
from flask import current_app, flash, got_request_exception, has_request_context, request, session
from flask.logging import default_handler
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.routing import RoutingException

from . import view_cache
from .async_views import sync_of
from .config import Config
from .configfile.load import DEFAULT_PATH, load_text, read_text
from .errors import ConfigError, GatewayError
from .http.problem import render_http
from .incoming.request import RequestFactory
from .local import run_directory
from .loop.asyncio_import import enable_asyncio
from .message import Request, Response
from .pipeline import Pipeline
from .telemetry.log import RequestLog
from .telemetry.metrics import registry
from .upstream.requests.adapter import gateway_error, govern_requests
from .views import View, undeclared_routes, without_view

if TYPE_CHECKING:
    from .server.reader import PlainRequest

log = logging.getLogger("gateway")

GC_THRESHOLD = (10_000, 20, 20)
LOG_FORMAT, LOG_TIME = "%(asctime)s [%(process)d] [%(levelname)s] %(name)s: %(message)s", "[%Y-%m-%d %H:%M:%S %z]"


class Gateway(Flask):
    """``Gateway(config)``. The pipeline is built at its first use, and again after views were added; upstreams and the cache stay
    the same."""

    def __init__(self, config: Config, source: str = "") -> None:
        super().__init__("gateway", static_folder=None)
        self.settings = config
        self.source = source
        self.incoming = RequestFactory(config.gateway.trust, config.gateway.timeout)
        self.on_bypass: Callable[[], None] | None = None  # called when a middleware comes between the server and this
        self.request_log = RequestLog(config.gateway.log)
        self.made_room = registry.counter("gateway_connections_closed_for_room_total",
                                          "Idle connections that were ended because all places of the worker were taken.")
        self.all_busy = registry.counter("gateway_connections_exhausted_total",
                                         "Times that all places of a worker were taken, and by busy connections.")
        self._pipeline: Pipeline | None = None
        self._last: Pipeline | None = None               # the last one, whether it still knows all views or not
        if config.gateway.secret_key is not None:
            self.config["SECRET_KEY"] = config.gateway.secret_key.get_secret_value()
        self.add_template_global(self.static_url, "static_url")
        self.register_views(*config.gateway.views)

    @property
    def pipeline(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = self._build()
        return self._pipeline

    def _build(self) -> Pipeline:
        rules, routes = list(self.url_map.iter_rules()), self.settings.routes
        if missing := without_view(rules, routes):
            raise ConfigError([f'route "{route.path}": view: no Flask view answers this path; name the module of its blueprint '
                               f'in gateway.views' for route in missing], self.source)
        before = self._last
        view = View(super().wsgi_app, silence=self.settings.gateway.body_timeout, rules=self.url_map)
        self._last = Pipeline(self.settings, view=view, log=self.request_log, registry=registry,
                              views=undeclared_routes(rules, routes), upstreams=before.upstreams if before else None,
                              store=before.store if before else None)
        return self._last

    def static_url(self, name: str) -> str:
        """The address, with a hash of its content, of a file below a route with ``files``; the first that has it. In a view it
        begins with the prefix of the proxy in front, as those of ``url_for`` do.

        Raises FileNotFoundError: an address that cannot be right is a mistake of the page.
        """
        for assets in self.pipeline.assets:
            if (url := assets.url(name)) is not None:
                return request.script_root + url if has_request_context() else url
        raise FileNotFoundError(f"no route with files has {name!r}")

    def add_url_rule(self, *args: Any, **kwargs: Any) -> None:
        super().add_url_rule(*args, **kwargs)
        self._pipeline = None

    def register_views(self, *names: str) -> None:
        """Register the modules' own blueprints, each once. A blueprint nested in another is registered with that one alone, which
        may guard it. Raises ConfigError with the mistakes of all modules."""
        modules: dict[str, ModuleType] = {}
        failures: list[Blueprint] = []
        problems: list[str] = []
        cause: BaseException | None = None
        for name in names:
            try:
                modules[name] = importlib.import_module(name)
            except (Exception, SystemExit) as error:     # a module may fail in any way while it is run
                problems.append(f"gateway: views: cannot import {name!r}: {type(error).__name__}: {error}{remedy(name, error)}")
                cause = cause or error
        inner_ones = [inner for module in modules.values() for blueprint in blueprints_of(module) for inner in nested_in(blueprint)]
        for name, module in modules.items():
            for blueprint in blueprints_of(module):
                if home_of(blueprint, name) != name or blueprint in inner_ones or blueprint in self.blueprints.values():
                    continue
                try:
                    self._register(blueprint, name)
                except (Exception, SystemExit) as error:     # and so may what a blueprint does when it is registered
                    failures.append(blueprint)
                    problems.append(f"gateway: views: the blueprint {blueprint.name!r} of {name!r} cannot be registered: {error}")
                    cause = cause or error
        there = [*self.blueprints.values(), *failures]
        problems += [problem for name, module in modules.items() for problem in nothing_of(name, module, there)]
        if problems:
            raise ConfigError(problems, self.source) from cause

    def _register(self, blueprint: Blueprint, module: str) -> None:
        there = self.blueprints.get(blueprint.name)
        if there is not None:                            # before Flask says it, whose remedy is not one here
            raise ValueError(f"{there.import_name!r} has another one of this name")
        self.register_blueprint(blueprint)

    def async_to_sync(self, func: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """Flask's way to call views, hooks and error handlers that are coroutines."""
        return sync_of(func, is_needed=func in chain(self.teardown_appcontext_funcs, *self.teardown_request_funcs.values()))

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        response = self.pipeline.handle(self.incoming(environ))
        if response.takeover is not None:
            response.takeover()
            return ()
        body = response.body
        try:
            start_response(f"{response.status} {response.reason}", with_length(response, environ["REQUEST_METHOD"]))
        except BaseException:
            if not isinstance(body, bytes):
                body.close()
            raise
        return [body] if isinstance(body, bytes) else body

    def __setattr__(self, name: str, value: Any) -> None:
        """``app.wsgi_app = Middleware(app.wsgi_app)``, as Flask documents it: from now on every request goes through it."""
        super().__setattr__(name, value)
        if name == "wsgi_app":
            self.incoming.has_middleware = True
            if self.on_bypass is not None:
                self.on_bypass()

    def is_reached_directly(self, wsgi: Any) -> bool:
        """Is there no middleware between the server and this application: around this object, on it, or (as Sentry does) on a
        class?"""
        call = type(self).__call__
        direct = (wsgi is self and "wsgi_app" not in vars(self) and type(self).wsgi_app is OWN_WSGI_APP
                  and type(call) is FunctionType and call.__code__.co_filename == flask.app.__file__)
        self.incoming.has_middleware = not direct
        return direct

    def receive(self, plain: PlainRequest, connection: Any, peer: str) -> Response:
        """The answer to a request that the worker's fast lane has read, without WSGI."""
        return self.pipeline.handle(self.incoming.plain(plain, connection, peer))

    def refuse(self, error: GatewayError, peer: str) -> Response:
        """The answer to a request that the worker could not read, or whose answer it could not send."""
        return self.pipeline.handle.refuse(Request("-", "-", [], peer=peer), error)

    def count_crowded(self, made_room: bool) -> None:
        """Count that all connections of a worker are in use. ``made_room``: an idle one was closed for a new one."""
        (self.made_room if made_room else self.all_busy).inc()

    def reopen_logs(self) -> None:
        """Reopen the file of the request log (SIGUSR1)."""
        self.request_log.reopen()

    def handle_exception(self, e: Exception) -> Any:
        """The answer to an exception that a view did not catch: of the application's handler for 500 if it has one, else the
        gateway's."""
        if self._find_error_handler(InternalServerError(), request.blueprints) is not None:
            return super().handle_exception(e)
        got_request_exception.send(self, _async_wrapper=self.ensure_sync, exception=e)
        cause = None if isinstance(e, GatewayError) else gateway_error(e)
        if cause is None:
            raise e
        raise cause from e

    def handle_http_exception(self, e: HTTPException) -> Any:
        """``abort(404)`` and its like: the application's handler, else a problem document like every other error."""
        answer = super().handle_http_exception(e)
        if answer is not e or e.response is not None or e.code is None or isinstance(e, RoutingException):
            return answer
        response = render_http(e.code, e.name, e.description or "", e.get_headers(), request.headers.get("Accept", ""),
                               request.environ["HTTP_X_REQUEST_ID"])
        return FlaskResponse(response.body, response.status, response.headers)


OWN_WSGI_APP = Gateway.wsgi_app
_latest: Gateway | None = None                           # the last one that create_app() made in this process


def served_by(wsgi: Any) -> Gateway | None:
    """The gateway behind the WSGI application ``wsgi``: itself, or the last one that ``create_app`` made, when a middleware is
    around it."""
    return wsgi if isinstance(wsgi, Gateway) else _latest


def static_url(name: str) -> str:
    """``static_url`` of the application whose view runs: ``static_url("app.css")`` is ``/static/app.<hash>.css``."""
    return cast(Gateway, current_app).static_url(name)


def blueprints_of(module: ModuleType) -> list[Blueprint]:
    """The blueprints among a module's variables, each once."""
    return list(dict.fromkeys(value for value in vars(module).values() if isinstance(value, Blueprint)))


def nested_in(blueprint: Any) -> Iterator[Any]:
    """All blueprints registered on a blueprint, and on those."""
    for inner, _ in blueprint._blueprints:
        yield inner
        yield from nested_in(inner)


def home_of(blueprint: Blueprint, name: str) -> str:
    """The module that a blueprint found in the module ``name`` belongs to: ``name``, unless it was imported from outside of
    that."""
    home = blueprint.import_name
    if home.startswith(f"{name}.") or home not in sys.modules:
        return name
    return home if blueprint in blueprints_of(sys.modules[home]) else name


def nothing_of(name: str, module: ModuleType, there: list[Any]) -> Iterator[str]:
    """The mistake of a module none of whose own blueprints is ``there``."""
    blueprints = blueprints_of(module)
    own = [blueprint for blueprint in blueprints if home_of(blueprint, name) == name]
    if not blueprints and (app := next((key for key, value in vars(module).items() if isinstance(value, Flask)), None)):
        yield (f"gateway: views: the module {name!r} has a Flask application, {app!r}, and no Blueprint; the gateway is the"
               f' application: write {app} = Blueprint("{app}", __name__) instead of {app} = Flask(...), or run it by itself and'
               " name it as an upstream")
    elif not blueprints and getattr(vars(module).get("create_app"), "__module__", None) == name:
        yield (f"gateway: views: the module {name!r} makes its Flask application in create_app(), which is not called here: name"
               " the modules of the blueprints that it registers, or run it by itself and name it as an upstream")
    elif not blueprints:
        yield (f'gateway: views: the module {name!r} has no Flask Blueprint: write shop = Blueprint("shop", __name__) in it, and'
               " @shop.get(...) before its views")
    elif not own:
        yield (f"gateway: views: the module {name!r} has no Flask Blueprint of its own; {blueprints[0].name!r} is of "
               f"{home_of(blueprints[0], name)!r}: name that")
    elif not any(blueprint in there for blueprint in own):
        yield (f"gateway: views: the blueprint {own[0].name!r} of {name!r} is nested in one that is not registered: name the "
               "module of that")


def remedy(name: str, error: BaseException) -> str:
    """What to do about a module that cannot be found."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    if name.endswith(".py"):
        return f"; a module is named without .py: {name[:-3].replace('/', '.')!r}"
    if f"{name}.".startswith(f"{error.name}."):
        return (f"; it is looked for in the current directory ({os.getcwd()}) and in PYTHONPATH: start in the folder that holds it"
                " (systemd: WorkingDirectory=), or set PYTHONPATH")
    return f"; {name!r} imports it: is it installed in {sys.prefix}?"


def session_notices(app: Gateway) -> Iterator[str]:
    """A notice when views use sessions and there is no secret key."""
    if app.config["SECRET_KEY"]:
        return
    for name in app.settings.gateway.views:
        if uses_session(sys.modules[name]):
            yield (f'{name} uses session or flash, and there is no secret key: it will fail when they are written; set'
                   ' gateway.secret_key = "${SECRET_KEY}"')


def uses_session(module: ModuleType) -> bool:
    """Do the views of a module use Flask's session, or flash, which stores its messages there?"""
    values = list(vars(module).values())
    if any(value is session or value is flash for value in values):
        return True
    names = {name for value in values if inspect.isfunction(value) for name in value.__code__.co_names}
    return any(value is sys.modules["flask"] for value in values) and not names.isdisjoint({"session", "flash"})


def log_of_views(level: str) -> None:
    """Write what application code logs, in the format of Gunicorn's messages. Logging that the application has set up itself is
    left alone."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT, LOG_TIME))
    root.addHandler(handler)
    root.setLevel(level.upper())
    log.removeHandler(default_handler)                   # of app.logger, which has the same name: each line once


def with_length(response: Response, method: str) -> list[tuple[str, str]]:
    """The header fields, with the Content-Length of a body in memory unless the answer has none by its status or method."""
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
    enable_asyncio()
    if isinstance(config, Config):
        return ready(Gateway(config))
    run_dir = run_directory.current()
    try:
        offer = run_dir.offered_config() if run_dir is not None and config is None else None
        source = os.environ.get("GATEWAY_CONFIG") or DEFAULT_PATH
        text, path = read_text(config, os.environ) if offer is None else (offer, source)
        app = ready(Gateway(load_text(text, os.environ, path), path))
    except ConfigError as error:
        last = run_dir.kept_config() if run_dir is not None else None
        if run_dir is None or last is None:
            raise
        log.error("%s cannot be used; going on with the last configuration that worked: %s", error.source or "the configuration",
                  "; ".join(error.problems))
        run_dir.report_config(error.problems)
        return ready(Gateway(load_kept(last, run_dir), "kept"))
    if run_dir is not None:
        run_dir.keep_config(text)
    return app


def load_kept(text: str, run_dir: run_directory.RunDir) -> Config:
    """The last configuration that worked. If it fails now, the folder of the request log may be gone: then the log goes to
    stderr."""
    name = "the last configuration that worked"
    try:
        return load_text(text, os.environ, name)
    except ConfigError as error:
        if not run_dir.has_served():
            raise
        log.error("%s; if it works so, the request log goes to stderr", "; ".join(error.problems))
        return load_text(text, {**os.environ, "GATEWAY_LOG": "stderr"}, name)


def ready(app: Gateway) -> Gateway:
    """Build the pipeline now, so that mistakes show at start, and route all ``requests`` calls of the process over the
    upstreams."""
    global _latest
    _latest = app
    view_cache.init(app, app.pipeline.store)
    log_of_views(app.settings.gateway.log_level)
    govern_requests(app.pipeline.upstreams)
    return app


def start_worker(app: Gateway) -> None:
    """What runs in each worker process: the metrics' file and the log's writer. Called after the fork.

    What has been made until now stays: the garbage collector need not look at it again, and looks less often at the rest, since
    a request leaves no cycles behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    registry.start()
    try:
        app.request_log.start()
    except ConfigError as error:
        run_dir = run_directory.current()
        if run_dir is None or not run_dir.has_served():      # a mistake, and not the loss of what there was
            raise
        log.error("%s; the request log goes to stderr", "; ".join(error.problems))
        app.request_log.destination = "stderr"
        app.request_log.start()
    app.pipeline.start()


def stop_worker(app: Gateway) -> None:
    """Write out what is buffered and close idle connections."""
    app.request_log.stop()
    app.pipeline.close()


__all__ = ["Gateway", "create_app", "start_worker", "static_url", "stop_worker"]
