import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.fields import LONGEST, MOST, READ, WRITTEN, Kinds, UnsafeField, nominations, one_cookie


@pytest.mark.parametrize("line, field", [
    (b"X: y", ("X", "y")), (b"X:y", ("X", "y")), (b"X:\t y \t", ("X", "y")), (b"X:", ("X", "")), (b"X: ", ("X", "")),
    (b"X: a\tb", ("X", "a\tb")), (b"X: caf\xe9", ("X", "caf\xe9")), (b"!#$%&'*+-.^_`|~9: y", ("!#$%&'*+-.^_`|~9", "y")),
    (b"X : y", None), (b" X: y", None), (b": y", None), (b"X", None), (b"", None), (b"X: a\x00", None), (b"X: a\rb", None),
    (b"X: a\nb", None), (b"X: \x7f", None), (b"X\xe9: y", None), (b"(X): y", None), (b"\ty", None)])
def test_a_line_is_read_strictly_the_first_time_and_the_next(line, field):
    for _ in range(2):
        known = READ[line]
        assert (known[0] if known else None) == field
        assert known is None or known[1] == field[0].lower()


@pytest.mark.parametrize("field", [
    ("X", "a\r\nY: b"), ("X", "a\n"), ("X", "\0"), ("X", "\x7f"), ("X y", "a"), ("", "a"), ("X:", "a"),
    ("X\r\n", "a"), ("X", "\u20ac"),
    ("X\xe9", "a")])
def test_what_could_end_a_line_is_never_written(field):
    for _ in range(2):
        with pytest.raises(UnsafeField) as caught:
            WRITTEN[field]
        assert field[1] not in str(caught.value) or len(field[1]) < 2


def test_a_field_is_written_byte_for_byte():
    for _ in range(2):
        assert WRITTEN["x-A", "caf\xe9\ty"] == b"x-A: caf\xe9\ty\r\n"


def test_what_is_written_is_the_text_itself_whatever_it_says_of_itself():
    """A subclass of str may be equal to a text and show itself as another."""
    class Odd(str):
        def __format__(self, how):
            return "a\r\nB: c"

        __str__ = __repr__ = __format__

    WRITTEN.clear()
    assert WRITTEN["X", Odd("plain")] == WRITTEN["X", "plain"] == b"X: plain\r\n"


@pytest.mark.parametrize("name", ["Authorization", "cookie", "Set-Cookie", "X-Api-Key"])
def test_secrets_are_not_kept(name):
    READ.clear()
    WRITTEN.clear()
    assert READ[f"{name}: s3cret".encode()] and WRITTEN[name, "s3cret"]
    assert not READ and not WRITTEN


def test_nothing_long_is_kept():
    READ.clear()
    WRITTEN.clear()
    for size, kept in ((LONGEST + 1, 0), (LONGEST - 10, 1)):
        assert READ[b"X: " + b"y" * size] and WRITTEN["X", "y" * size]
        assert len(READ) == len(WRITTEN) == kept


def test_the_tables_stay_small():
    for number in range(3 * MOST):
        assert READ[b"X: %d" % number] == (("X", str(number)), "x")
        assert WRITTEN["X", str(number)] == b"X: %d\r\n" % number
    assert 0 < len(READ) <= MOST and 0 < len(WRITTEN) <= MOST


def test_kinds_know_every_case_of_a_name():
    kinds = Kinds({"te": 1, "via": 2})
    assert [kinds[name] for name in ("TE", "te", "Te", "VIA", "X-Te", "")] == [1, 1, 1, 2, 0, 0]
    for number in range(3 * MOST):
        assert kinds[f"X-{number}"] == 0
    assert len(kinds) <= MOST


NAME = st.text("abcXYZ-!09", min_size=1)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xff, exclude_characters="\x7f"))


@given(NAME, VALUE)
def test_what_is_written_is_read_again(name, value):
    line = WRITTEN[name, value]
    assert READ[line[:-2]] == ((name, value), name.lower())


@pytest.mark.parametrize("headers, expected", [
    ([], set()), ([("X", "a")], set()), ([("Connection", "")], set()), ([("Connection", "close")], {"close"}),
    ([("connection", " X-A ,,x-b\t,"), ("X-A", "1"), ("CONNECTION", "Keep-Alive")], {"x-a", "x-b", "keep-alive"}),
])
def test_what_connection_nominates(headers, expected):
    assert nominations(headers) == expected


@pytest.mark.parametrize("fields, expected", [
    ([], []), ([("A", "1")], [("A", "1")]), ([("Cookie", "a=1")], [("Cookie", "a=1")]),
    ([("cookie", "a=1"), ("A", "1"), ("Cookie", "b=2")], [("cookie", "a=1; b=2"), ("A", "1")]),
    ([("A", "1"), ("Cookie", "a=1"), ("Cookie", "a=1"), ("A", "1")], [("A", "1"), ("Cookie", "a=1; a=1"), ("A", "1")]),
    ([("Cookie", ""), ("Cookie", "b=2"), ("COOKIE", "")], [("Cookie", "b=2")])])
def test_several_lines_of_cookies_are_one_in_the_place_of_the_first(fields, expected):
    assert one_cookie(fields) == expected
