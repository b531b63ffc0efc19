"""Which build the tests run on."""

from __future__ import annotations

import gateway.message

COMPILED: bool = str(gateway.message.__file__).endswith(".so")
