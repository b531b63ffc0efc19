"""The host of a request, from Host or from a request-target in absolute-form (RFC 9112 section 3.2)."""

from __future__ import annotations

import re

from ..message import Request

HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+(?::\d{0,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{0,5})?")
ABSOLUTE = re.compile(r"https?://([^/?#]*)((?:[/?][^#]*)?)", re.IGNORECASE)


def take_absolute(request: Request, authority: str, rest: str) -> None:
    """Turn a request in absolute-form into origin-form. An invalid authority or Host is left for Accept to refuse."""
    host = request.host
    if not HOST.fullmatch(authority) or not (HOST.fullmatch(host) if host else request.version == "1.0"):
        return
    if not rest.startswith("/"):
        rest = "*" if request.method == "OPTIONS" and not rest else "/" + rest       # RFC 9112 section 3.2.4
    path, mark, query = rest.partition("?")
    request.target, request.path, request.query = rest, path, query if mark else None
    take_host(request, authority.removesuffix(":"))


def take_host(request: Request, host: str) -> None:
    """Set the host, and the Host field."""
    request.host = host
    request.headers = [field for field in request.headers if field[0].lower() != "host"]
    request.headers.insert(0, ("Host", host))
