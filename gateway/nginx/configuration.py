"""The nginx configuration in front of several instances of the gateway, rendered from the gateway's own configuration.

nginx terminates the client's connection, balances over the instances and hides the loss of one. The gateway stays the only place
that knows routes, so nginx changes nothing it passes on: neither path nor query nor Host nor a header of the application. The
template says why each directive is there; the numbers come from here:

- timeouts are longer than anything the gateway waits for, so that the gateway is who answers 504, with its own error code;
- a request moves to another instance only while that can do no harm (nginx itself holds back what is not idempotent), at most
  three times, and only within ``NEXT_WITHIN``: a refused connection is retried, a request that hangs for a minute is not;
- a connection is idle at nginx for less time than Gunicorn keeps it (75 s), or nginx would send requests into closing ones;
- answers are kept by nginx only on the paths of routes with ``cache.edge``, only while the gateway says so, and under a key with
  every header field that such an answer may depend on: those in its route's key, those its parts are sent, and those by which
  any route is chosen. A request with a cookie or credentials never meets what is kept, nor leaves anything there. What has
  expired is served while it is renewed for as long as the answer itself allows: nginx's own way of it knows no limit;
- with ``nginx.purges`` the generation that purges change (cache/purging/nginx_generation.py) is in the key, too. It is read once
  for each request; where nginx cannot read it, it keeps nothing;
- the gateway trusts nginx, so no field of a client's that passes for the word of a proxy goes through;
- large stored bodies of routes with ``cache.offload`` are sent by nginx from the gateway's folder. Only on the paths of those
  routes is X-Accel-Redirect obeyed, and there the gateway takes out what an application says in it;
- the gateway chooses the route, by every reading of a path (routing/spelling.py), and what a location here does besides timeouts
  is only for paths that have one reading: others take the plain way;
- a URL as request-target is taken as the gateway takes it, its authority for Host; TRACE and CONNECT are refused in its words;
- head limits are those of ``gunicorn.conf.py``: what passes here is accepted there.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..config import Config, Route
from ..errors import ConfigError
from ..http.fields import FORWARDED, PROXY_WORDS
from ..message import DEFAULT_METHODS
from ..routing.spelling import RESPELLING
from .accel_redirect import CARRIED_FIELDS, LOCATION, OFFLOAD_FIELD

MARGIN = 5              # seconds that nginx waits longer than the gateway
NEXT_WITHIN = 5         # seconds after which a request is not tried on another instance any more
KEEPALIVE = 60          # seconds nginx keeps an idle connection to an instance; Gunicorn keeps it 75
IDLE_CONNECTIONS = 64   # to all instances together, for each nginx worker
HEAD_BUFFER = 8192      # bytes of a request line or a header field with its line end: Gunicorn's 8190 and CRLF
EDGE_SIZE = "1g"        # of what nginx keeps
BODIES = "bodies"       # the folder of bodies in that of the file tier
PROBLEMS = (
    (405, "method_not_allowed", "This method is not allowed here."),     # of nginx itself: TRACE and CONNECT
    (413, "body_too_large", "The request body is larger than this server accepts."),
    (502, "gateway_unavailable", "No instance of the gateway answers."),
    (504, "gateway_timeout", "No instance of the gateway answered in time."))
HEADER_REFERENCE = re.compile(r"\{header\.([^\s:{}]+)")
NGINX_FIELD = re.compile(r"[A-Za-z0-9-]+")
SILENCED_FIELDS = tuple(name.title() for name in sorted(PROXY_WORDS - FORWARDED))  # the others have a line of their own
VARIABLE = re.compile(r"\{(\w+)(?::(\w+))?\}|\*")
ADDRESS = re.compile(r"unix:/[\w./-]+|(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]|\*):\d{1,5}|\d{1,5}")


def render(config: Config, *, instances: Sequence[str] | None = None, listen: str | None = None, standalone: bool = True,
           prefix: str = "") -> str:
    """The text of the configuration.

    ``instances`` and ``listen`` take the place of those in ``config.nginx``. ``standalone`` gives a whole ``nginx.conf``; without
    it, the part to include in an ``http`` block. ``prefix`` is the folder of a standalone nginx for its pid, logs and temporary
    files; empty, they are relative to the one that ``nginx -p`` names. Raises ConfigError when an address cannot be one.
    """
    settings = config.nginx
    addresses = tuple(settings.instances if instances is None else instances)
    address = settings.listen if listen is None else listen
    if mistakes := problems(addresses, address):
        raise ConfigError(mistakes)
    environment = Environment(loader=PackageLoader("gateway.nginx", ""), undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True, keep_trailing_newline=True)
    return environment.get_template("nginx.conf.j2").render(
        instances=addresses, listen=address, server_names=settings.server_names, max_body=settings.max_body,
        standalone=standalone, folder=f"{prefix.rstrip('/')}/" if prefix else "", tries=min(3, len(addresses)),
        timeout=longest_wait(config) + MARGIN, upgrades=upgrade_pattern(config.routes),
        upgrade_timeout=longest_silence(config.routes) + MARGIN, next_within=NEXT_WITHIN, keepalive=KEEPALIVE,
        idle_connections=IDLE_CONNECTIONS, head_buffer=HEAD_BUFFER, problems=PROBLEMS, edges=edges_of(config.routes),
        offloads=offloads_of(config.routes), bodies=bodies_of(config), offload_location=LOCATION, announced=OFFLOAD_FIELD,
        carried=CARRIED_FIELDS, silenced=SILENCED_FIELDS, edge_size=EDGE_SIZE, edge_unused=longest_edge(config.routes),
        generation=settings.generation or "", allow=", ".join(DEFAULT_METHODS), respelled=respelled_pattern())


def problems(instances: Sequence[str], listen: str) -> list[str]:
    """Addresses that nginx could not parse, or would parse as something else."""
    mistakes = [f'nginx.instances: "{each}" is neither host:port nor unix:/path'
                for each in instances if not ADDRESS.fullmatch(each)]
    if not instances:
        mistakes.append("nginx.instances: at least one is needed")
    if not ADDRESS.fullmatch(listen):
        mistakes.append(f'nginx.listen: "{listen}" is neither host:port nor unix:/path')
    return mistakes


def longest_wait(config: Config) -> int:
    """Whole seconds of the longest time the gateway may be silent: until a head, or between two pieces of a body."""
    deadlines = [config.gateway.timeout, *(route.timeout for route in config.routes if route.timeout is not None)]
    return math.ceil(max(*deadlines, 0.0, *(upstream.read_timeout for upstream in config.upstreams.values())))


def longest_silence(routes: Sequence[Route]) -> int:
    """Whole seconds of the longest silence a WebSocket is allowed; 0 without one."""
    return math.ceil(max((route.websocket_idle_timeout for route in routes if route.websocket), default=0))


def upgrade_pattern(routes: Sequence[Route]) -> str:
    """A quoted regular expression over nginx's decoded path of the routes with WebSockets; empty without one.

    Host and other conditions are left to the gateway: what is too wide here costs only a longer timeout.
    """
    patterns = sorted({path_pattern(route.path) for route in routes if route.websocket})
    if not patterns:
        return ""
    return quoted_pattern(patterns)


def respelled_pattern() -> str:
    """A quoted regular expression over the request-target as it came, for a path that has several readings: nginx has resolved its
    dot segments before it chooses a location, and would choose one that the gateway does not."""
    return '"~' + f"^[^?]*?(?:{RESPELLING.pattern})".replace("(?:[/;]|$)", "(?:[/;?]|$)").replace("\\", "\\\\") + '"'


def quoted_pattern(patterns: Sequence[str]) -> str:
    """One regular expression for all of these, as nginx reads it."""
    return '"' + f"^(?:{'|'.join(patterns)})$".replace("\\", "\\\\").replace('"', '\\"') + '"'


class Edge(NamedTuple):
    """The paths of one route on which nginx stores answers: their regular expression, its key, and the route's name."""

    pattern: str
    key: str
    names: str


def edges_of(routes: Sequence[Route]) -> list[Edge]:
    """One Edge for each path. Raises ConfigError where an answer depends on a field that nginx cannot read."""
    conditions = {name for route in routes for name in route.header}
    by_pattern: dict[str, tuple[set[str], list[str]]] = {}
    mistakes = []
    for route in routes:
        if route.cache is None or route.cache.edge is None or route.cache.vary_by_caller:
            continue
        fields = {name.lower() for name in conditions | fields_of(route)}
        mistakes += [f'route "{route.name}": cache.edge: nginx cannot look at the field "{name}", on which answers depend'
                     for name in sorted(fields) if not NGINX_FIELD.fullmatch(name)]
        on_path, names = by_pattern.setdefault(path_pattern(route.path), (set(), []))
        on_path |= fields - {"cookie", "authorization"}
        names.append(route.name)
    if mistakes:
        raise ConfigError(mistakes)
    return [Edge(quoted_pattern([pattern]), "$scheme://$wicketgate_host$request_uri" + "".join(
        f" $http_{name.replace('-', '_')}" for name in sorted(fields)), ", ".join(map(comment_text, names)))
        for pattern, (fields, names) in by_pattern.items()]


def offloads_of(routes: Sequence[Route]) -> str:
    """A quoted regular expression of the paths on which nginx sends large bodies for the gateway; empty without one."""
    patterns = sorted({path_pattern(route.path) for route in routes if route.cache and route.cache.offload})
    return quoted_pattern(patterns) if patterns else ""


def bodies_of(config: Config) -> str:
    """The quoted folder of those bodies, with a slash at its end."""
    folder = os.path.join(os.path.abspath(config.cache.file or ""), BODIES, "")
    return '"' + folder.replace("\\", "\\\\").replace('"', '\\"') + '"'


def fields_of(route: Route) -> set[str]:
    """The request's header fields on which an answer may depend without a Vary."""
    assert route.cache is not None
    fields = set(route.cache.key.headers)
    for part in (route.aggregate or {}).values():
        fields |= {*part.forward_headers}
        for text in (part.from_, *part.headers.values(), json.dumps(part.json_, ensure_ascii=False)):
            fields |= set(HEADER_REFERENCE.findall(text))
    return fields


def comment_text(name: str) -> str:
    """A route's name, safe in a comment."""
    return "".join(character if character.isprintable() else "?" for character in name)


def longest_edge(routes: Sequence[Route]) -> int:
    """Whole seconds after which nginx removes unused answers."""
    return math.ceil(max((route.cache.edge for route in routes if route.cache and route.cache.edge), default=0.0)) or 1


def path_pattern(path: str) -> str:
    """The regular expression of a route's path: ``/chat/{room}/*`` is ``/chat/[^/]+/.*``."""
    pattern, position = "", 0
    for match in VARIABLE.finditer(path):
        rest = match[0] == "*" or match[2] == "path"
        pattern += re.escape(unquote(path[position:match.start()])) + (".*" if rest else "[^/]+")
        position = match.end()
    return pattern + re.escape(unquote(path[position:]))
