"""The record of stored answers: the same comes back, and whatever else is there is a miss, never an answer or a crash."""

from __future__ import annotations

import os
import pickle
import zlib
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.entry import Entry, Variants, compact
from gateway.cache.storage import plain_values as objects
from gateway.cache.storage.codec import COMPRESSED, HEAD, TIMES, CorruptRecord, decode, encode

FIELDS = tuple(name for name in dir(Entry) if not name.startswith("_") and not callable(getattr(Entry, name))
               and name not in ("digest", "size"))       # which are made of the others
text = st.text(st.characters(max_codepoint=255), max_size=20)
times = st.floats(0, 4e9)
entries = st.builds(
    Entry, st.integers(200, 599), text, st.lists(st.tuples(text, text), max_size=5), st.binary(max_size=3000),
    request_time=times, response_time=times, born=times, expires=times, stale_while_revalidate=times, stale_if_error=times,
    flags=st.integers(0, 31), etag=st.none() | text, last_modified=st.none() | times,
    vary=st.lists(st.tuples(text, st.none() | text), max_size=3).map(tuple), tags=st.frozensets(text, max_size=3), url=text,
    stored_at=times)


def fields(variants: Variants) -> list[dict]:
    return [{name: getattr(entry, name) for name in FIELDS} for entry in variants]


def sample(body: bytes = b"body", **more) -> Variants:
    times = {name: 1_700_000_000.25 + number for number, name in enumerate(TIMES)}
    more = {"headers": [("Content-Type", "text/html"), ("ETag", '"1"')], **more}
    return Variants([Entry(200, "OK", more.pop("headers"), body, **times, etag='"1"', last_modified=1.6e9,
                           vary=(("accept", "text/html"), ("x", None)), tags=frozenset({"a", "b"}), url="http://a/b?c", **more)])


@given(st.lists(entries, min_size=1, max_size=3), text, st.booleans())
def test_the_same_comes_back(stored, key, compress):
    variants = Variants(stored)
    assert fields(decode(key, encode(key, variants, compress=compress))) == fields(variants)


def test_every_field_of_an_entry_is_in_it():
    """A field that is added to Entry has to be added to the record, and VERSION has to grow."""
    changed = sample()
    for name in FIELDS:
        assert getattr(decode("k", encode("k", changed))[0], name) == getattr(changed[0], name), name
    assert len(FIELDS) == 17


@pytest.mark.parametrize("shift", [0.0, 100.5, -3600.0])
def test_times_are_kept_in_the_clock_of_the_tier(shift):
    here = decode("k", encode("k", sample(), shift), shift)
    assert fields(here) == fields(sample())
    elsewhere = decode("k", encode("k", sample(), shift), 0.0)[0]
    for name in TIMES:
        assert getattr(elsewhere, name) == getattr(sample()[0], name) + shift
    assert elsewhere.last_modified == 1.6e9, "a date of the answer's own"


@pytest.mark.parametrize("body, headers, smaller", [
    (b"text " * 1000, [], True),
    (b"text " * 1000, [("Content-Type", "text/html")], True),
    (b"text " * 1000, [("content-ENCODING", "br")], False),
    (b"text " * 1000, [("CONTENT-type", "IMAGE/png")], False),
    (b"t" * 1023, [], False),
    (b"t" * 1024, [], True),
    (os.urandom(5000), [], False),
    (b"", [], False),
])
def test_compression(body, headers, smaller):
    plain, packed = (encode("k", sample(body, headers=headers), compress=compress) for compress in (False, True))
    assert (len(packed) < len(plain)) is smaller and bool(packed[5] & COMPRESSED) is smaller
    assert decode("k", packed)[0].body == body


@pytest.mark.parametrize("data", [
    b"", b"x", b"WGHC", pickle.dumps(sample()[0].headers), b"\x80\x05cos\nsystem\n(S'true'\ntR.", b"{}" * 30,
    HEAD.pack(b"WGHC", 1, 0, 0, 0, 0), HEAD.pack(b"WGHC", 1, 0, 0, zlib.crc32(b"\0\0\0\0"), 0)])
def test_what_is_foreign(data):
    with pytest.raises(CorruptRecord):
        decode("k", data)


def test_every_flipped_bit_is_noticed():
    record = encode("k", sample(b"b" * 40))
    for position in range(len(record)):
        if position in (5, 6, 7):                        # flags for people, and zeros
            continue
        damaged = bytearray(record)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(CorruptRecord):
            decode("k", bytes(damaged))


def test_every_cut_is_noticed():
    record = encode("k", sample(b"b" * 40))
    for length in range(len(record)):
        with pytest.raises(CorruptRecord):
            decode("k", record[:length])
    with pytest.raises(CorruptRecord):
        decode("k", record + b"x")


def test_another_version_and_another_key():
    record = bytearray(encode("k", sample()))
    with pytest.raises(CorruptRecord, match="another key"):
        decode("other", bytes(record))
    record[4] += 1
    with pytest.raises(CorruptRecord, match="version"):
        decode("k", bytes(record))


def sealed(head: bytes, bodies: bytes = b"") -> bytes:
    """A record with a right checksum, whatever is in it."""
    rest = len(head).to_bytes(4, "big") + head + bodies
    return HEAD.pack(b"WGHC", 1, 0, 0, zlib.crc32(rest), len(head)) + rest[4:]


@pytest.mark.parametrize("head", [b"", b"[]", b"{}", b"null", b'["k", []]', b'["k", [[]]]', b'["k", [1]]', b'["k", {"a": 1}]',
                                  b'["k", [[200, "OK", [], [1,2,3], 0, null, null, [], [], "", 0, null]]]',
                                  b'["k", [[200, "OK", [["a"]], [1,2,3,4,5,6,7], 0, null, null, [], [], "", 0, null]]]',
                                  b'["k", [[200, "OK", [], [1,2,3,4,5,6,7], 0, null, null, [], [], "", -5, null]]]',
                                  b'["k", [[200, "OK", [], [1,2,3,4,5,6,7], 0, null, null, [], [], "", 3, null]]]'])
def test_a_right_checksum_around_nonsense(head):
    with pytest.raises(CorruptRecord):
        decode("k", sealed(head))


@pytest.mark.parametrize("field", range(12))
@pytest.mark.parametrize("value", [None, "x", -1, 1.5, [], {}, [1], [[1, 2]], [["a", None]], [["a", 1]], True, 10 ** 18], ids=repr)
def test_a_right_checksum_around_other_types(field, value):
    """It is refused, or can be kept and sent."""
    data = encode("k", sample())
    length = HEAD.unpack_from(data)[5]
    key, [head] = orjson.loads(data[HEAD.size:HEAD.size + length])
    head[field] = value
    changed = orjson.dumps([key, [head]])
    rest = len(changed).to_bytes(4, "big") + changed + data[HEAD.size + length:]
    try:
        [entry] = decode("k", HEAD.pack(b"WGHC", 1, 0, 0, zlib.crc32(rest), len(changed)) + rest[4:])
    except CorruptRecord:
        return
    assert compact(entry, "k") > 0 and 100 <= entry.status <= 999
    assert all(type(text) is str for pair in entry.headers for text in pair) and entry.expires > 0


def test_a_compressed_body_never_grows_beyond_its_length():
    bomb = zlib.compress(b"0" * 10_000_000)
    head = b'["k", [[200, "OK", [], [1,2,3,4,5,6,7], 0, null, null, [], [], "", %d, 100]]]' % len(bomb)
    with pytest.raises(CorruptRecord, match="length"):
        decode("k", sealed(head, bomb))


@given(st.binary(max_size=200))
def test_any_bytes(data):
    with pytest.raises(CorruptRecord):
        decode("k", data)
    with pytest.raises(CorruptRecord):
        decode("k", sealed(data))


def test_text_that_cannot_be_written_down_is_said_so():
    with pytest.raises(ValueError):
        encode("k", sample(headers=[("X", "\ud800")]))


# -- plain Python values


def unfolded(value):
    """Not the second of two moments with the same name, when clocks are set back."""
    return value.replace(fold=0)


keys = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
plain = st.recursive(
    keys | st.floats(allow_nan=False) | st.decimals(allow_nan=False) | st.uuids() | st.dates() | st.datetimes().map(unfolded)
    | st.times().map(unfolded) | st.timedeltas() | st.frozensets(keys) | st.sets(keys)
    | st.datetimes(timezones=st.just(timezone.utc)).map(unfolded),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner), max_leaves=20)


def exactly(value):
    """A value with the types in it, for comparing: 1, 1.0 and True are not the same."""
    if isinstance(value, dict):
        return dict, [(exactly(key), exactly(each)) for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [exactly(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, value))
    return type(value), value


@given(plain)
def test_plain_values_come_back_exactly(value):
    assert exactly(objects.loads(objects.dumps(value))) == exactly(value)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_an_error(data):
    try:
        objects.loads(data)
    except ValueError:
        pass


class Text(str):
    pass


class Thing:
    pass


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [Thing(), Text("x"), [Thing()], {"a": {1, Text("x")}}, print, Thing, nested(100), 1j,
                                   datetime(2024, 1, 1, tzinfo=timezone.utc).replace(fold=1)],
                         ids=lambda value: type(value).__name__)
def test_what_is_not_plain(value):
    with pytest.raises(objects.NotPlainData):
        objects.dumps(value)


def test_what_is():
    value = {"price": Decimal("9.90"), "id": UUID(int=7), "at": datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))),
             (1, "a"): [nested(90), -(2 ** 200)]}
    assert objects.loads(objects.dumps(value)) == value
