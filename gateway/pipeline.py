"""Construction of the routes, each from its steps and its target. Read this first.

A request meets the steps from the outside in; a step is there only when the route asks for it::

    observe      start the clock; whatever happens below is measured, logged, and becomes a response here
      accept     refuse what no route may see
        offload  a large stored body is sent by nginx in front
        match    find the route, start its deadline
          ------------------------------------------ from here on each route has its own
          bodylimit     refuse bodies that are too large
            headers     the route's own header rules; observe applies those for answers to errors
              steps     those that the route names (extension.py)
                websocket the client's connection is spliced with that of an answer that has switched protocols
                  cache   a hit ends here; on a miss one request goes on, the others wait for it
                    target  what answers: a row of ``Pipeline.targets``

A new step is one file with a class ``Step(next, <its settings>)`` and one line in ``Pipeline.wraps``; a new target one file, a
row there, and one in ``config.TARGETS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .aggregate.target import Aggregate
from .bodylimit import BodyLimit
from .cache.cache_status import tier_numbers
from .cache.key import policy_of
from .cache.purging.invalidation import Invalidate
from .cache.step import CacheStep
from .cache.storage.construction import http_store
from .cache.storage.file_tier import FileTier
from .cache.storage.store import HttpStore
from .cache.storage.tiers import TierCounters
from .config import Config, Route
from .errors import ConfigError, GatewayError
from .extension import OwnPartError, OwnStep, OwnTarget
from .files import Files
from .forward import GATEWAY_FIELDS, Forward, Forwarding
from .headers import Edit, EditHeaders, edit_of, error_edit_of
from .incoming.accept import Accept
from .message import Call, Handler, Headers, Request, Response, RouteEntry
from .nginx.accel_redirect import AccelRedirect
from .respond import Respond
from .routing.match import Match
from .routing.pattern import parameters
from .routing.rewrite import Rewrite
from .routing.rewrite_response import PublicAddresses
from .routing.table import Table, problems
from .telemetry.log import RequestLog
from .telemetry.metrics import Registry
from .telemetry.observe import Observe
from .upstream.client import Upstream
from .websocket import WebSocket

Wrap = Callable[[Handler], Handler]


class Pipeline:
    """Everything a configuration declares, ready to serve: ``pipeline.handle(request) -> response``.

    ``view`` answers the routes whose target is a Flask view; ``views`` are the routes of Flask's own rules. Nothing here opens a
    socket or starts a greenlet before the first request.
    """

    def __init__(self, config: Config, *, view: Handler, log: RequestLog, registry: Registry,
                 views: Iterable[Route] = (), upstreams: dict[str, Upstream] | None = None,
                 store: HttpStore | None = None) -> None:
        self.config = config
        self.view = view
        self.forwarding = Forwarding(config.gateway.via)
        self.upstreams = upstreams if upstreams is not None else {
            name: Upstream(name, settings) for name, settings in config.upstreams.items()}
        self.sends = {name: upstream.send for name, upstream in self.upstreams.items()}     # one for all routes
        self.registry = registry
        self.store = store if store is not None else http_store(config, TierCounters(tier_numbers(registry)))
        self.caching = any(route.cache for route in config.routes)
        folds = not config.gateway.literal_paths
        self.store.caches = Table(((route, None) for route in config.routes if route.cache), folds=folds).reaches
        self.routes = (*config.routes, *views)
        if mistakes := problems(self.routes):
            raise ConfigError(mistakes)
        self.assets: list[Files] = []
        self.targets: dict[str, Callable[[Any], Handler]] = {            # what makes the target of a route, by Route.kind
            "upstream": self.forward,
            "aggregate": self.aggregate,
            "respond": lambda route: Respond(route.respond),
            "files": self.files,
            "handler": lambda route: OwnTarget(route.handler),
            "view": lambda route: self.view,
        }
        self.handlers = self.stacks()
        self.table: Table[RouteEntry] = Table(((route, self.serve(route)) for route in self.routes), folds=folds)
        self.handle = Observe(Accept(self.offload(Match(self.table)), self.edit_of), log, registry, edit_of=self.edit_of)

    def stacks(self) -> dict[str, Handler]:
        """The handler of each route, by the route's name. Raises ConfigError with all that is wrong with the user's own parts."""
        handlers: dict[str, Handler] = {}
        mistakes: list[str] = []
        cause: BaseException | None = None
        for route in self.routes:
            try:
                handlers[route.name] = self.stack(route)
            except OwnPartError as error:
                mistakes.append(f'route "{route.path}": {error}')
                cause = cause or error.__cause__
        if mistakes:
            raise ConfigError(mistakes) from cause
        return handlers

    def serve(self, route: Route) -> RouteEntry:
        """The entry of a route in the table."""
        onward, own_fields = onward_of(self.targets_of(route), self.forwarding)
        return RouteEntry(route, self.handlers[route.name], error_edit_of(route.response_headers),
                          self.request_edit(route) is not None, onward, own_fields)

    def request_edit(self, route: Route) -> Edit | None:
        """What the step ``headers`` does to a request: nothing where the target edits what it sends."""
        return None if route.upstream else edit_of(route.request_headers)

    def edit_of(self, request: Request) -> Callable[[Headers], Headers] | None:
        """The edit for an error's fields by the rules of the request's route; None without a route."""
        try:
            return self.table.match(request)[0].edit
        except GatewayError:
            return None

    def stack(self, route: Route) -> Handler:
        """The target of one route with the steps around it."""
        handler = self.targets[route.kind](route)
        for wrap in reversed([*self.wraps(route)]):
            handler = wrap(handler)
        return handler

    def wraps(self, route: Route) -> Iterator[Wrap]:
        """The steps that a route asks for, outermost first: each as a function from the handler inside it to the step."""
        limit = self.config.gateway.max_body if route.max_body is None else route.max_body
        if limit is not None:
            yield partial(BodyLimit, limit=limit)
        request_edit = self.request_edit(route)
        response_edit = edit_of(route.response_headers)
        if request_edit or response_edit:
            yield partial(EditHeaders, request=request_edit, response=response_edit)
        for settings in route.steps:
            yield partial(OwnStep, settings=settings)
        if route.websocket:
            yield partial(WebSocket, idle_timeout=route.websocket_idle_timeout)
        if self.caching:
            yield partial(self.cache, route=route)

    def files(self, route: Any) -> Files:
        self.assets.append(Files(route.path, route.files))
        return self.assets[-1]

    def forward(self, route: Any) -> Forward:
        name = route.upstream
        upstream = self.upstreams[name]
        publish = None
        if route.rewrite_location or route.rewrite_cookies:
            own = [instance.authority for instance in upstream.instances]
            if upstream.settings.host not in ("upstream", "preserve"):
                own.append(upstream.settings.host)
            publish = PublicAddresses(own, route.strip_prefix or "", route.rewrite_location, route.rewrite_cookies,
                                      tls=any(url.lower().startswith("https:") for url in upstream.settings.instances))
        return Forward(route, self.sends[name], upstream=name, host=upstream.settings.host, forwarding=self.forwarding,
                       path=Rewrite(route) if route.strip_prefix or route.rewrite else None,
                       edit=edit_of(route.request_headers), publish=publish, interim=self.config.gateway.interim)

    def aggregate(self, route: Any) -> Aggregate:
        hosts = {name: upstream.settings.host for name, upstream in self.upstreams.items()}
        return Aggregate(route.aggregate, self.send, self.forwarding, parameters(route.path), cacheable=route.cache is not None,
                         hosts=hosts)

    def cache(self, handler: Handler, route: Route) -> Handler:
        """The cache step, or invalidation for a route without a cache, whose unsafe methods may change what others store. Routes
        with conditions share addresses with others, hence ``scope``."""
        if route.cache is None:
            return Invalidate(handler, self.store)
        scope = route.name if route.header or route.query or route.cookie else ""
        return CacheStep(handler, policy_of(route.cache, innermost(handler)), self.store, counter=self.registry.counter,
                         route=route.name, scope=scope, name=self.config.gateway.via)

    def offload(self, handler: Handler) -> Handler:
        """AccelRedirect, when a route has its large bodies sent by nginx and there is a folder for them."""
        folder = next((tier for tier in self.store.tiers if isinstance(tier, FileTier)), None)
        if folder is None or not any(route.cache and route.cache.offload for route in self.routes):
            return handler
        return AccelRedirect(handler, folder.file_of)

    def send(self, upstream: str, call: Call) -> Response:
        """One exchange with an upstream by its name."""
        return self.upstreams[upstream].send(call)

    def describe(self, route: Route, *, parts: bool = True) -> list[str]:
        """One line for each handler that a request of ``route`` meets, outermost first: steps, branches, targets, and their
        ``parts``."""
        return [*describe_handler(self.handle, parts), *describe_handler(self.handlers[route.name], parts)]

    def steps(self, route: Route) -> list[Handler]:
        """The handlers that a request of ``route`` may meet, outermost first, one branch after the other."""
        return [*layers(self.handle), *layers(self.handlers[route.name])]

    def targets_of(self, route: Route) -> list[Handler]:
        """The targets of ``route``: several where a step has branches."""
        return [*innermost(self.handlers[route.name])]

    def start(self) -> None:
        """Called in each worker, after the fork."""
        self.store.start()

    def close(self) -> None:
        self.store.stop()
        for upstream in self.upstreams.values():
            upstream.close()

    def __repr__(self) -> str:
        return f"Pipeline({len(self.routes)} routes, {len(self.upstreams)} upstreams)"


def inner(handler: Handler) -> dict[str, Handler]:
    """The handlers inside one, by the name of the branch: none of a target, ``next`` under an empty name of a step, the
    ``branches`` of a step that chooses."""
    branches: dict[str, Handler] = getattr(handler, "branches", {})
    next = getattr(handler, "next", None)
    return branches or ({"": next} if next is not None else {})


def layers(handler: Handler) -> Iterator[Handler]:
    """A handler and all inside it, outermost first, one branch after the other."""
    yield handler
    for inside in inner(handler).values():
        yield from layers(inside)


def innermost(handler: Handler) -> Iterator[Handler]:
    """The targets inside a handler, itself if it is one."""
    return (each for each in layers(handler) if not inner(each))


def onward_of(targets: Iterable[Handler], forwarding: Forwarding) -> tuple[Callable[[Request], Headers], frozenset[str]]:
    """``onward`` and ``own_fields`` of a RouteEntry. Which of several targets answers is not known when a key is made: then the
    fields are those of all of them, so that a key tells apart whatever one of them may see."""
    fields = [(getattr(target, "onward", forwarding), getattr(target, "own_fields", GATEWAY_FIELDS)) for target in targets]
    if len(fields) == 1:
        return fields[0]

    def onward(request: Request) -> Headers:
        return [field for fields_of, own in fields for headers, is_own in ((fields_of(request), True), (request.headers, False))
                for field in headers if (field[0].lower() in own) is is_own]

    return onward, frozenset().union(*(own for _, own in fields))


def describe_handler(handler: Handler, parts: bool = True) -> Iterator[str]:
    """One line for a handler and each inside it, branches indented below their names. With ``parts``, a target's ``describe()``
    lines too."""
    yield repr(handler)
    if parts and hasattr(handler, "describe"):
        yield from (f"  {part}" for part in handler.describe())
    for name, inside in inner(handler).items():
        if name:
            yield f"  {name}:"
        yield from (f"    {line}" if name else line for line in describe_handler(inside, parts))
