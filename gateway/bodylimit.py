"""Step: a request body larger than the route accepts is refused: by its Content-Length at once, else while it is read."""

from __future__ import annotations

from collections.abc import Callable

from .errors import BodyTooLarge
from .message import Body, Handler, Request, Response


class BodyLimit:
    """``limit`` in bytes."""

    def __init__(self, next: Handler, limit: int) -> None:
        self.next = next
        self.limit = limit

    def __call__(self, request: Request) -> Response:
        body = request.body
        if body is not None:
            if body.length is None:
                request.body = Body(self._counting(body), None)
            elif body.length > self.limit:
                raise BodyTooLarge(f"{body.length} bytes, {self.limit} allowed")
        return self.next(request)

    def _counting(self, body: Body) -> Callable[[int], bytes]:
        size = 0

        def read(amount: int) -> bytes:
            nonlocal size
            piece = body.read(amount)
            size += len(piece)
            if size > self.limit:
                raise BodyTooLarge(f"more than {self.limit} bytes")
            return piece

        return read

    def __repr__(self) -> str:
        return f"bodylimit: at most {self.limit} bytes"
