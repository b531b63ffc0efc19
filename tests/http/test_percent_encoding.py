"""Percent-encoding in normal form: unreserved characters are decoded, everything else stays as it is."""

from __future__ import annotations

import pytest

from gateway.http.percent_encoding import UNRESERVED, normal_escapes


@pytest.mark.parametrize("text, expected", [
    ("", ""), ("/a", "/a"), ("/%61%7e%2D%2e%5f", "/a~-._"), ("%2f%3F%e9", "%2F%3F%E9"), ("%2561", "%2561"), ("%25%36%31", "%2561"),
    ("%", "%"), ("%4", "%4"), ("%4g%41", "%4gA"), ("é%c3%A9", "é%C3%A9"),
])
def test_escapes_in_normal_form(text, expected):
    assert normal_escapes(text) == expected


@pytest.mark.parametrize("code", range(256))
def test_only_what_is_unreserved_is_decoded(code):
    assert normal_escapes(f"%{code:02x}") == (chr(code) if chr(code) in UNRESERVED else f"%{code:02X}")
