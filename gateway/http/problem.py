"""Errors as answers: ``application/problem+json`` (RFC 9457), or a page for a browser.

The members are ``type`` (``urn:wicketgate:error:<code>``), ``title``, ``status``, ``code`` and ``request_id``; ``detail`` only
where the error says that it may be shown. ``code`` is what programs may rely on; docs/errors.md lists all of them. A page is sent
to whoever prefers text/html to JSON (RFC 9110 section 12.5.1), which browsers do and ``*/*`` does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

import orjson

from ..errors import GatewayError
from ..message import Headers, Request, Response

JSON_HEADERS = [("Content-Type", "application/problem+json"), ("Cache-Control", "no-store"), ("Vary", "Accept"),
                ("X-Content-Type-Options", "nosniff")]
HTML_HEADERS = [("Content-Type", "text/html; charset=utf-8"), *JSON_HEADERS[1:],
                ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")]
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{status} {title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1.05rem/1.6 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto 0; padding: 0 1.5rem }}
h1 {{ font-size: 1.5rem; line-height: 1.3; margin: .2rem 0 1rem }}
.status {{ color: #c0392b; font-weight: 600; margin: 0 }}
footer {{ margin-top: 2.5rem; font-size: .85rem; opacity: .7 }}
code {{ overflow-wrap: anywhere }}
</style>
<main>
<p class="status">{status}</p>
<h1>{title}</h1>
{detail}<footer>{reference}</footer>
</main>
</html>
"""
NO_TEXT = re.compile(r"[^a-z0-9]+")


def render_error(error: GatewayError, request: Request) -> Response:
    """The answer of an error to this request."""
    return document(error.status, error.title, error.detail if error.public else "", error.headers(), code=error.code,
                    type=f"urn:wicketgate:error:{error.code}", accept=", ".join(request.header_list("Accept")), id=request.id)


def render_http(status: int, title: str, detail: str, headers: Iterable[tuple[str, str]], accept: str = "",
                id: str = "") -> Response:
    """The answer of a plain HTTP error, such as ``abort(404)`` in a view: ``code`` is its title as one word (``not_found``).

    ``headers`` are the fields it must carry; those about its body are ours. ``detail`` is shown.
    """
    others = [field for field in headers if field[0].lower() not in ("content-type", "content-length")]
    return document(status, title, detail, others, code=NO_TEXT.sub("_", title.lower()).strip("_"), type="about:blank",
                    accept=accept, id=id)


def document(status: int, title: str, detail: str, headers: Headers, *, code: str, type: str, accept: str, id: str) -> Response:
    """A page or a problem document. ``detail`` and ``id`` are left out when empty."""
    detail = detail.encode("utf-8", "replace").decode()
    if prefers_html(accept):
        reference = f"{code}, request {id}" if id else code
        page = PAGE.format(status=status, title=escape(title), detail=f"<p>{escape(detail)}</p>\n" if detail else "",
                           reference=f"<code>{escape(reference)}</code>")
        return Response(status, HTML_HEADERS + headers, page.encode())
    members = {"type": type, "title": title, "status": status, "code": code}
    if detail:
        members["detail"] = detail
    if id:
        members["request_id"] = id
    return Response(status, JSON_HEADERS + headers, orjson.dumps(members))


def prefers_html(accept: str) -> bool:
    """Does this Accept rank text/html above JSON? Equal ranks are JSON, and so is no Accept at all."""
    if "html" not in accept and "text/*" not in accept and "HTML" not in accept:
        return False
    ranks = quality_values(accept)
    json = max(quality(ranks, "application/problem+json"), quality(ranks, "application/json"))
    return quality(ranks, "text/html") > json


def quality_values(accept: str) -> dict[str, float]:
    """The items of an Accept or Accept-Encoding in lower case, with their weights (RFC 9110 section 12.4.2); 0: unreadable."""
    ranks: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                weight = weight_of(value.strip())
        ranks[name] = max(weight, ranks.get(name, 0.0))
    return ranks


def weight_of(value: str) -> float:
    """A quality value; 0 when it is invalid."""
    return float(value) if re.fullmatch(r"0(\.\d{0,3})?|1(\.0{0,3})?", value) else 0.0


def quality(ranks: dict[str, float], media_type: str) -> float:
    """The weight of a media type: that of the most specific range that matches it."""
    for name in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if name in ranks:
            return ranks[name]
    return 0.0
