"""Serialization of stored answers for the shared tiers: a versioned binary record with a checksum. Pure.

::

    0      4      5       6       8      12       16
    | WGHC | ver. | flags | zeros | CRC-32 | head's length | head: JSON | bodies, one after the other |

The checksum covers everything behind it. The head is a list ``[key, [entry, ...]]``; an entry is the list of its fields with the
length of its body and, for a compressed body, the original length. The record contains its key, so that it is never served for
another one.

Times are stored in the clock of the tier, which is ``shift`` seconds ahead of ours, so that machines with different clocks agree.

Decoding runs no code of the record. Anything but a complete, undamaged record of this version for this key is a CorruptRecord,
which counts as a miss.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import orjson

from ...errors import with_cause
from ..entry import MOST_VARIANTS, Entry, Variants

VERSION = 1
HEAD = struct.Struct(">4sBBHII")
MAGIC = b"WGHC"
COMPRESSED = 1                  # flag: some body is
WORTH = 1024                    # bytes from which on compression is tried
LEVEL = 1
LARGEST = 64 * 1024 ** 2        # bytes of all bodies
LONGEST_HEAD = 4 * 1024 ** 2    # bytes
TIMES = ("request_time", "response_time", "born", "expires", "stale_while_revalidate", "stale_if_error", "stored_at")
CODED = ("image/", "video/", "audio/", "font/", "application/zip", "application/gzip", "application/zstd", "application/pdf",
         "application/octet-stream")


class CorruptRecord(ValueError):
    """The bytes are not a valid record of this version."""


def encode(key: str, variants: Variants, shift: float = 0.0, compress: bool = False) -> bytes:
    """Serialize the variants under ``key``. Raises ValueError for text that is not valid Unicode."""
    heads, bodies, flags = [], [], 0
    for entry in variants:
        body, whole = entry.body, None
        if compress and len(body) >= WORTH and compressible(entry):
            smaller = zlib.compress(body, LEVEL)
            if len(smaller) < len(body) * 0.9:
                body, whole, flags = smaller, len(body), COMPRESSED
        bodies.append(body)
        heads.append([entry.status, entry.reason, entry.headers, [getattr(entry, name) + shift for name in TIMES], entry.flags,
                      entry.etag, entry.last_modified, entry.vary, list(entry.tags), entry.url, len(body), whole])
    try:
        head = orjson.dumps([key, heads])
    except TypeError as error:
        raise with_cause(ValueError(str(error)), None)
    rest = b"".join([len(head).to_bytes(4, "big"), head, *bodies])
    return b"".join([HEAD.pack(MAGIC, VERSION, flags, 0, zlib.crc32(rest), len(head)), rest[4:]])


def compressible(entry: Entry) -> bool:
    """Is the body worth compressing: without Content-Encoding, and not of a compressed media type?"""
    for name, value in entry.headers:
        lower = name.lower()
        if lower == "content-encoding" or lower == "content-type" and value.lower().startswith(CODED):
            return False
    return True


def decode(key: str, data: bytes, shift: float = 0.0, largest: int = LARGEST) -> Variants:
    """Parse a record into variants, with at most ``largest`` bytes of bodies. Raises CorruptRecord."""
    if len(data) < HEAD.size:
        raise CorruptRecord("too short")
    magic, version, _, _, checksum, length = HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise CorruptRecord("not a record of this version")
    if zlib.crc32(memoryview(data)[12:]) != checksum:
        raise CorruptRecord("the checksum does not match")
    try:
        if length > LONGEST_HEAD:
            raise CorruptRecord("a head of that length")
        stored_key, heads = orjson.loads(memoryview(data)[HEAD.size:HEAD.size + length])
        if stored_key != key:
            raise CorruptRecord("the record of another key")
        entries, at = [], HEAD.size + length
        if len(heads) > MOST_VARIANTS or sum([max(head[10], head[11] or 0) for head in heads]) > largest:
            raise CorruptRecord("more than is kept")
        for head in heads:
            if head[10] < 0:
                raise CorruptRecord("a length below 0")
            entries.append(decode_entry(head, data[at:at + head[10]], shift))
            at += head[10]
    except CorruptRecord:
        raise
    except (ValueError, TypeError, IndexError, KeyError, zlib.error) as error:
        raise with_cause(CorruptRecord(f"{type(error).__name__}: {error}"), None)
    if at != len(data) or not entries:
        raise CorruptRecord("the lengths do not add up")
    return tuple(entries)


def decode_entry(head: list[Any], body: bytes, shift: float) -> Entry:
    """An entry from its head and its stored body."""
    status, reason, headers, times, flags, etag, last_modified, vary, tags, url, length, whole = head
    if whole is not None:
        body = inflate(body, whole)
    if len(body) != (length if whole is None else whole):
        raise CorruptRecord("the body is cut")
    if type(status) is not int or type(flags) is not int or not 100 <= status <= 999:
        raise CorruptRecord("a number of another type")
    # a TypeError for what is no text
    "".join([reason, url, *tags, *[text for field in headers for text in field], *[name for name, _ in vary]])
    "".join([text for text in (etag, *[value for _, value in vary]) if text is not None])
    if last_modified is not None:
        last_modified += 0.0
    moments = {name: moment - shift for name, moment in zip(TIMES, times, strict=True)}
    return Entry(status, reason, [(name, value) for name, value in headers], body, **moments, flags=flags, etag=etag,
                 last_modified=last_modified, vary=tuple((name, value) for name, value in vary), tags=frozenset(tags), url=url)


def inflate(data: bytes, length: int) -> bytes:
    """Decompress a body, which must have exactly ``length`` bytes. Raises CorruptRecord."""
    inflater = zlib.decompressobj()
    body = inflater.decompress(data, length or 1)
    if inflater.unconsumed_tail or not inflater.eof:
        raise CorruptRecord("the compressed body does not have its length")
    return body
