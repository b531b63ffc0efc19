"""Plain Python values as bytes, for the cache of view code. Pure, and never pickle: reading runs no code.

None, True, False, int, float, str, bytes, list, tuple, set, frozenset, dict, datetime, date, time (without a zone, or with an
offset), timedelta, Decimal, UUID, and these in each other, each exactly of that type. A value is a letter and what it needs; sizes
are four bytes, big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

DEEPEST = 100
SIZE = struct.Struct(">I")
FLOAT = struct.Struct(">d")
CONSTANTS = {None: b"n", True: b"t", False: b"f"}


class NotPlainData(TypeError):
    """The value is of another type."""


def dumps(value: Any) -> bytes:
    """Raises NotPlainData."""
    pieces: list[bytes] = []
    _write(value, pieces.append, 0)
    return b"".join(pieces)


def _write(value: Any, put: Callable[[bytes], None], depth: int) -> None:
    kind = type(value)
    if kind is str:
        _write_sized(b"s", value.encode("utf-8", "surrogatepass"), put)
    elif value is None or kind is bool:
        put(CONSTANTS[value])
    elif kind is bytes:
        _write_sized(b"b", value, put)
    elif kind is float:
        put(b"d" + FLOAT.pack(value))
    elif kind in TEXTS and exact(value):
        letter, to_text, _ = TEXTS[kind]
        _write_sized(letter, to_text(value).encode(), put)
    elif kind in GROUPS:
        if depth == DEEPEST:
            raise NotPlainData(f"nested more than {DEEPEST} deep")
        put(GROUPS[kind] + SIZE.pack(len(value)))
        for each in value:
            _write(each, put, depth + 1)
            if kind is dict:
                _write(value[each], put, depth + 1)
    else:
        raise NotPlainData(f"{kind.__module__}.{kind.__qualname__}")


def exact(value: Any) -> bool:
    """Does the ISO format preserve the value? It loses the name of a time zone."""
    return not isinstance(value, (datetime, time)) or type(value.tzinfo) in (type(None), timezone) and not value.fold


def _write_sized(letter: bytes, data: bytes, put: Callable[[bytes], None]) -> None:
    put(letter + SIZE.pack(len(data)))
    put(data)


def loads(data: bytes) -> Any:
    """Parse what ``dumps`` returned. Raises ValueError for other bytes."""
    try:
        value, end = _read(data, 0, 0)
    except (KeyError, IndexError, TypeError, struct.error, InvalidOperation, OverflowError, RecursionError) as error:
        raise ValueError(f"not a value: {type(error).__name__}: {error}") from None
    if end != len(data):
        raise ValueError("not a value: something is behind it")
    return value


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    letter = data[at:at + 1]
    at += 1
    if letter in SINGLE:
        return SINGLE[letter], at
    if letter == b"d":
        return FLOAT.unpack_from(data, at)[0], at + 8
    [size] = SIZE.unpack_from(data, at)
    at += 4
    if letter in READ:
        piece = data[at:at + size]
        if len(piece) != size:
            raise ValueError("not a value: it is cut")
        return READ[letter](piece), at + size
    kind = GROUP_OF[letter]
    if depth == DEEPEST:
        raise ValueError("not a value: nested too deep")
    items = []
    for _ in range(size * 2 if kind is dict else size):
        item, at = _read(data, at, depth + 1)
        items.append(item)
    return dict(zip(items[::2], items[1::2], strict=True)) if kind is dict else kind(items), at


def _seconds(value: timedelta) -> str:
    return f"{value.days} {value.seconds} {value.microseconds}"


def _timedelta(text: str) -> timedelta:
    return timedelta(*map(int, text.split()))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _reader(of: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: of(data.decode())


TEXTS: dict[type, tuple[bytes, Callable[[Any], str], Callable[[str], Any]]] = {
    int: (b"i", "{:x}".format, lambda text: int(text, 16)), Decimal: (b"D", str, Decimal), UUID: (b"U", str, UUID),
    datetime: (b"T", datetime.isoformat, datetime.fromisoformat), date: (b"Y", date.isoformat, date.fromisoformat),
    time: (b"H", time.isoformat, time.fromisoformat), timedelta: (b"I", _seconds, _timedelta),
}
GROUPS: dict[type, bytes] = {list: b"[", tuple: b"(", set: b"{", frozenset: b"<", dict: b":"}
GROUP_OF: dict[bytes, Any] = {letter: kind for kind, letter in GROUPS.items()}
SINGLE = {letter: value for value, letter in CONSTANTS.items()}
READ: dict[bytes, Callable[[bytes], Any]] = {b"s": _text, b"b": bytes}
READ.update({letter: _reader(of) for letter, _, of in TEXTS.values()})
