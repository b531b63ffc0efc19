"""Mistakes that no single setting shows. All is computed from the settings, but for a look at the files that they name.

A check is a function that yields a sentence for each mistake, beginning with the setting it is about; ``load.py`` puts
the route or the upstream in front. A route whose settings are partly unreadable is checked for the rest, so ``settings`` says what
stands in the file, whatever became of it. The parts of a composition are checked in ``part_checks.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator

import orjson

from ..config import TARGETS, CacheSettings, CacheStorage, Config, GatewaySettings, Route, UpstreamSettings
from ..http.grammar import DOT_SEGMENT
from ..routing.notation import perhaps
from ..routing.pattern import parameters, parse_path, takes
from ..values import did_you_mean, duration_text, is_address, parse_instance, quote
from .mistakes import unknown_upstream
from .part_checks import check_parts

ONLY_WITH_UPSTREAM = ("strip_prefix", "rewrite", "rewrite_location", "rewrite_cookies", "websocket")
UPSTREAM_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?")
HOLE = re.compile(r"\{([^{}]*)\}")
BAD_IN_PATH = re.compile(r"[\x00-\x20?#\x7f]|%(?![0-9A-Fa-f]{2})")
WITHOUT_BODY = (204, 205, 304)
NO_FILES = ("stdout", "stderr", "off")


def check_gateway(gateway: GatewaySettings) -> Iterator[str]:
    for position, module in enumerate(gateway.views):
        if module in gateway.views[:position]:
            yield f"views[{position}]: {quote(module)} stands twice"
    if gateway.log not in NO_FILES and (mistake := _writable(gateway.log)):
        yield f"log: {mistake}"


def check_storage(cache: CacheStorage, routes: Collection[Route] = ()) -> Iterator[str]:
    if cache.file is None:
        yield from (f'file: is needed, the route "{route.name}" has cache.offload' for route in routes
                    if route.cache is not None and route.cache.offload)
    if cache.file is not None:
        there = os.path.abspath(cache.file)
        while not os.path.lexists(there):                # it is made, with what is missing above it
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            yield f"file: {quote(there)} is not a folder"
        elif not os.access(there, os.W_OK | os.X_OK):
            yield f"file: the folder {quote(there)} cannot be written to"


def _writable(path: str) -> str:
    """Why a file cannot be opened for appending; empty when it can."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        return f"{quote(path)} is a folder"
    if os.path.exists(path):
        return "" if os.access(path, os.W_OK) else f"the file {quote(path)} cannot be written to"
    if not os.path.isdir(folder):
        return f"there is no folder {quote(folder)}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"the folder {quote(folder)} cannot be written to"


def check_upstream(name: str, upstream: UpstreamSettings | None) -> Iterator[str]:
    if not UPSTREAM_NAME.fullmatch(name):
        yield ("the name of an upstream is a host name in lower case, so that http://<name>/ works: letters, digits,"
               ' "-", "_" and "." only')
    if upstream is None:
        return
    first_places: dict[object, int] = {}
    for position, url in enumerate(upstream.instances):
        address = parse_instance(url)
        first = first_places.setdefault(address._replace(host=address.host.lower()), position)
        if first != position:
            yield f"instances[{position}]: {quote(url)} is the same as instances[{first}]"
    tls = upstream.tls
    for setting in ("ca", "certificate", "key"):
        file = getattr(tls, setting)
        if file is not None and not os.path.isfile(file):
            yield f"tls.{setting}: there is no file {quote(file)}"
        elif file is not None and not os.access(file, os.R_OK):
            yield f"tls.{setting}: the file {quote(file)} cannot be read"
    if tls.key and not tls.certificate:
        yield "tls.key: a key needs its certificate"


def check_route(route: Route, settings: Collection[str], upstreams: Collection[str], trusting: bool,
                parts: Collection[str] = ()) -> Iterator[str]:
    """``settings`` are the names of those that stand in the file, ``upstreams`` the names there are. ``trusting``: a proxy may say
    for which host a request is, whatever its own Host. ``parts`` are those of the composition, also the unreadable ones."""
    yield from _target(route, settings, parts)
    if route.upstream is not None and route.upstream not in upstreams:
        yield f"upstream: {unknown_upstream(route.upstream, upstreams)}"
    if not trusting:
        yield from _host(route)
    if "upstream" not in settings:
        for setting in ONLY_WITH_UPSTREAM:
            if getattr(route, setting):
                yield f"{setting}: works only with upstream"
    if route.websocket and route.methods is not None and "GET" not in route.methods:
        yield "websocket: an upgrade is a GET request, which methods leaves out"
    if "websocket_idle_timeout" in settings and "websocket" not in settings:
        yield "websocket_idle_timeout: has no effect without websocket = true"
    for side in ("set", "add"):
        for name in getattr(route.request_headers, side):
            if name.lower() == "host":
                yield f"request_headers.{side}.{name}: the setting host of the upstream decides about Host"
    if route.cache is not None:
        yield from _cache(route, route.cache)
    if route.respond is not None:
        yield from _respond(route)
    if route.files is not None:
        if not route.path.endswith("/*") or "{" in route.path:
            yield f'files: the path of a route with files ends with "/*" and has no parameter, {quote(route.path)} is not so'
        if not os.path.isdir(route.files):
            yield f"files: there is no folder {quote(route.files)}"
    names = parameters(route.path)
    if names is not None:
        yield from _rewriting(route, names)
    if route.aggregate and route.methods is None and "methods" not in settings:
        yield 'methods: is needed where a part does more than GET, or reads the body: say what it answers, like ["POST"]'
    if route.aggregate is not None:
        yield from check_parts(route.aggregate, names, upstreams, parts)


def _host(route: Route) -> Iterator[str]:
    pattern = next((value for name, value in route.header.items() if name.lower() == "host"), "*")
    try:
        possible = pattern == "*" or route.host is None or takes(route.host, pattern)
    except ValueError:                                   # a host that cannot be, which is reported elsewhere
        return
    if not possible:
        yield f"header.Host: host is {quote(route.host)}, which {quote(pattern)} is not, so nothing can match"


def _cache(route: Route, cache: CacheSettings) -> Iterator[str]:
    if cache.respect == "policy" and cache.ttl is None:
        yield 'cache.respect: "policy" needs a ttl: it is the only freshness there is then'
    if "GET" not in cache.methods:
        yield "cache.methods: GET must be among them"
    if route.methods is not None and "GET" not in route.methods and "POST" not in cache.methods:
        yield "cache: has no effect, methods leaves out GET"
    if cache.key.query is not None and cache.key.ignore_query:
        yield "cache.key.ignore_query: has no effect, query says which parameters count"
    keeping = {"vary_by_caller": cache.vary_by_caller, "key.headers": cache.key.headers, "key.cookies": cache.key.cookies,
               "header": route.header, "cookie": route.cookie}
    apart = [name for name, value in keeping.items() if value]
    if cache.offload and cache.vary_by_caller:
        yield "cache.offload: what belongs to one caller is not handed to nginx; vary_by_caller cannot be there too"
    if cache.offload and cache.edge is not None:
        yield "cache.offload: what nginx keeps by itself (edge) is not handed to it"
    if cache.edge is not None and cache.edge < 1:
        yield (f'cache.edge: nginx counts in whole seconds and would keep nothing for "{duration_text(cache.edge)}": write "1s" or'
               ' more, or leave it out')
    rules = route.response_headers
    names = {name.lower() for name in (*rules.set, *rules.add, *rules.remove)}
    if cache.edge is not None and (both := sorted(names & {"cache-control", "x-accel-expires"})):
        yield ("cache.edge: nginx goes by what the cache says of each answer; response_headers must not change"
               f" {' and '.join(both)}: let the upstream say it, or leave edge out")
    if cache.edge is not None and apart:
        yield f"cache.edge: nginx knows the address alone; it must not keep what {' and '.join(apart)} keep apart"


def _target(route: Route, settings: Collection[str], parts: Collection[str]) -> Iterator[str]:
    targets = [name for name in TARGETS if name in settings and (name != "view" or route.view)]
    if not targets:
        yield f"a route needs a target: one of {', '.join(TARGETS)}"
    elif len(targets) > 1:
        yield f"a route has one target, this one has {len(targets)}: {', '.join(targets)}"
    if route.aggregate == {} and not parts:
        yield "aggregate: has no parts"


def _respond(route: Route) -> Iterator[str]:
    answer = route.respond
    assert answer is not None
    has_json = "json_" in answer.model_fields_set
    if has_json and answer.text is not None:
        yield "respond: has text and json; an answer has one body"
    if answer.status in WITHOUT_BODY and (has_json or answer.text):
        yield f"respond: an answer with status {answer.status} has no body"
    try:
        orjson.dumps(answer.json_)
    except TypeError as error:
        yield f"respond.json: cannot be written as JSON: {error}"
    if route.max_body is not None:
        yield "max_body: has no effect, respond reads no body"


def _rewriting(route: Route, names: Collection[str]) -> Iterator[str]:
    if route.strip_prefix is not None and route.rewrite is not None:
        yield "rewrite: already makes the whole path; strip_prefix cannot be there too"
    if route.strip_prefix is not None:
        yield from (f"strip_prefix: {mistake}" for mistake in _prefix(route.strip_prefix, route.path))
    if route.rewrite is not None:
        yield from (f"rewrite: {mistake}" for mistake in _template_path(route.rewrite, names))


def _prefix(prefix: str, path: str) -> Iterator[str]:
    if not prefix.startswith("/") or not prefix.rstrip("/"):
        yield f'{quote(prefix)} is not a prefix: write the first segments of the path, like "/api"'
        return
    try:
        segments = parse_path(prefix.rstrip("/"))
    except ValueError as error:
        yield str(error)
        return
    if any(segment.kind != "text" for segment in segments):
        yield f"{quote(prefix)} has a parameter; only text is stripped, rewrite can do more"
    elif parse_path(path)[:len(segments)] != segments:
        yield f"{quote(prefix)} is not the beginning of the path {quote(path)}"


def _template_path(template: str, names: Collection[str]) -> Iterator[str]:
    bare = HOLE.sub("x", template)
    if not template.startswith("/"):
        yield f'{quote(template)} must start with "/"'
    if "{" in bare or "}" in bare:
        yield f"a brace of {quote(template)} has no partner; a brace itself is written %7B or %7D"
    if BAD_IN_PATH.search(bare):
        yield f"{quote(template)} is not a path: other characters are written percent-encoded, and the query goes on by itself"
    if DOT_SEGMENT.search(bare):
        yield f"{quote(template)} has dot segments"
    if "*" in bare:
        yield f"{quote(template)}: what /* matched has no name; write {{rest:path}} in path and {{rest}} here"
    for hole in HOLE.findall(template):
        if hole not in names:
            yield unknown_parameter(hole, names)


def unknown_parameter(name: str, names: Collection[str]) -> str:
    hint = did_you_mean(name, names) or (f"; it has {', '.join(sorted(names))}" if names else "")
    return f"the path has no parameter {{{name}}}{hint}"


def notices(config: Config) -> list[str]:
    """Remarks about a configuration without mistakes."""
    gateway, notes = config.gateway, []
    if not any(route.path == "/*" and route.host is None and route.methods is None
               and not (route.header or route.query or route.cookie) for route in config.routes):
        notes.append('no route takes everything (path = "/*"): what no route matches is answered 404')
    notes += [f'route "{route.name}": <...> is taken as text; did you mean {guess}?' for route in config.routes
              if (guess := perhaps(route.path)) != route.path]
    if gateway.admin is None:
        notes.append("gateway.admin is not set: there is no listener for health, readiness and metrics")
    if not gateway.trust:
        notes.append("gateway.trust is empty: X-Forwarded-* is believed from nobody, also not from an nginx in front")
    uses = {route.upstream for route in config.routes} | {
        part.from_.partition(":")[0] for route in config.routes for part in (route.aggregate or {}).values()}
    for name, upstream in config.upstreams.items():
        if name not in uses and not gateway.views:
            notes.append(f'upstream "{name}": no route uses it')
        if not upstream.tls.verify:
            notes.append(f'upstream "{name}": certificates are not verified (tls.verify = false)')
        if upstream.tls.model_fields_set and not any(url.lower().startswith("https:") for url in upstream.instances):
            notes.append(f'upstream "{name}": tls has no effect, no instance is https://')
        if "host" not in upstream.model_fields_set and (instance := named_by_host(upstream)):
            notes.append(f'upstream "{name}": {quote(instance)} is sent the Host that the client asked for; a service with a'
                         ' name of its own, like an API of somebody else, needs host = "upstream"; write host = "preserve" if not')
        if upstream.host == "upstream" and name in catching_all(config):
            notes.append(f'upstream "{name}": host = "upstream" behind path = "/*": an application that is not told its public name'
                         ' may refuse forms (CSRF) and redirect to its own address; host = "preserve" tells it (docs/legacy.md)')
        if upstream.timeout is not None and upstream.timeout > longest(config):
            notes.append(f'upstream "{name}": timeout is longer than the deadline of any request')
    if config.upstreams:
        notes.append("max_connections, connection pools and balancing count in each worker process for itself")
    cache = config.cache
    if not (cache.redis or cache.memcached or cache.file):
        if gateway.views:
            notes.append("the cache for views (from gateway import cache) is kept by each worker process for itself")
        if any(route.cache for route in config.routes):
            notes.append("stored answers are kept by each worker process for itself: cache.redis, cache.memcached and cache.file"
                         " are not set")
    elif not cache.redis and cache.memcached and any(route.cache for route in config.routes):
        notes.append("cache.memcached carries no purges to other machines, and none over a restart; cache.redis does")
    return notes


def named_by_host(upstream: UpstreamSettings) -> str | None:
    """An https instance with a host name: its server may select the site by Host, which must then be that name."""
    return next((url for url in upstream.instances if (address := parse_instance(url)).scheme == "https"
                 and not is_address(address.host)), None)


def catching_all(config: Config) -> set[str]:
    """The upstreams of routes that match every path."""
    return {route.upstream for route in config.routes if route.upstream and route.path == "/*"}


def longest(config: Config) -> float:
    """Seconds of the longest deadline a request can have."""
    return max([config.gateway.timeout, *(route.timeout for route in config.routes if route.timeout is not None)])
