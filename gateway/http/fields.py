"""Header fields that were met before: taken apart, checked and written out once, then looked up.

Most header lines of a connection, and of a site, repeat themselves letter for letter: Host, Accept, User-Agent, Server,
Content-Type, Connection. Two tables remember them. Neither keeps what is secret (Authorization, cookies), what is different each
time (ids of requests and traces) or anything long, and each starts anew when it is full.

- ``READ[line]`` is ``(field, name in lower case)`` of a line as received, bytes without CRLF, strictly by RFC 9110 section 5: a
  token, a colon without space before it, a value without control characters but HTAB, white space around it taken off.
  None for a line that is not that (a folded one, for instance): its reader decides what to do.
- ``WRITTEN[field]`` is the line to send, bytes with CRLF. Raises UnsafeField for what could end the line or is not latin-1.
"""

from __future__ import annotations

import re

from ..errors import with_cause
from .grammar import CONTROL, TOKEN

Field = tuple[str, str]

MOST = 2048                     # lines remembered
LONGEST = 200                   # characters of a line remembered
SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"})
EACH_NEW = frozenset({"x-request-id", "x-correlation-id", "traceparent", "x-amzn-trace-id", "x-b3-traceid", "x-b3-spanid"})
NOT_KEPT = SECRET | EACH_NEW

LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[^\x00-\x20\x7f][^\x00-\x08\x0a-\x1f\x7f]*)?)")


# What belongs to one connection and not to the message (RFC 9110 section 7.6.1), and what Connection names besides.
CONNECTION_FIELDS = frozenset({
    "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade"})

# What applications take for the word of a proxy. From a stranger it is nobody's word, and goes no further.
PROXY_WORDS = frozenset({
    "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded", "x-real-ip", "x-forwarded-prefix",
    "x-forwarded-ssl", "x-forwarded-server", "x-forwarded-scheme", "x-forwarded-protocol", "x-forwarded-path", "x-forwarded-uri",
    "x-forwarded-method", "x-original-url", "x-original-uri", "x-original-host", "x-rewrite-url", "x-url-scheme", "x-script-name",
    "x-http-host-override", "x-envoy-original-path", "front-end-https", "proxy"})

# Those of them by which the gateway itself knows where a request comes from and what it was sent to.
FORWARDED = frozenset({"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded", "x-real-ip"})


class UnsafeField(ValueError):
    """A header field that must not be sent. The text names the field, never its value, which may be a secret."""


class ReservedField(ValueError):
    """A header field that another part of the gateway writes."""


class ReadFields(dict[bytes, "tuple[Field, str] | None"]):
    """See ``READ``."""

    def __missing__(self, line: bytes) -> tuple[Field, str] | None:
        match = LINE.fullmatch(line)
        if match is None:
            return None
        name = match[1].decode("ascii")
        entry = (name, match[2].rstrip(b" \t").decode("latin-1")), name.lower()
        if len(line) <= LONGEST and entry[1] not in NOT_KEPT:
            if len(self) >= MOST:
                self.clear()
            self[line] = entry
        return entry


class FieldNames(dict[str, bool]):
    """Whether lines of a name are remembered. Raises UnsafeField for what is no name, ReservedField for reserved ones."""

    def __init__(self, reserved_names: frozenset[str]) -> None:
        super().__init__()
        self.reserved_names = reserved_names

    def __missing__(self, name: str) -> bool:
        if not TOKEN.fullmatch(name):
            raise UnsafeField(f"{name[:100]!r} is not a field name")
        if name.lower() in self.reserved_names:
            raise ReservedField(name)
        cacheable = name.lower() not in NOT_KEPT
        if len(name) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[name] = cacheable
        return cacheable


class WrittenFields(dict[Field, bytes]):
    """See ``WRITTEN``. ``reserved_names`` are names, in lower case, that may not be written: ReservedField."""

    def __init__(self, reserved_names: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._names = FieldNames(reserved_names)

    def __missing__(self, field: Field) -> bytes:
        name, value = field
        cacheable = self._names[name]
        if not (value.isascii() and value.isprintable()) and CONTROL.search(value):
            raise UnsafeField(f"a control character in the value of {name}")
        try:
            line = "".join((name, ": ", value, "\r\n")).encode("latin-1")      # no f-string: a subclass of str may format itself
        except UnicodeEncodeError:
            raise with_cause(UnsafeField(f"a character beyond latin-1 in the value of {name}"), None)
        if cacheable and len(line) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[field] = line
        return line


def fields_of(lines: bytes) -> list[Field]:
    """The fields of lines that WRITTEN made."""
    return [(name, value) for name, _, value in [line.partition(": ") for line in lines.decode("latin-1").split("\r\n")[:-1]]]


def nominations(headers: list[Field]) -> set[str]:
    """The fields that Connection nominates, in lower case: they belong to this connection (RFC 9110 section 7.6.1)."""
    return {option for name, value in headers if name.lower() == "connection" for token in value.split(",")
            if (option := token.strip().lower())}


def one_cookie(fields: list[Field]) -> list[Field]:
    """The fields with all Cookie lines joined in the place of the first (RFC 9113 section 8.2.3): joining by comma would change
    cookies."""
    places = [place for place, field in enumerate(fields) if field[0].lower() == "cookie"]
    if len(places) < 2:
        return fields
    first = places[0]
    whole = fields[first][0], "; ".join([fields[place][1] for place in places if fields[place][1]])
    rest = [field for field in fields[first + 1:] if field[0].lower() != "cookie"]
    return [*fields[:first], whole, *rest]


READ = ReadFields()
WRITTEN = WrittenFields()


class Kinds(dict[str, int]):
    """A number for each field name, in any case: ``table`` has the names in lower case, all others are 0."""

    def __init__(self, table: dict[str, int]) -> None:
        super().__init__()
        self.table = table

    def __missing__(self, name: str) -> int:
        kind = self.table.get(name.lower(), 0)
        if len(self) < MOST and len(name) <= 64:
            self[name] = kind
        return kind
