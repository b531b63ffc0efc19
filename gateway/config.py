"""Every setting of the gateway, as frozen models. What each means is in its description, which ``gateway schema`` publishes.

What a single value may be is in ``values.py``, what settings must be to each other in ``configfile/checks.py``; reading the file,
the environment and the reporting of mistakes are in ``configfile/load.py``. Durations are seconds, sizes bytes, once parsed. """

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .values import (Address, Duration, FieldConditions, FieldName, Fields, FieldTemplates, Flag, Hosts, InstanceUrl, Loopback,
                     MediaType, Method, Module, Network, NginxFolder, NginxWord, NonEmpty, OwnField, RedisUrl, Reference, Secret,
                     Size, Token, UpstreamHost, Whole, parse_duration, parse_instance, parse_size)

__all__ = ["Address", "CacheSettings", "CacheKey", "CacheStorage", "Config", "GatewaySettings", "HeaderRules", "Model", "Nginx",
           "Part", "RespondSettings", "Route", "StepSettings", "TARGETS", "Tls", "UpstreamSettings", "parse_duration",
           "parse_instance", "parse_size"]

BODY_HOLE = re.compile(r"(?<!\{)(?:\{\{)*\{body\.")      # {body.x} of a template, and not {{body.x}}


class Model(BaseModel):
    """Frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewaySettings(Model):
    views: tuple[Module, ...] = Field(default=(), description="Modules with Flask blueprints.")
    trust: tuple[Network, ...] = Field(
        default=(), description="Networks of the proxies whose X-Forwarded-* and X-Request-Id are believed; unix for unix sockets.")
    timeout: Duration = Field(
        default=parse_duration("10s"), description="The deadline of a request, unless its route says otherwise.")
    head_timeout: Duration = Field(
        default=parse_duration("10s"), description="How long the head of a request may take, from its first byte on.")
    body_timeout: Duration = Field(
        default=parse_duration("30s"), description="The longest silence of a client while its body is read. 240 bytes a second, on"
                                                   " average, are asked for once a sixth of this was spent waiting.")
    send_timeout: Duration = Field(
        default=parse_duration("60s"), description="How long a client may take nothing of its answer before it is cut.")
    max_body: Size | None = Field(default=None, description="The largest request body accepted, unless the route says otherwise.")
    admin: Loopback | None = Field(
        default=None, description="host:port of the admin listener; only loopback. Unset: no admin listener.")
    log: NonEmpty = Field(default="stdout", description='Where the request log goes: "stdout", "stderr", "off" or a file.')
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What application code logs (logging) is written to stderr from this level on, unless it sets"
                                    " logging up itself.")
    secret_key: Secret | None = Field(
        default=None, description='Flask\'s SECRET_KEY, which signs the sessions of views: "${SECRET_KEY}". Never shown.')
    via: Token = Field(default="wicketgate", description="The name of this gateway in Via.")
    literal_paths: Flag = Field(
        default=False, description="Choose the route by the path as it came alone, whatever a server behind may read it as (dot"
                                   " segments, //, an encoded slash, a backslash, ;).")
    interim: Literal["browsers", "all", "off"] = Field(
        default="browsers", description="Who hears interim answers (102, 103): browsers that load a page, all clients that are no"
                                        " proxies, or nobody.")


class Tls(Model):
    verify: Flag = Field(default=True, description="Check the upstream's certificate and name.")
    ca: NonEmpty | None = Field(default=None, description="File with the certificates to trust; unset: the system's.")
    server_name: NonEmpty | None = Field(
        default=None, description="The name to ask for (SNI) and to check; unset: the instance's host.")
    certificate: NonEmpty | None = Field(default=None, description="File with our certificate, for an upstream that asks for one.")
    key: NonEmpty | None = Field(default=None, description="File with its key; unset: in the certificate's file.")


class UpstreamSettings(Model):
    instances: tuple[InstanceUrl, ...] = Field(
        min_length=1, description="URLs: http://host:port, https://host, or unix:/path/to.sock.")
    balance: Literal["round-robin", "least-requests"] = Field(default="round-robin", description="How the next instance is chosen.")
    host: UpstreamHost = Field(
        default="preserve", description='The Host sent: "preserve" (the client\'s), "upstream" (the instance\'s), or a name.')
    connect_timeout: Duration = Field(default=parse_duration("1s"), description="TCP connect and TLS handshake, for each address.")
    read_timeout: Duration = Field(
        default=parse_duration("30s"), description="The longest silence while a streamed body goes either way.")
    timeout: Duration | None = Field(
        default=None, description="One attempt until the answer's head; unset: the request's deadline.")
    max_connections: Whole = Field(default=1000, ge=1, description="Connections to one instance, for each worker.")
    pool_timeout: Duration = Field(default=parse_duration("1s"), description="The longest wait for a free connection.")
    idle_timeout: Duration = Field(
        default=parse_duration("50s"), description="How long an unused connection is kept; less than the upstream keeps it.")
    max_connection_age: Duration = Field(
        default=parse_duration("10m"), description="How long a connection is used at most, however busy it is.")
    dns_ttl: Duration = Field(
        default=parse_duration("30s"), description="How long a resolved address is used, and connections to one that is no more.")
    tls: Tls = Field(default=Tls(), description="For instances that are https://.")


class HeaderRules(Model):
    add: Fields = Field(default={}, description="Fields added beside those of the same name.")
    set: Fields = Field(default={}, description="Fields that replace those of the same name.")
    remove: tuple[OwnField, ...] = Field(default=(), description="Names of fields removed.")


class RespondSettings(Model):
    status: Whole = Field(default=200, ge=200, le=599, description="The status of the answer.")
    headers: Fields = Field(default={}, description="Header fields of the answer.")
    text: str | None = Field(default=None, description="The body, sent as UTF-8.")
    json_: Any = Field(default=None, alias="json", description="Any value, sent as JSON.")


class CacheKey(Model):
    query: tuple[NonEmpty, ...] | None = Field(
        default=None, description='The query parameters that count; "page*" is all that begin so. Unset: every one.')
    ignore_query: tuple[NonEmpty, ...] = Field(default=(), description='Query parameters that do not count, like "utm_*".')
    sort_query: Flag = Field(default=False, description="The order of the query parameters does not count.")
    headers: tuple[FieldName, ...] = Field(default=(), description="Header fields of the request that count.")
    cookies: tuple[NonEmpty, ...] | None = Field(
        default=None, description="The cookies that count, and no others do. Unset: an answer to a request with a cookie is kept"
                                  " only when it says that it is for everybody (public, s-maxage), or varies by Cookie.")


class CacheSettings(Model):
    """A route's cache (RFC 9111). Its settings take precedence over the answers' own header fields."""

    ttl: Duration | None = Field(default=None, description="How long an answer is fresh that does not say so itself; see respect.")
    negative_ttl: Duration | None = Field(default=None, description="The same for 404, 405, 410, 414 and 501.")
    stale_while_revalidate: Duration | None = Field(
        default=None, description="How long an expired answer is still served while it is refreshed; unset: as the answer says.")
    stale_if_error: Duration | None = Field(
        default=None, description="How long an expired answer is served instead of an error; unset: as the answer says.")
    respect: Literal["headers", "policy", "stricter"] = Field(
        default="headers", description='Which freshness counts: "headers" (ttl for answers without), "policy" (ttl alone; what the'
                                       ' answer says about caching is ignored), "stricter" (both hold).')
    key: CacheKey = Field(default=CacheKey(), description="What of a request selects an answer, beside its address.")
    vary_by_caller: Flag = Field(
        default=False, description="Each authenticated caller has answers of its own; then private ones may be kept too.")
    methods: tuple[Literal["GET", "HEAD", "POST"], ...] = Field(
        default=("GET", "HEAD"), description="Methods that are served from the cache; POST by its body.")
    min_uses: Whole = Field(default=1, ge=1, description="Kept from this many requests for the same on.")
    max_object: Size = Field(default=1024 ** 2, description="The largest body kept.")
    fetch_whole: Flag = Field(
        default=False, description="A request for a range of what is not kept fetches the whole, once for all, up to max_object;"
                                   " unset: the range is passed on, and nothing is kept.")
    tags: tuple[NonEmpty, ...] = Field(default=(), description="Tags for purging, beside those in Surrogate-Key and Cache-Tag.")
    share_cookies: Flag = Field(default=False, description="Keep answers with Set-Cookie, and give the cookie to everybody.")
    client_directives: Flag = Field(
        default=True, description="Heed what clients say in Cache-Control and Pragma: no-cache, max-age, only-if-cached and so on.")
    early_refresh: Flag = Field(
        default=False, description="Refresh a little before the end, the earlier the longer it takes, at random.")
    edge: Duration | None = Field(
        default=None, description="How long nginx in front may keep an answer (X-Accel-Expires); unset: nothing is said to it.")
    offload: Flag = Field(default=False, description="Let nginx in front send large stored bodies, from the folder cache.file.")
    explain: Flag = Field(default=False, description="Say in Cache-Status under which key, and why an answer was not stored.")


class Part(Model):
    """One call of a composition. ``"upstream:/path"`` is short for ``{ from = "upstream:/path" }``."""

    from_: str = Field(alias="from", description="upstream:/path?query, with {name} from the path, {query.name}, {header.name},"
                                                 " {cookie.name} or another part's answer: {part.field.field}.")
    method: Method = Field(default="GET", description="The method of the call.")
    headers: FieldTemplates = Field(default={}, description="Fields sent, templates as in from.")
    forward_headers: tuple[OwnField, ...] = Field(default=("Authorization", "Cookie", "Accept-Language"),
                                                  description="The client's fields passed on to this part.")
    json_types: tuple[MediaType, ...] = Field(
        default=(), description="Media types of the answer read as JSON besides application/json, text/json and +json.")
    json_: Any = Field(default=None, alias="json", description="A body to send as JSON; strings in it are templates.")
    timeout: Duration | None = Field(default=None, description="The longest this call may take; unset: the request's deadline.")
    pick: tuple[str, ...] | None = Field(default=None, description="Only these fields of the answer (of each item of a list).")
    drop: tuple[str, ...] = Field(default=(), description="All but these fields.")
    rename: dict[str, str] = Field(default={}, description="Old name to new name.")
    merge: Flag = Field(default=False, description="Put the fields at the root instead of under the part's name.")
    optional: Flag = Field(default=False, description="A failure gives default and is named in the answer's X-Partial header.")
    default: Any = Field(default=None, description="What stands for the answer of an optional part that failed.")

    @property
    def only_reads(self) -> bool:
        """Is it a GET that uses nothing of the client's body?"""
        texts = [self.from_, *self.headers.values(), json.dumps(self.json_, default=str)]
        return self.method == "GET" and not any(map(BODY_HOLE.search, texts))

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, str) else value


class StepSettings(Model):
    """A step of the user's own. ``"module:name"`` is short for ``{ use = "module:name" }``; other keys of the table are its
    settings, passed as keyword arguments."""

    model_config = ConfigDict(extra="allow")

    use: Reference = Field(description="The class or function that makes the step, as module:name.")

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value


class TargetKind(NamedTuple):
    """``name_of(setting)`` is how lists call it. ``reads_path``: the answer depends on how whoever gives it reads the path;
    ``splits_path``: it takes the path apart by its slashes."""

    name_of: Callable[[Any], str] = str
    reads_path: bool = True
    splits_path: bool = False


# What can answer a route, by the setting that says so. Pipeline.targets has a row for each.
TARGETS = {
    "upstream": TargetKind(),
    "aggregate": TargetKind(", ".join),
    "view": TargetKind(lambda _: ""),
    "respond": TargetKind(lambda settings: str(settings.status), reads_path=False),
    "files": TargetKind(splits_path=True),
    "handler": TargetKind(),
}


class Route(Model):
    path: str = Field(description="/exact, /{name}, /{name:int}, /{name}.json, /{rest:path} or /*.")
    host: str | None = Field(default=None, description="shop.example.org or *.example.org.")
    methods: tuple[Method, ...] | None = Field(
        default=None, description="Unset: every method; GET for a composition, which needs them when it does more than read.")
    header: FieldConditions = Field(default={}, description='Fields the request must carry; "*" is any value.')
    query: dict[str, str] = Field(default={}, description='Query parameters it must carry; "*" is any value.')
    cookie: dict[str, str] = Field(default={}, description='Cookies it must carry; "*" is any value.')

    upstream: str | None = Field(default=None, description="The upstream that answers.")
    aggregate: dict[str, Part] | None = Field(default=None, description="Calls whose answers are composed into one, by name.")
    view: Flag = Field(default=False, description="A Flask view answers.")
    respond: RespondSettings | None = Field(default=None, description="The answer itself.")

    files: NonEmpty | None = Field(default=None, description="The folder whose files answer; static_url() gives their addresses.")
    handler: Reference | None = Field(default=None, description="A function of your own that answers, as module:name.")
    steps: tuple[StepSettings, ...] = Field(default=(), description="Steps of your own, outermost first, as module:name.")

    timeout: Duration | None = Field(default=None, description="The deadline of a request; unset: the gateway's.")
    max_body: Size | None = Field(default=None, description="The largest request body; unset: the gateway's.")
    strip_prefix: str | None = Field(default=None, description="Taken off the path before it is sent to the upstream.")
    rewrite: str | None = Field(default=None, description="The path sent to the upstream, with {name} from the path.")
    request_headers: HeaderRules = Field(default=HeaderRules(), description="Changes to the header fields of the request.")
    response_headers: HeaderRules = Field(default=HeaderRules(), description="Changes to the header fields of the answer.")
    rewrite_location: Flag = Field(
        default=False, description="Make Location, Content-Location and Refresh of the upstream public addresses.")
    rewrite_cookies: Flag = Field(default=False, description="Make Domain and Path of the upstream's cookies public ones.")
    websocket: Flag = Field(default=False, description="Pass WebSocket upgrades through.")
    websocket_idle_timeout: Duration = Field(
        default=parse_duration("5m"), description="The longest silence on a WebSocket, in both directions.")
    cache: CacheSettings | None = Field(
        default=None, description="Keep answers and serve them again; {} goes by their headers alone.")

    @model_validator(mode="after")
    def _reading_is_a_get(self) -> Route:
        """A composition whose parts only read is for GET; any other has to state its methods."""
        if self.methods is None and self.aggregate and all(part.only_reads for part in self.aggregate.values()):
            self.__dict__["methods"] = ("GET",)              # frozen from here on
        return self

    @property
    def kind(self) -> str:
        """The kind of its target, one of TARGETS."""
        return next((kind for kind in TARGETS if getattr(self, kind)), "view")

    @property
    def target(self) -> str:
        """Its target, by name: ``upstream legacy``, ``aggregate user, team``, ``respond 410``, ``view``."""
        return f"{self.kind} {TARGETS[self.kind].name_of(getattr(self, self.kind))}".rstrip()

    @property
    def reads_path(self) -> bool:
        """Is there a server or a function behind it that may read a path otherwise than the gateway?"""
        return TARGETS[self.kind].reads_path

    @property
    def splits_path(self) -> bool:
        """Is the path taken apart by its slashes?"""
        return bool(self.strip_prefix or self.rewrite) or TARGETS[self.kind].splits_path

    @property
    def name(self) -> str:
        """Its name in reports, logs and metrics: ``GET,POST shop.test/users/{id}``."""
        methods = ",".join(self.methods) + " " if self.methods else ""
        conditions = "".join(f" [{kind} {key}={value}]" for kind in ("header", "query", "cookie")
                             for key, value in getattr(self, kind).items())
        return f"{methods}{self.host or ''}{self.path}{conditions}"


class CacheStorage(Model):
    memory: Size = Field(default=parse_size("64MB"), description="Bytes of stored answers that each worker keeps in its memory.")
    redis: RedisUrl | None = Field(
        default=None, description="Redis behind it, for all workers and machines: redis://host:port/db, rediss://, unix:///path,"
                                  " redis+sentinel://host:port,host:port/name/db or redis+cluster://host:port,host:port.")
    memcached: Hosts | None = Field(default=None, description="Memcached behind it: host:port, several with commas.")
    file: NonEmpty | None = Field(default=None, description="A folder for stored answers, for the workers of this machine.")
    file_size: Size = Field(default=parse_size("1GB"), description="Bytes of stored answers in that folder.")
    prefix: Token = Field(default="wicketgate:", description="What the names of this gateway's keys in Redis begin with.")
    compress: Flag = Field(default=False, description="Compress bodies behind the memory of a worker.")
    timeout: Duration = Field(
        default=parse_duration("50ms"), description="The longest a request waits for what is behind memory, all together; and one"
                                                    " look into Redis or Memcached may take: then it is paused.")


class Nginx(Model):
    listen: NginxWord = Field(default="127.0.0.1:8000", description="Where nginx listens.")
    server_names: tuple[NginxWord, ...] = Field(default=("_",), description="The names it answers to.")
    instances: tuple[NginxWord, ...] = Field(default=("127.0.0.1:8001", "127.0.0.1:8002"), description="The gateway's instances.")
    max_body: Size = Field(default=0, description="The largest request body; 0: no limit.")
    purges: NginxFolder | None = Field(
        default=None, description="A folder on the machine of nginx and the instances, through which purges reach what nginx keeps"
                                  " (edge); unset: they do not.")

    @property
    def generation(self) -> str | None:
        """The link in that folder which purges change."""
        return f"{self.purges.rstrip('/')}/current" if self.purges else None


class Config(Model):
    gateway: GatewaySettings = Field(default=GatewaySettings(), description="What holds for every request.")
    upstreams: dict[str, UpstreamSettings] = Field(default={}, description="The services behind the gateway, by name.")
    routes: tuple[Route, ...] = Field(default=(), description="What the gateway answers; the most specific route wins.")
    cache: CacheStorage = Field(default=CacheStorage(), description="Where stored answers are kept.")
    nginx: Nginx = Field(default=Nginx(), description="What gateway nginx writes.")
