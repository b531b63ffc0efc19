"""Percent-encoding in normal form, in which addresses are compared (RFC 3986 section 6.2.2). Pure."""

from __future__ import annotations

import re

UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
TRIPLET = re.compile("%[0-9A-Fa-f]{2}")


def normal_escapes(text: str) -> str:
    """Decode what needs no encoding, and write the other triplets in upper case."""
    return TRIPLET.sub(_normal, text) if "%" in text else text


def _normal(triplet: re.Match[str]) -> str:
    char = chr(int(triplet[0][1:], 16))
    return char if char in UNRESERVED else triplet[0].upper()
