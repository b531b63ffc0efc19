"""Reading the header fields that caching depends on. Pure; nothing here raises: what cannot be read is None or left out.

============================  ===========================================================================================
``directives``                Cache-Control, a list of directives with quoted values (RFC 9111 section 5.2)
``dictionary``                targeted fields, a strict Structured Field (RFC 9213 section 2.1, RFC 8941 section 4.2.2)
``delta_seconds``             RFC 9111 section 1.2.2
``http_date``                 the three formats of RFC 9110 section 5.6.7, and nothing that only looks like them
``date_of``                   the Date of a message (RFC 9110 section 6.6.1)
``entity_tags``               a list of entity tags, without their weakness (RFC 9110 sections 8.8.3 and 13.1.2)
============================  ===========================================================================================
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterable

MOST_SECONDS = 2 ** 31                                   # what is larger means as much: for ever (section 1.2.2)
YEAR = 31556952                                          # seconds, of the Gregorian calendar on average
MONTHS = {name: number for number, name in enumerate(
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)}
DAYS = r"(?:mon|tue|wed|thu|fri|sat|sun)"
LONG_DAYS = r"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
DATES = tuple(re.compile(pattern, re.ASCII | re.IGNORECASE) for pattern in (
    rf"{DAYS}, (?P<day>\d\d) (?P<month>[a-z]{{3}}) (?P<year>\d{{4}}) {CLOCK} GMT",
    rf"{LONG_DAYS}, (?P<day>\d\d)-(?P<month>[a-z]{{3}})-(?P<year>\d\d) {CLOCK} GMT",
    rf"{DAYS} (?P<month>[a-z]{{3}}) (?P<day>[ \d]\d) {CLOCK} (?P<year>\d{{4}})"))
DIGITS = re.compile(r"[0-9]+")
ENTITY_TAG = re.compile(r'(?:[Ww]/)?("[^"]*")|([^\s,"]+)')
DIRECTIVE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*\\?"?)+')        # a quote that is left open takes all, and never fails
ESCAPE = re.compile(r"\\(.)")

KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
NUMBER = re.compile(r"-?(?:[0-9]{1,12}\.[0-9]{1,3}|[0-9]{1,15})(?![0-9.])")
STRING = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
SF_TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")        # of a Structured Field (RFC 9651 section 3.3.4)
BINARY = re.compile(r":[A-Za-z0-9+/=]*:")
BOOLEAN = re.compile(r"\?[01]")
SPACES = re.compile(r"[ \t]*")

Value = str | int | bool | None                          # of a directive: None is one that cannot be used


def directives(lines: Iterable[str]) -> dict[str, Value]:
    """Name in lower case to value; True without one. Of a name that stands twice the first counts; lists of fields add up."""
    values: dict[str, Value] = {}
    for line in lines:
        for piece in DIRECTIVE.findall(line):
            name, equals, value = piece.strip(" \t").partition("=")
            name = name.lower()
            if not name:
                continue
            meaning: Value = unquote(value) if equals else True
            before = values.setdefault(name, meaning)
            if before is not meaning and name in ("no-cache", "private"):
                values[name] = f"{before},{meaning}" if isinstance(before, str) and isinstance(meaning, str) else True
    return values


def unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return ESCAPE.sub(r"\1", value[1:-1])
    return value


def delta_seconds(value: Value) -> int | None:
    """Seconds, at most MOST_SECONDS; None for what is no such number."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return min(value, MOST_SECONDS) if value >= 0 else None
    if not DIGITS.fullmatch(value):
        return None
    digits = value.lstrip("0") or "0"
    return MOST_SECONDS if len(digits) > 10 else min(int(digits), MOST_SECONDS)


def http_date(text: str, now: float) -> float | None:
    """Unix time. ``now`` decides the century of a two-digit year: one more than 50 years ahead is past (RFC 9110)."""
    text = text.strip(" \t")
    for pattern in DATES:
        if match := pattern.fullmatch(text):
            break
    else:
        return None
    month, day = MONTHS.get(match["month"].lower(), 0), int(match["day"])
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
    if not month or not 1 <= day <= 31 or hour > 23 or minute > 59 or second > 60:
        return None
    year, two_digits = int(match["year"]), len(match["year"]) == 2
    if two_digits:
        this = 1970 + int(now // YEAR)
        year += this - this % 100
    if not year:
        return None
    moment = timegm((year, month, day, hour, minute, second))
    if two_digits and moment > now + 50 * YEAR:
        moment = timegm((year - 100, month, day, hour, minute, second))
    return float(moment)


def date_of(headers: Iterable[tuple[str, str]], now: float) -> float | None:
    """When the origin made a message with these fields, by their Date."""
    return next((http_date(value, now) for name, value in headers if name.lower() == "date"), None)


def entity_tags(lines: Iterable[str]) -> list[str]:
    """The opaque parts of a list of entity tags; ``*`` stands for itself. One without its quotes is taken as if it had them."""
    return [text or (bare if bare == "*" else f'"{bare}"') for line in lines for text, bare in ENTITY_TAG.findall(line)]


def opaque(tag: str) -> str:
    """An entity tag without its weakness, for the weak comparison."""
    tags = entity_tags((tag,))
    return tags[0] if tags else ""


def names(lines: Iterable[str]) -> list[str]:
    """A list of field names, in lower case, without empty ones."""
    return [name for line in lines for piece in line.split(",") if (name := piece.strip(" \t").lower())]


def dictionary(lines: Iterable[str]) -> dict[str, Value] | None:
    """A Structured Field dictionary, parameters left out; None when it is empty or not one."""
    text = ", ".join(lines).strip(" ")
    values: dict[str, Value] = {}
    at = 0
    while True:
        key = KEY.match(text, at)
        if key is None:
            return None
        at = key.end()
        value: Value = True
        if text.startswith("=", at):
            member = _member(text, at + 1)
            if member is None:
                return None
            value, at = member
        end = _parameters(text, at)
        if end is None:
            return None
        values[key[0]] = value
        at = _skip(text, end)
        if at == len(text):
            return values
        at = _skip(text, at + 1) if text[at] == "," else len(text) + 1
        if at >= len(text):                              # not a comma, or one with nothing behind it
            return None


def _member(text: str, at: int) -> tuple[Value, int] | None:
    """The value of a member and where it ends. An inner list is read over: no directive takes one."""
    if not text.startswith("(", at):
        return _bare_item(text, at)
    at += 1
    while True:
        at = _skip(text, at)
        if text.startswith(")", at):
            return "", at + 1
        item = _bare_item(text, at)
        end = _parameters(text, item[1]) if item else None
        if end is None or text[end:end + 1] not in (" ", ")"):
            return None
        at = end


def _bare_item(text: str, at: int) -> tuple[Value, int] | None:
    if match := STRING.match(text, at):
        return ESCAPE.sub(r"\1", match[1]), match.end()
    if match := NUMBER.match(text, at):
        return (None if "." in match[0] else int(match[0])), match.end()
    if match := BOOLEAN.match(text, at):
        return match[0] == "?1", match.end()
    for pattern in (SF_TOKEN, BINARY):
        if match := pattern.match(text, at):
            return None, match.end()                     # right in form, but no directive has such a value
    return None


def _parameters(text: str, at: int) -> int | None:
    while text.startswith(";", at):
        key = KEY.match(text, _skip(text, at + 1))
        if key is None:
            return None
        at = key.end()
        if text.startswith("=", at):
            item = _bare_item(text, at + 1)
            if item is None:
                return None
            at = item[1]
    return at


def _skip(text: str, at: int) -> int:
    match = SPACES.match(text, at)
    return match.end() if match else at
