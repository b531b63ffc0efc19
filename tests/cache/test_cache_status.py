"""Cache-Status: every form of it, by the grammar of RFC 9211 and Structured Fields."""

from __future__ import annotations

import re

import pytest
from stored import entry_of

from gateway.cache.cache_status import Report

TOKEN = r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*"
STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
MEMBER = re.compile(rf"(?:{TOKEN}|{STRING})(?:; [a-z-]+(?:=(?:{TOKEN}|{STRING}|-?[0-9]+))?)*")
ENTRY = entry_of(at=1000.0, lifetime=60.0)
KEY = 'https://shop.test/a?"b\\c"\n\xe4'
QUOTED = r'"https://shop.test/a?\"b\\c\"%0A%C3%A4"'


@pytest.mark.parametrize("explain, made, expected", [
    (False, lambda r: r.hit(ENTRY, 1000.0, KEY), "g; hit; ttl=60"),
    (False, lambda r: r.hit(ENTRY, 1059.5, KEY), "g; hit; ttl=0"),
    (False, lambda r: r.hit(ENTRY, 1070.9, KEY, "why"), "g; hit; ttl=-10"),
    (True, lambda r: r.hit(ENTRY, 1000.0, KEY, "why"), f'g; hit; ttl=60; key={QUOTED}; detail="why"'),
    (False, lambda r: r.forward("uri-miss", 200, KEY, stored=True), "g; fwd=uri-miss; fwd-status=200; stored"),
    (False, lambda r: r.forward("uri-miss", 0, KEY, collapsed=True, detail="why"), "g; fwd=uri-miss; collapsed"),
    (True, lambda r: r.forward("stale", 304, KEY, detail="why"), f'g; fwd=stale; fwd-status=304; key={QUOTED}; detail="why"'),
    (True, lambda r: r.forward("bypass", 200, ""), "g; fwd=bypass; fwd-status=200"),
    (False, lambda r: r.replacement("stale", 503, ENTRY, 1070.0, KEY, "why"),
     'g; fwd=stale; fwd-status=503; ttl=-10; detail="why"'),
    (False, lambda r: r.replacement("stale", 0, ENTRY, 1070.0, KEY, "why"), 'g; fwd=stale; ttl=-10; detail="why"'),
    (True, lambda r: r.replacement("request", 0, ENTRY, 1000.0, KEY, "why"), f'g; fwd=request; ttl=60; key={QUOTED}; detail="why"'),
])
def test_every_form(explain, made, expected):
    text = made(Report("g", explain))
    assert text == expected and MEMBER.fullmatch(text)
    assert ("; hit" in text) != ("; fwd=" in text)       # they exclude each other (section 2.1)


@pytest.mark.parametrize("name, written", [
    ("wicketgate", "wicketgate"), ("edge-1.fra", "edge-1.fra"), ("*", "*"), ("1st", '"1st"'), ("!odd", '"!odd"'), ("-", '"-"')])
def test_a_name_that_is_no_token_is_a_string(name, written):
    report = Report(name)
    for text in (report.hit(ENTRY, 1000.0, ""), report.forward("uri-miss", 200, ""),
                 report.replacement("stale", 0, ENTRY, 1000.0, "", "x")):
        assert text.startswith(f"{written}; ") and MEMBER.fullmatch(text)
