"""The upstream's own addresses in an answer, made public: the way back of ``strip_prefix`` and of a changed Host.

``Location`` and ``Content-Location`` that point at the upstream (one of its instances, or the Host it was sent) get the scheme
and host the client used; their path, like that of a relative reference starting with ``/``, gets the stripped prefix back.
An address at the client's own host keeps its scheme, and so does https at an upstream that does not speak it: that is an
application sending its visitors from http to https. Addresses of anybody else are left alone. Of a cookie, ``Domain`` is dropped
when it is the upstream's own, which makes the cookie belong to the public host alone (RFC 6265 section 5.3), and ``Path`` gets the
prefix back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from .message import Headers, Request

ABSOLUTE = re.compile(r"(?i)((?:https?:)?)//([^/?#]*)(.*)", re.DOTALL)


class Publish:
    """``publish(headers, request) -> headers``. ``own`` are the authorities by which the upstream may call itself, ``tls`` says
    whether it is asked by https."""

    def __init__(self, own: Iterable[str], prefix: str, location: bool, cookies: bool, tls: bool = False) -> None:
        self.own = frozenset(authority.lower() for authority in own if authority)
        self.tls = tls
        self.hosts = frozenset(hostname(authority) for authority in self.own)
        self.prefix = prefix.rstrip("/")
        self.edits = {}
        if location:
            self.edits["location"] = self.edits["content-location"] = self.location
        if cookies:
            self.edits["set-cookie"] = self.cookie

    def __call__(self, headers: Headers, request: Request) -> Headers:
        edits = self.edits
        return [(name, edits[name.lower()](value, request)) if name.lower() in edits else (name, value)
                for name, value in headers]

    def location(self, value: str, request: Request) -> str:
        """A reference of the upstream as the client has to write it."""
        match = ABSOLUTE.fullmatch(value)
        if match is None:
            return self.prefix + value if value.startswith("/") else value
        scheme, authority, rest = match.groups()
        if authority.lower() in self.own:
            if scheme.lower() != "https:" or self.tls:
                scheme = f"{request.scheme}:"
        elif authority.lower() != request.host.lower():
            return value
        if not rest.startswith("/"):
            rest = "/" + rest
        return f"{scheme}//{request.host}{self.prefix}{rest}"

    def cookie(self, value: str, request: Request) -> str:
        """A Set-Cookie of the upstream with a public Domain and Path; everything else byte for byte."""
        first, *attributes = value.split(";")
        kept = [first]
        for attribute in attributes:
            name, _, content = attribute.partition("=")
            name, content = name.strip().lower(), content.strip()
            if name == "domain" and content.lower().lstrip(".") in self.hosts:
                continue
            if name == "path" and content.startswith("/") and self.prefix:
                attribute = f" Path={self.prefix}{content}" if content != "/" else f" Path={self.prefix}/"
            kept.append(attribute)
        return ";".join(kept)

    def __repr__(self) -> str:
        return f"publish {', '.join(sorted(self.edits))}"


def hostname(authority: str) -> str:
    """The host of an authority, without port and brackets."""
    return urlsplit(f"//{authority}").hostname or authority
