"""The answer of a part as a JSON value: its media type, its coding, its characters.

- **Media type.** ``application/json``, ``text/json``, ``.../...+json``, and what the part's ``json_types`` name.
- **Coding.** Parts are asked for with ``Accept-Encoding: identity``. An answer that is compressed all the same is inflated when its
  coding is gzip or deflate (RFC 9110 section 8.4.1; deflate with or without the zlib format, as browsers take it). The limit
  holds for the inflated bytes, at each coding, and is checked while they come: more is never in memory.
- **Characters.** JSON is UTF-8 (RFC 8259 section 8.1), also when its charset says otherwise, as that of many applications does by
  mistake. What is not UTF-8 is read by its byte order mark, by the zeros between its characters, or by the charset that it names,
  if that is one of CHARSETS: the time that some of Python's others take is not linear.

An answer that is none raises Unusable, whose text is why.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

import orjson

from ..deadline import Deadline
from ..errors import BodyTooLarge, with_cause
from ..loop.time_limit import TimeLimit
from ..message import Response

MAX_ANSWER = 8 * 1024 ** 2
MAX_CODINGS = 3
MAX_MEMBERS = 16
NO_CONTENT = (204, 205)
BOM = b"\xef\xbb\xbf"                                    # of UTF-8: PHP sends it when a source file begins with one
JSON_TYPE = re.compile(r"(?:application|text)/(?:[^;\s]+\+)?json\s*(?:;|$)", re.IGNORECASE)
CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s";]+)', re.IGNORECASE)
CHARSETS = re.compile(r"iso-?8859-?\d{1,2}|latin-?\d|(?:windows-?|cp)12\d\d|utf-?(?:16|32)(?:-?[lb]e)?|koi8-[ru]|euc-(?:jp|kr)|"
                      r"shift[_-]jis|big5|gb(?:k|2312|18030)", re.IGNORECASE)
GZIP, ZLIB, RAW = 31, 15, -15                            # what zlib calls the formats
FORMATS = {"gzip": (GZIP,), "x-gzip": (GZIP,), "deflate": (ZLIB, RAW)}


class Unusable(Exception):
    """An answer cannot be a part. The text says why."""


def json_of(response: Response, deadline: Deadline, json_types: frozenset[str]) -> Any:
    """The JSON value of an answer, None without content. Raises Unusable, and what reading the body raises."""
    if not 200 <= response.status < 300:
        raise Unusable(f"answered {response.status}")
    media = codings = ""
    for name, value in response.fields:                      # an upstream's head was not written before
        if len(name) == 12 and name.lower() == "content-type":
            media = value
        elif len(name) == 16 and name.lower() == "content-encoding":
            codings = f"{codings}, {value}" if codings else value
    empty = response.status in NO_CONTENT
    if not (empty or JSON_TYPE.match(media) or json_types and media.partition(";")[0].strip().lower() in json_types):
        raise Unusable(f"answered {media or 'without Content-Type'} where JSON is expected")
    try:
        data = whole_body(response, deadline)
        if codings and not empty:
            data = decode(data, codings)
    except BodyTooLarge:
        raise with_cause(Unusable(f"answered more than {MAX_ANSWER // 1024 ** 2} MB"), None)
    return None if empty else parse(data, media)


def whole_body(response: Response, deadline: Deadline) -> bytes:
    """The body, within the deadline: a stream alone would be read for as long as bytes arrive."""
    if isinstance(response.body, bytes):
        return response.read(MAX_ANSWER)
    with TimeLimit(deadline.left(), deadline.over()):
        return response.read(MAX_ANSWER)


def decode(data: bytes, codings: str) -> bytes:
    """The data without their codings, of which the last is the outermost. Raises Unusable, and BodyTooLarge above MAX_ANSWER."""
    names = [name for coding in codings.lower().split(",") if (name := coding.strip()) not in ("", "identity")]
    if len(names) > MAX_CODINGS:
        raise Unusable(f"answered with {len(names)} codings")
    for name in reversed(names):
        if name not in FORMATS:
            raise Unusable(f"answered in the coding {name[:40]!r}, which was not asked for")
        data = inflate(data, name)
    return data


def inflate(data: bytes, name: str) -> bytes:
    for wbits in FORMATS[name]:
        try:
            return inflate_format(data, wbits)
        except zlib.error:
            continue
    raise Unusable(f"answered in the coding {name!r}, and it is broken")


def inflate_format(data: bytes, wbits: int) -> bytes:
    """All members of gzip, or the one of the other formats. Raises zlib.error, also for truncated data, and BodyTooLarge."""
    pieces: list[bytes] = []
    size = 0
    while data:
        if len(pieces) == MAX_MEMBERS:                   # each copies what follows it
            raise zlib.error("it has too many members")
        inflater = zlib.decompressobj(wbits)
        piece = inflater.decompress(data, MAX_ANSWER - size + 1)
        size += len(piece)
        if size > MAX_ANSWER:
            raise BodyTooLarge(f"more than {MAX_ANSWER} bytes when inflated")
        if not inflater.eof:
            raise zlib.error("it ends early")
        pieces.append(piece)
        data = inflater.unused_data.lstrip(b"\0") if wbits == GZIP else b""
    return b"".join(pieces)


def parse(data: bytes, media: str) -> Any:
    """The value of a JSON text. Raises Unusable."""
    try:
        return orjson.loads(data.removeprefix(BOM))
    except orjson.JSONDecodeError:
        text = text_of(data, media)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise with_cause(Unusable("answered JSON that cannot be parsed"), None)


def text_of(data: bytes, media: str) -> str:
    """The text of data that are not UTF-8, empty when it cannot be decoded. As UTF-8 it may be twice as long as ``data``."""
    match = CHARSET.search(media)
    charset: str = json.detect_encoding(data)
    if charset.startswith("utf-8"):
        charset = match[1] if match and CHARSETS.fullmatch(match[1]) else "utf-8"
    try:
        return data.decode(charset)
    except (UnicodeError, LookupError):
        return ""


__all__ = ["MAX_ANSWER", "Unusable", "json_of"]
