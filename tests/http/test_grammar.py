"""What is a token, a control character and a dot segment."""

from __future__ import annotations

import pytest

from gateway.http.grammar import CONTROL, DOT_SEGMENT, TOKEN


@pytest.mark.parametrize("text, expected", [
    ("GET", True), ("x-a", True), ("!#$%&'*+-.^_`|~09az", True), ("", False), ("a b", False), ("a:", False), ("a\n", False),
    ("a/b", False), ("\xe9", False), ('"a"', False)])
def test_a_token(text, expected):
    assert bool(TOKEN.fullmatch(text)) is expected


@pytest.mark.parametrize("text, expected", [
    ("", False), ("a\tb ~\x80\xff", False), ("\0", True), ("a\r", True), ("\n", True), ("\x1f", True), ("\x7f", True)])
def test_a_control_character(text, expected):
    assert bool(CONTROL.search(text)) is expected


@pytest.mark.parametrize("path, expected", [
    ("/", False), ("/a.b/.c/..d/...", False), ("/.", True), ("/..", True), ("/./a", True), ("/a/../b", True), ("/a/%2E%2e", True),
    ("/.%2e/", True), ("/%2ea", False)])
def test_a_dot_segment(path, expected):
    assert bool(DOT_SEGMENT.search(path)) is expected
