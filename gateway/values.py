"""Parsers for the values of single settings: durations, sizes, instances, networks, header fields. Pure.

Each parser takes the text of the file and gives the value, or raises ValueError with a sentence that says what is wrong and
what to write instead. The types below them are what ``config.py`` is written with.

An instance is a place and nothing else::

    http://10.0.0.5:8000    https://orders.internal    http://[::1]:8080    unix:/run/orders.sock

Header names and methods are tokens (RFC 9110 section 5.6.2). Header values become one character per byte, as messages have
them: text outside ASCII is sent as UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface, ip_network
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, SecretStr, WithJsonSchema

from .http.grammar import TOKEN

DURATION = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
SIZE = re.compile(r"([0-9]+)(B|KB|MB|GB)?")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {None: 1, "B": 1, "KB": 1024, "MB": 1024 ** 2, "GB": 1024 ** 3}
WHOLE = re.compile(r"-?[0-9]{1,18}")
MEDIA_TYPE = re.compile(rf"{TOKEN.pattern}/{TOKEN.pattern}")
FIELD_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\U0010ffff](?:[\t\x20-\x7e\x80-\U0010ffff]*[\x21-\x7e\x80-\U0010ffff])?)?")
MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
URL = re.compile(r"(https?)://(.*)", re.IGNORECASE | re.DOTALL)
LOGIN = re.compile(r'://(?:[^"\\]|\\.)*@', re.DOTALL)
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\]|(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*)?)(?::([^:]*))?", re.DOTALL)
NGINX_WORD = re.compile(r"[^\s;{}\"'\\#$]+")
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
PORTS = {"http": 80, "https": 443}
FRAMING = frozenset({"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
                     "upgrade"})


def quote(value: Any) -> str:
    """A value as written in the file: ``"text"``, ``5``, ``true``. What precedes the @ of a URL may be a password, and is
    replaced."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        text = repr(value)
    return LOGIN.sub("://***@", text)


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """``, did you mean ttl?``, or nothing when no known name is near: no hint is better than a wrong one.

    Near is one slip of the fingers, two in a word of five characters and more, three in one of twelve.
    """
    slips = 1 if len(wrong) < 5 else 2 if len(wrong) < 12 else 3
    apart = {name: distance(wrong.lower(), name.lower()) for name in names}
    near = min(apart, key=apart.__getitem__, default="")
    return f", did you mean {near}?" if apart.get(near, len(wrong)) <= min(slips, len(wrong) - 1) else ""


def distance(left: str, right: str) -> int:
    """Characters to add, leave out, change or swap with their neighbour until one text is the other (optimal string alignment)."""
    before, row = [0] * (len(right) + 1), list(range(len(right) + 1))
    for i, one in enumerate(left):
        last, before, row = before, row, [i + 1] * (len(right) + 1)
        for j, other in enumerate(right):
            row[j + 1] = min(before[j + 1] + 1, row[j] + 1, before[j] + (one != other))
            if i and j and one == right[j - 1] and other == left[i - 1]:
                row[j + 1] = min(row[j + 1], last[j - 1] + 1)
    return row[-1]


def parse_duration(value: Any) -> float:
    """Seconds of ``"250ms"``, ``"30s"``, ``"5m"``, ``"1h"``, ``"1d"``; more than 0. Raises ValueError."""
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError(f'{quote(value)} is not a duration: write a number and its unit, like "250ms", "30s" or "5m"')
    seconds = float(match[1]) * SECONDS[match[2]]
    if seconds <= 0:
        raise ValueError(f"{quote(value)}: a duration must be more than 0")
    return seconds


def duration_text(seconds: float) -> str:
    """The shortest way to write a duration: ``"250ms"``, ``"30s"``, ``"5m"``."""
    for unit in ("d", "h", "m"):
        if seconds >= SECONDS[unit] and seconds % SECONDS[unit] == 0:
            return f"{seconds / SECONDS[unit]:.0f}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def parse_size(value: Any) -> int:
    """Bytes of ``"64MB"``, ``"10KB"``, ``"512"`` or a whole number. Raises ValueError."""
    match = SIZE.fullmatch(value.upper()) if isinstance(value, str) else None
    if match:
        return int(match[1]) * BYTES[match[2]]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f'{quote(value)} is not a size: write a number and its unit, like "10KB" or "64MB"')


def parse_flag(value: Any) -> bool:
    """``true`` and ``false``, also as text, which is what a variable of the environment is. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise ValueError(f"{quote(value)} is neither true nor false")
    return value == "true"


def parse_whole(value: Any) -> int:
    """A whole number, also as text. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not WHOLE.fullmatch(value):
        raise ValueError(f"{quote(value)} is not a whole number")
    return int(value)


class Address(NamedTuple):
    """``scheme`` is http or https; ``host`` has no brackets and is "localhost" for a unix socket, whose path is ``unix_path``."""

    scheme: str
    host: str
    port: int
    unix_path: str | None

    @property
    def authority(self) -> str:
        """What Host gets: brackets around IPv6 and no zone, no default port."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.unix_path is not None or self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse_instance(url: str) -> Address:
    """The parts of an instance's URL. Raises ValueError."""
    if url.startswith("unix:"):
        return _unix(url)
    if "@" in url:                                       # not repeated in the message: it may hold a password
        raise ValueError("the URL has a user name: send an Authorization header instead")
    match = URL.fullmatch(url)
    if not match:
        raise ValueError(f"{quote(url)} is not a URL: write http://host:port, https://host or unix:/path/to.sock")
    scheme, rest = match[1].lower(), match[2]
    for mark, part in (("#", "a fragment"), ("?", "a query")):
        if mark in rest:
            raise ValueError(f"{quote(url)} has {part}: an instance is only scheme, host and port")
    rest, _, path = rest.partition("/")
    if path:
        raise ValueError(f"{quote(url)} has a path: an instance is only scheme, host and port")
    host, port = parse_authority(rest, url)
    return Address(scheme, host, port or PORTS[scheme], None)


def parse_authority(text: str, whole: str = "") -> tuple[str, int | None]:
    """Host, without brackets, and port of ``host``, ``host:port``, ``[::1]:port``. Raises ValueError, naming ``whole``."""
    name = quote(whole or text)
    match = AUTHORITY.fullmatch(text)
    if not match:
        raise ValueError(f"{name}: {quote(text)} is not a host, or a host and a port (IPv6 goes in brackets)" if whole
                         else f"{name} is not a host, or a host and a port (IPv6 goes in brackets)")
    host, port = match[1].strip("[]").replace("%25", "%"), match[2]
    if not host:
        raise ValueError(f"{name} has no host")
    if match[1].startswith("[") and not is_address(host):
        raise ValueError(f"{name}: {quote(host)} is not an IPv6 address")
    if port is not None and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise ValueError(f"{name}: {quote(port)} is not a port between 1 and 65535")
    return host, int(port) if port is not None else None


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _unix(url: str) -> Address:
    path = url[len("unix:"):]
    if path.startswith("//"):
        path = path[2:]
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise ValueError(f"{quote(url)} needs the absolute path of a socket: unix:/path/to.sock")
    if len(path.encode()) > 107:
        raise ValueError(f"{quote(url)}: a unix socket's path has at most 107 bytes")
    return Address("http", "localhost", 0, path)


def check_media_type(text: str) -> str:
    if not MEDIA_TYPE.fullmatch(text):
        raise ValueError(f'{quote(text)} is not a media type: write it like "text/html", without parameters')
    return text


def check_instance(url: str) -> str:
    parse_instance(url)
    return url


def check_network(value: str) -> str:
    """A network, an address, or ``unix`` for unix sockets."""
    if value == "unix":
        return value
    try:
        ip_network(value)
    except ValueError:
        try:
            network = ip_interface(value).network
        except ValueError:
            raise ValueError(f'{quote(value)} is not a network: write "10.0.0.0/8", "::1" or "unix"') from None
        raise ValueError(f"{quote(value)} is an address with the mask of a network: write {quote(str(network))} for the network"
                         f" or {quote(value.partition('/')[0])} for the address") from None
    return value


def check_loopback(value: str) -> str:
    """``host:port`` that only this machine can reach."""
    host, port = parse_authority(value)
    if port is None:
        raise ValueError(f'{quote(value)} has no port: write "127.0.0.1:9901"')
    if host != "localhost" and not (is_address(host) and ip_address(host).is_loopback):
        raise ValueError(f'{quote(value)} can be reached from outside: the admin listener is for this machine only, '
                         f'write "127.0.0.1:{port}"')
    return value


def check_upstream_host(value: str) -> str:
    if value not in ("upstream", "preserve"):
        try:
            parse_authority(value)
        except ValueError as error:
            raise ValueError(f'{error}; "upstream" and "preserve" are the other choices') from None
    return value


def check_secret(value: Any) -> Any:
    """A text that no message repeats."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("has to be a text that is not empty; best in the environment: \"${SECRET_KEY}\"")
    return value


def check_token(value: str) -> str:
    if not TOKEN.fullmatch(value):
        raise ValueError(f"{quote(value)} is not a token: letters, digits and !#$%&'*+-.^_`|~ only")
    return value


def check_method(value: str) -> str:
    if not TOKEN.fullmatch(value):
        raise ValueError(f"{quote(value)} is not a method")
    if value != value.upper():
        raise ValueError(f"{quote(value)}: methods are upper case, write {quote(value.upper())}")
    return value


def check_field_name(value: str) -> str:
    if not TOKEN.fullmatch(value):
        raise ValueError(f"{quote(value)} is not the name of a header field")
    return value


def check_own_field(value: str) -> str:
    """The name of a field that a configuration may set: not one of those that say where a message ends or who is connected."""
    if check_field_name(value).lower() in FRAMING:
        raise ValueError(f"{quote(value)} belongs to the connection: the gateway alone sets it")
    return value


def check_field_text(value: str) -> str:
    if not FIELD_VALUE.fullmatch(value):
        raise ValueError(f"{quote(value)} cannot be the value of a header field: no control characters, no space at the ends")
    return value


def check_field_value(value: str) -> str:
    """The value as one character per byte."""
    return check_field_text(value).encode().decode("latin-1")


def check_unlike(fields: dict[str, str]) -> dict[str, str]:
    """Names of header fields are one when they differ only in case."""
    firsts: dict[str, str] = {}
    for name in fields:
        first = firsts.setdefault(name.lower(), name)
        if first != name:
            raise ValueError(f"{quote(first)} and {quote(name)} are the same header field")
    return fields


def check_module(value: str) -> str:
    if not MODULE.fullmatch(value):
        raise ValueError(f'{quote(value)} is not the name of a module: write it as in an import, like "shop.views"')
    return value


def check_reference(value: str) -> str:
    module, colon, name = value.partition(":")
    if not (colon and MODULE.fullmatch(module) and MODULE.fullmatch(name)):
        raise ValueError(f'{quote(value)} names nothing in a module: write module:name, like "shop.steps:Audit"')
    return value


def check_nginx_word(value: str) -> str:
    if not NGINX_WORD.fullmatch(value):
        raise ValueError(f"{quote(value)} would end the nginx directive it is written into")
    return value


def check_nginx_folder(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f'{quote(value)} does not begin with "/": nginx would look for it in another place than the gateway')
    return check_nginx_word(value)


def check_filled(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return value


def check_redis_url(value: str) -> str:
    """Where a Redis is, or several. Messages never repeat it: it may hold a password."""
    scheme, mark, rest = value.partition("://")
    if not mark or scheme not in REDIS_SCHEMES:
        raise ValueError(f"is not the URL of a Redis: write {', '.join(f'{each}://' for each in REDIS_SCHEMES)} and the place")
    if scheme == "unix":
        if not rest.startswith("/"):
            raise ValueError("needs the absolute path of a socket: unix:///run/redis.sock")
        return value
    authorities, _, path = rest.partition("?")[0].rpartition("@")[2].partition("/")
    for each in authorities.split(",") if "+" in scheme else [authorities]:
        try:
            parse_authority(each)
        except ValueError as error:
            raise ValueError(str(error)) from None
    if scheme.endswith("+sentinel") and not path.partition("/")[0]:
        raise ValueError("needs the name of the master behind the sentinels: redis+sentinel://host:26379/mymaster")
    return value


def check_hosts(value: str) -> str:
    """``host:port``, several with commas."""
    for each in value.split(","):
        if parse_authority(each, value)[1] is None:
            raise ValueError(f'{quote(each)} has no port: write "host:11211"')
    return value


Duration = Annotated[float, BeforeValidator(parse_duration),
                     WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"})]
Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(
    {"anyOf": [{"type": "string", "pattern": r"^[0-9]+([KkMmGg]?[Bb])?$"}, {"type": "integer", "minimum": 0}]})]
Hosts = Annotated[str, AfterValidator(check_hosts)]
Secret = Annotated[SecretStr, BeforeValidator(check_secret), WithJsonSchema({"type": "string"})]
RedisUrl = Annotated[str, AfterValidator(check_redis_url)]
InstanceUrl = Annotated[str, AfterValidator(check_instance)]
Network = Annotated[str, AfterValidator(check_network)]
Loopback = Annotated[str, AfterValidator(check_loopback)]
MediaType = Annotated[str, AfterValidator(check_media_type)]
UpstreamHost = Annotated[str, AfterValidator(check_upstream_host)]
Token = Annotated[str, AfterValidator(check_token)]
Method = Annotated[str, AfterValidator(check_method)]
FieldName = Annotated[str, AfterValidator(check_field_name)]
OwnField = Annotated[str, AfterValidator(check_own_field)]
FieldValue = Annotated[str, AfterValidator(check_field_value)]
Fields = Annotated[dict[OwnField, FieldValue], AfterValidator(check_unlike)]
FieldTemplates = Annotated[dict[OwnField, Annotated[str, AfterValidator(check_field_text)]], AfterValidator(check_unlike)]
FieldConditions = Annotated[dict[FieldName, FieldValue], AfterValidator(check_unlike)]
Module = Annotated[str, AfterValidator(check_module)]
Reference = Annotated[str, AfterValidator(check_reference)]
NginxWord = Annotated[str, AfterValidator(check_nginx_word)]
NginxFolder = Annotated[str, AfterValidator(check_nginx_folder)]
NonEmpty = Annotated[str, AfterValidator(check_filled)]
Flag = Annotated[bool, BeforeValidator(parse_flag)]
Whole = Annotated[int, BeforeValidator(parse_whole)]
