"""Grammar of HTTP that several parts of the gateway check messages by. Pure."""

from __future__ import annotations

import re

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")                     # RFC 9110 section 5.6.2: field names, methods
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")                       # in no field value (RFC 9110 section 5.5)
DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)     # of a path, encoded too (RFC 3986 section 3.3)
BODILESS = frozenset({204, 304})                                        # without content (RFC 9110 section 6.4.1)
