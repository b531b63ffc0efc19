"""The head of a request, read by Gunicorn's own strict parser, which also keeps the header lines in the case they were sent in.

A class of its own file, which is never compiled: its base is a class of a library.
"""

from __future__ import annotations

from typing import Any

from gunicorn.http import message
from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding

from ..message import Headers


class GunicornRequest(message.Request):
    """The head of a request. ``raw_headers`` are the fields of ``headers`` with their names as they were sent. ``gateway``: it is
    for the gateway, which passes it on and so is stricter than Gunicorn."""

    def __init__(self, cfg: Any, unreader: Any, peer_addr: Any, req_number: int = 1, gateway: bool = True) -> None:
        self.raw_headers: Headers = []
        self.gateway = gateway
        super().__init__(cfg, unreader, peer_addr, req_number)

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> Headers:
        headers: Headers = super().parse_headers(data, from_trailer)
        if not from_trailer:
            self.raw_headers = original_case(data, headers)
        return headers

    def set_body_reader(self) -> None:
        """The only transfer coding that is accepted is ``chunked``: any other would not reach the upstream (RFC 9112, 6.1)."""
        codings = [value for name, value in self.headers if name == "TRANSFER-ENCODING"] if self.gateway else []
        if codings and (len(codings) > 1 or codings[0].lower() != "chunked"):
            if {coding.strip(" \t").lower() for value in codings for coding in value.split(",")} - {"chunked", "identity", ""}:
                raise UnsupportedTransferCoding(", ".join(codings))
            raise InvalidHeader("TRANSFER-ENCODING", req=self)
        super().set_body_reader()

    def should_close(self) -> bool:
        """RFC 9112 section 9.3: the client's wish, wherever it stands in Connection."""
        if self.must_close or self.method == "CONNECT":
            return True
        options = [option.strip().lower() for name, value in self.headers if name == "CONNECTION" for option in value.split(",")]
        return "close" in options or (self.version < (1, 1) and "keep-alive" not in options)


def original_case(data: bytes, headers: Headers) -> Headers:
    """``headers``, parsed from the lines of ``data`` into upper case, with the names as they stand there. Some may be left out."""
    fields: Headers = []
    for line in data.split(b"\r\n"):
        name = line.partition(b":")[0].rstrip(b" \t").decode("latin-1")
        if len(fields) < len(headers) and name.upper() == headers[len(fields)][0]:
            fields.append((name, headers[len(fields)][1]))
    return fields
