"""Target: an answer that stands in the configuration itself.

It says its Content-Length itself, so that HEAD gets it too (RFC 9110 section 9.3.2).
"""

from __future__ import annotations

import orjson

from .config import RespondSettings as Settings
from .http.date import date_line
from .http.grammar import BODILESS
from .http.prepared import PreparedResponse, head_lines_of
from .message import REASONS, Request, Response


class Respond:
    """The answer is made once, its fields but for Date are written once."""

    sees_cookies = False

    def __init__(self, settings: Settings) -> None:
        headers = list(settings.headers.items())
        body, kind = b"", ""
        if "json_" in settings.model_fields_set:
            body, kind = orjson.dumps(settings.json_), "application/json"
        elif settings.text is not None:
            body, kind = settings.text.encode(), "text/plain; charset=utf-8"
        if kind and not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("Content-Type", kind))
        if settings.status not in BODILESS:
            headers.append(("Content-Length", str(len(body))))
        self.status = settings.status
        self.headers = headers
        self.body = body
        self.reason = REASONS.get(self.status, "")
        has_date = any(name.lower() == "date" for name, _ in headers)
        self.head_lines = None if has_date else head_lines_of(self.status, headers, len(body))

    def __call__(self, request: Request) -> Response:
        if self.head_lines is not None:
            return PreparedResponse(self.status, self.reason, self.head_lines + date_line(), self.body)
        return Response(self.status, self.headers.copy(), self.body)

    def __repr__(self) -> str:
        return f"respond {self.status}, {len(self.body)} bytes"
