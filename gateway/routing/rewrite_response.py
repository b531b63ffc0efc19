"""The upstream's own addresses in an answer, made public: the way back of ``strip_prefix`` and of a changed Host.

``Location``, ``Content-Location`` and the address in ``Refresh`` that point at the upstream (one of its instances, or the Host it
was sent) get the scheme and host the client used; their path, like that of a relative reference starting with ``/``, gets the
stripped prefix back, unless it has it. ``Link`` stays as it is: what it names is no place to go to. All are compared as URIs are
(RFC 3986 section 6): hosts without regard to case, encoding, the last dot and the spelling of IPv6, ports by what the scheme
implies.
An address at the client's own host keeps its scheme, and so does https at an upstream that does not speak it: that is an
application sending its visitors from http to https. Addresses of anybody else are left alone. Of a cookie, ``Domain`` is dropped
when it is the upstream's own, which makes the cookie belong to the public host alone (RFC 6265 section 5.3), and ``Path`` gets the
prefix back in the same way; but that of a ``__Host-`` cookie, which has to be ``/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import unquote

from ..http.percent_encoding import normal_escapes
from ..message import Headers, Request

AUTHORITY = re.compile(r"(\[[^\[\]@]*\]|[^\[\]:@]*)(?::([0-9]*))?")
REFRESH = re.compile(r"(?i)([ \t]*[0-9.]+[ \t]*[;,][ \t]*url[ \t]*=[ \t]*[\"']?)(.*)", re.DOTALL)
PATH_END = re.compile("[?#]")
ABSOLUTE = re.compile(r"(?i)((?:https?:)?)//([^/?#]*)(.*)", re.DOTALL)


class PublicAddresses:
    """``publish(headers, request) -> headers``. ``own`` are the authorities by which the upstream may call itself, ``tls`` says
    whether it is asked by https."""

    def __init__(self, own: Iterable[str], prefix: str, location: bool, cookies: bool, tls: bool = False) -> None:
        self.own = frozenset(filter(None, (normal_authority(authority, tls) for authority in own)))
        self.tls = tls
        self.hosts = frozenset(host for host, _ in self.own)
        self.prefix = prefix.rstrip("/")
        self._normal = normal_path(self.prefix)
        self.edits = {}
        if location:
            self.edits["location"] = self.edits["content-location"] = self.location
            self.edits["refresh"] = self.refresh
        if cookies:
            self.edits["set-cookie"] = self.cookie

    def __call__(self, headers: Headers, request: Request) -> Headers:
        edits = self.edits
        return [(name, edits[name.lower()](value, request)) if name.lower() in edits else (name, value)
                for name, value in headers]

    def location(self, value: str, request: Request) -> str:
        """A reference of the upstream, as a public one."""
        match = ABSOLUTE.fullmatch(value)
        if match is None:
            return self.path(value) if value.startswith("/") else value
        scheme, authority, rest = match.groups()
        address = normal_authority(authority, scheme.lower() == "https:" if scheme else self.tls)
        if address is None:
            return value
        if address in self.own:
            if scheme.lower() != "https:" or self.tls:
                scheme = f"{request.scheme}:"
        elif address != normal_authority(request.host, scheme.lower() == "https:" if scheme else request.scheme == "https"):
            return value
        if not rest.startswith("/"):
            rest = "/" + rest
        return f"{scheme}//{request.host}{self.path(rest)}"

    def refresh(self, value: str, request: Request) -> str:
        """The same for the address in Refresh."""
        match = REFRESH.fullmatch(value)
        return match[1] + self.location(match[2], request) if match else value

    def path(self, rest: str) -> str:
        """A path, with what follows it, behind the prefix; one that is there already stays. A ``..`` that leads above the root is
        dropped, as whoever follows the reference would drop it: behind the prefix it would lead out of that."""
        path = PATH_END.split(rest, maxsplit=1)[0]
        plain = normal_path(path)
        if plain == self._normal or plain.startswith(self._normal + "/"):
            return rest
        if climbs(path):
            return f"{self.prefix}{plain or '/'}{rest[len(path):]}"
        return self.prefix + rest

    def cookie(self, value: str, request: Request) -> str:
        """A Set-Cookie of the upstream with a public Domain and Path; everything else byte for byte."""
        first, *attributes = value.split(";")
        host_bound = first.lstrip().lower().startswith("__host-")    # browsers take it with Path=/ only (RFC 6265bis 4.1.3)
        pieces = [first]
        for attribute in attributes:
            name, _, content = attribute.partition("=")
            name, content = name.strip().lower(), content.strip()
            if name == "domain" and normal_host(content.lstrip(".")) in self.hosts:
                continue
            if name == "path" and content.startswith("/") and self.prefix and not host_bound:
                attribute = f" Path={self.path(content)}"
            pieces.append(attribute)
        return ";".join(pieces)

    def __repr__(self) -> str:
        return f"publish {', '.join(sorted(self.edits))}"


def normal_authority(authority: str, tls: bool) -> tuple[str, str] | None:
    """Host and port of an authority in normal form (RFC 3986 section 6.2): the port is empty when it is the scheme's default. None
    for an invalid one, or one with a user."""
    match = AUTHORITY.fullmatch(authority)
    if match is None or not match[1]:
        return None
    port = (match[2] or "").lstrip("0")
    return normal_host(match[1]), "" if port == ("443" if tls else "80") else port


def normal_host(host: str) -> str:
    """A host in normal form: lower case, no percent-encoding, no root dot, one spelling of IPv6."""
    host = unquote(host, "latin-1").lower()
    if host.startswith("["):
        try:
            return str(ip_address(host[1:-1]))
        except ValueError:
            return host
    return host.removesuffix(".")


def climbs(path: str) -> bool:
    """Do its dot segments lead above the root?"""
    depth = 0
    for segment in normal_escapes(path).split("/")[1:]:
        depth += {".": 0, "..": -1}.get(segment, 1)
        if depth < 0:
            return True
    return False


def normal_path(path: str) -> str:
    """A path to be compared: percent-encoding of what needs none and dot segments do not count (RFC 3986 section 6.2.2)."""
    segments: list[str] = []
    for segment in normal_escapes(path).split("/"):
        if segment == "..":
            segments = segments[:-1] or [""]
        elif segment != ".":
            segments.append(segment)
    return "/".join(segments)
