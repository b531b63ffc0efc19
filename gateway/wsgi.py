"""WSGI (PEP 3333) at both ends: a Request from the environ of a server, and the environ of an application from a Request.

The environ that a server gives is read once, when the request comes in, and edited by nobody. From there on the Request is what
steps read and edit; a target that calls an application has ``environ_of`` build its environ, and nothing else does. So a view sees
what an upstream would.
"""

from __future__ import annotations

import io
import re
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from .deadline import Deadline
from .http.fields import PROXY_WORDS
from .message import Body, Headers, Request
from .request_body_file import RequestBodyFile
from .tasks import Guard

ABOUT_BODY = ("CONTENT_TYPE", "CONTENT_LENGTH")          # in an environ without HTTP_
OF_THE_CLIENT = frozenset({"gateway.connection", "gunicorn.socket", "wsgi.early_hints"})
PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)+")      # nothing that would have to be encoded, or leads elsewhere


def headers_of(environ: dict[str, Any]) -> Headers:
    """The header fields under a server that gives no list: repeated ones are joined and the case is lost (PEP 3333)."""
    headers = [(key[5:].replace("_", "-").title(), value) for key, value in environ.items() if key.startswith("HTTP_")]
    for key, name in (("CONTENT_TYPE", "Content-Type"), ("CONTENT_LENGTH", "Content-Length")):
        if environ.get(key):
            headers.append((name, environ[key]))
    return headers


def edited_headers(original: Headers, environ: dict[str, Any]) -> Headers:
    """The fields as they were received, but for those that a middleware has changed, removed or added in the environ."""
    present = {name.lower(): (name, value) for name, value in headers_of(environ)}
    values: dict[str, list[str]] = {}
    for name, value in original:
        values.setdefault(name.lower(), []).append(value)
    same = {name for name, (_, value) in present.items()
            if value in (",".join(values.get(name, ())), ", ".join(values.get(name, ())), "; ".join(values.get(name, ())))}
    headers = []
    for name, value in original:
        key = name.lower()
        if key in same:
            headers.append((name, value))
        elif key in present:
            headers.append((name, present.pop(key)[1]))
    received_names = values.keys()
    return headers + [field for name, field in present.items() if name not in received_names]


def edited_target(original: str, environ: dict[str, Any]) -> str:
    """The target as it was received, or what a middleware has made of the path and the query. One with a fragment stays what it is:
    the server's environ has none, and it is to be refused."""
    path, _, query = original.partition("?")
    same = unquote_to_bytes(path).decode("latin-1") == environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    if not path.startswith("/") or "#" in original or same and query == environ.get("QUERY_STRING", ""):
        return original
    if not same:
        return target_of(environ)
    return f"{path}?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else path


def target_of(environ: dict[str, Any]) -> str:
    """The request-target under a server without RAW_URI; what was percent-encoded in the path is a guess then."""
    path = quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), safe="/!$&'()*+,;=:@~", encoding="latin-1")
    query = environ.get("QUERY_STRING")
    return f"{path or '/'}?{query}" if query else path or "/"


def body_of(environ: dict[str, Any], deadline: Deadline | None = None) -> Body | None:
    """The body a request announces: by Content-Length, or chunked (``HTTP_TRANSFER_ENCODING``); None without one."""
    length = environ.get("CONTENT_LENGTH")
    if not length and "HTTP_TRANSFER_ENCODING" not in environ:
        return None
    source = environ["wsgi.input"]
    read = getattr(source, "read1", source.read)             # read() waits until it has all it was asked for
    return Body(read, int(length) if length else None, deadline)


def environ_of(request: Request, guard: Guard, silence: float) -> dict[str, Any]:
    """The environ for an application: what the server said of the connection, and all else as the Request has it now. ``guard`` is
    the application's, ``silence`` the longest of the client while its body is read, in seconds."""
    original = request.environ
    if original is None:
        environ = request.connection.environ(request)
    else:
        environ = {key: value for key, value in original.items() if not key.startswith("HTTP_") and key not in ABOUT_BODY}
        if environ.get("RAW_URI") != request.target:
            readdress(environ, request)
    environ.update(variables(request.headers))
    if not request.trusted and (request.entry is None or not request.entry.edits_request):     # else that was done before the rules
        for key in PROXY_KEYS:
            environ.pop(key, None)
    if request.trusted and (prefix := environ.get("HTTP_X_FORWARDED_PREFIX")) is not None:
        environ["SCRIPT_NAME"] = prefix_of(prefix)
    environ["REQUEST_METHOD"] = request.method
    environ["REMOTE_ADDR"] = request.client
    environ["wsgi.url_scheme"] = request.scheme
    if request.host:
        environ["HTTP_HOST"] = request.host
    environ["HTTP_X_REQUEST_ID"] = request.id
    environ["gateway.request"] = request
    if request.body is None:
        environ["wsgi.input"] = io.BytesIO()
    else:
        environ["wsgi.input"] = io.BufferedReader(RequestBodyFile(request.body, guard, silence))
        environ["wsgi.input_terminated"] = True
    return environ


def readdress(environ: dict[str, Any], request: Request) -> None:
    """Have ``environ`` name the target of ``request``; below the SCRIPT_NAME of a middleware, when that is its prefix."""
    path, script = unquote_to_bytes(request.path).decode("latin-1"), environ.get("SCRIPT_NAME", "")
    environ["PATH_INFO"] = path[len(script):] if f"{path}/".startswith(f"{script}/") else path
    environ["QUERY_STRING"] = request.query or ""
    environ["RAW_URI"] = request.target


def without_client(request: Request) -> dict[str, Any] | None:
    """What the server said of ``request``, but for its client's connection: for a copy that outlives it."""
    environ = request.environ
    if environ is None and request.connection is not None:
        environ = request.connection.environ(request)
    return None if environ is None else {key: value for key, value in environ.items() if key not in OF_THE_CLIENT}


def prefix_of(value: str) -> str:
    """What the nearest proxy has taken off the path, as SCRIPT_NAME; empty for what is no plain path."""
    prefix = value.rpartition(",")[2].strip().rstrip("/")
    return prefix if PREFIX.fullmatch(prefix) else ""


def variables(fields: Headers) -> dict[str, str]:
    """The fields as a WSGI environ has them (PEP 3333): the last Content-Type, of others all values with commas."""
    values: dict[str, str] = {}
    for name, value in fields:
        key = variable(name)
        if key in values and key not in ABOUT_BODY:
            values[key] += ("; " if key == "HTTP_COOKIE" else ",") + value
        else:
            values[key] = value
    return values


def variable(name: str) -> str:
    """The name of a field in a WSGI environ."""
    name = name.upper().replace("-", "_")
    return name if name in ABOUT_BODY else f"HTTP_{name}"


PROXY_KEYS = tuple(map(variable, PROXY_WORDS))
