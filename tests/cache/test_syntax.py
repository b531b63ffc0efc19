"""Reading fields: what is taken as what, and what as nothing."""

from __future__ import annotations

from calendar import timegm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.syntax import delta_seconds, dictionary, directives, entity_tags, http_date, names

NOW = float(timegm((2026, 6, 1, 12, 0, 0)))
NOV_6 = float(timegm((1994, 11, 6, 8, 49, 37)))


@pytest.mark.parametrize("lines, expected", [
    ([], {}),
    ([""], {}),
    ([",, ,"], {}),
    (["no-store"], {"no-store": True}),
    (["No-StOrE, MAX-AGE=5"], {"no-store": True, "max-age": "5"}),
    ([" public ,\tmax-age=5 "], {"public": True, "max-age": "5"}),
    (["max-age=1", "s-maxage=2"], {"max-age": "1", "s-maxage": "2"}),
    (["max-age=1, max-age=2"], {"max-age": "1"}),                        # the first counts
    (["max-age=1", "max-age=2"], {"max-age": "1"}),
    (['max-age="3"'], {"max-age": "3"}),                                 # section 5.2: both forms
    (["max-age='3'"], {"max-age": "'3'"}),
    (['x="max-age=9, no-store", max-age=1'], {"x": "max-age=9, no-store", "max-age": "1"}),
    (['x="a\\"b, no-store", max-age=1'], {"x": 'a"b, no-store', "max-age": "1"}),
    (['x="never ends, max-age=1'], {"x": '"never ends, max-age=1'}),
    (["max-age =1"], {"max-age ": "1"}),                                 # no white space there: not that directive
    (["max-age= 1"], {"max-age": " 1"}),
    (["max-age="], {"max-age": ""}),
    (['x="'], {"x": '"'}),                                               # one quotation mark quotes nothing
    (['x=a"'], {"x": 'a"'}),
    (['no-cache="a, b"'], {"no-cache": "a, b"}),
    (['no-cache="a"', 'no-cache="b"'], {"no-cache": "a,b"}),
    (['no-cache="a", no-cache'], {"no-cache": True}),                    # the unqualified form is the stronger
    (["private", 'private="a"'], {"private": True}),
    (["=5, ok"], {"ok": True}),
])
def test_cache_control(lines, expected):
    assert directives(lines) == expected


@pytest.mark.parametrize("text, expected", [
    ("0", 0), ("5", 5), ("003600", 3600), ("2147483648", 2 ** 31), ("2147483649", 2 ** 31), ("9" * 5000, 2 ** 31),
    ("1500000000", 1_500_000_000), (0, 0),
    ("0" * 5000 + "7", 7), ("", None), ("-1", None), ("+1", None), ("1.0", None), ("1a", None), ("a1", None), (" 1", None),
    ("\u0661", None), ("1_000", None), (True, None), (None, None), (7, 7), (-7, None), (2 ** 40, 2 ** 31)])
def test_delta_seconds(text, expected):
    assert delta_seconds(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("Sun, 06 Nov 1994 08:49:37 GMT", NOV_6),
    ("Sunday, 06-Nov-94 08:49:37 GMT", NOV_6),
    ("Sun Nov  6 08:49:37 1994", NOV_6),
    (" Sun, 06 Nov 1994 08:49:37 GMT ", NOV_6),
    ("SUN, 06 NOV 1994 08:49:37 gmt", NOV_6),
    ("Sunday, 06-Nov-75 08:49:37 GMT", float(timegm((2075, 11, 6, 8, 49, 37)))),
    ("Sunday, 06-Nov-77 08:49:37 GMT", float(timegm((1977, 11, 6, 8, 49, 37)))),     # more than 50 years ahead: past
    ("Sunday, 06-Nov-76 08:49:37 GMT", float(timegm((1976, 11, 6, 8, 49, 37)))),     # as well, by five months
    ("Wednesday, 06-May-76 08:49:37 GMT", float(timegm((2076, 5, 6, 8, 49, 37)))),
    ("Tue, 01 Nov 1994 00:00:00 GMT", float(timegm((1994, 11, 1, 0, 0, 0)))),
    ("Mon, 01 Jan 0001 00:00:00 GMT", float(timegm((1, 1, 1, 0, 0, 0)))),
    ("Fri, 31 Dec 9999 23:59:59 GMT", float(timegm((9999, 12, 31, 23, 59, 59)))),
    ("Sat, 31 Dec 2016 23:59:60 GMT", float(timegm((2017, 1, 1, 0, 0, 0)))),
    ("0", None), ("-1", None), ("", None), ("never", None),
    ("Sun, 06 Nov 1994 08:49:37 UTC", None),
    ("Sun, 06 Nov 1994 08:49:37 +0100", None),
    ("Sun, 06 Nov 1994 08:49:37", None),
    ("Sun 06 Nov 1994 08:49:37 GMT", None),
    ("Sun, 06  Nov 1994 08:49:37 GMT", None),
    ("Sun, 06-Nov-1994 08:49:37 GMT", None),
    ("Sun, 06 Nov 94 08:49:37 GMT", None),
    ("Sun, 06 Nov 1994 08.49.37 GMT", None),
    ("Sun, 06 Nov 1994 8:49:37 GMT", None),
    ("Sun, 06 Now 1994 08:49:37 GMT", None),
    ("Sun, 00 Nov 1994 08:49:37 GMT", None),
    ("Sun, 06 Nov 1994 24:00:00 GMT", None),
    ("Sun, 06 Nov 1994 08:60:00 GMT", None),
    ("Sun, 06 Nov 1994 08:49:61 GMT", None),
    ("Sun, 32 Nov 1994 08:49:37 GMT", None),
    ("Sun, 06 Nov 0000 08:49:37 GMT", None),
    ("\u0661", None),
])
def test_dates(text, expected):
    assert http_date(text, NOW) == expected


@pytest.mark.parametrize("lines, expected", [
    ([], None), ([""], None), (["  "], None),
    (["max-age=60"], {"max-age": 60}),
    (["max-age=60, no-store"], {"max-age": 60, "no-store": True}),
    (["max-age=60", "no-store"], {"max-age": 60, "no-store": True}),
    (["max-age=60,no-store\t,\ta"], {"max-age": 60, "no-store": True, "a": True}),
    ([" max-age=60 "], {"max-age": 60}),
    (["max-age=1, max-age=2"], {"max-age": 2}),                          # RFC 8941: the last counts
    (["no-store=?0"], {"no-store": False}),
    (["max-age=60;x=1;y, a"], {"max-age": 60, "a": True}),
    (["x=(1 2 \"a\");q, max-age=5"], {"x": "", "max-age": 5}),
    (["x=(), max-age=5"], {"x": "", "max-age": 5}),
    (['private="a, b"'], {"private": "a, b"}),
    (['x="a\\"b"'], {"x": 'a"b'}),
    (["x=token, y=:YQ==:, z=1.5"], {"x": None, "y": None, "z": None}),
    (["max-age=-5"], {"max-age": -5}),
    (["Max-Age=60"], None),                                              # keys are lower case
    (["max-age=60,"], None),
    (["max-age=60 no-store"], None),
    (["max-age =60"], None),
    (["max-age= 60"], None),
    (["max-age="], None),
    (["max-age=60, &&&&&"], None),
    (["max-age=1234567890123456"], None),
    (['x="open'], None),
    (["x=(1 2"], None),
    (["x=(1,2)"], None),
    (["x=(,)"], None),
    (["x=(1;)"], None),
    (['x=(1"a")'], None),
    (["x=?2"], None),
    (["max-age=60;"], None),
])
def test_targeted_fields_are_strict(lines, expected):
    assert dictionary(lines) == expected


@pytest.mark.parametrize("lines, expected", [
    (['"a"'], ['"a"']), (['W/"a"'], ['"a"']), (['"a", W/"b" ,"c"'], ['"a"', '"b"', '"c"']), (['"a,b"'], ['"a,b"']),
    (["*"], ["*"]), (["abc"], ['"abc"']), ([""], []), (['"a"', '"b"'], ['"a"', '"b"']), (['""'], ['""']), (['"\xfc"'], ['"\xfc"'])])
def test_entity_tags(lines, expected):
    assert entity_tags(lines) == expected


def test_names():
    assert names(["A,, b ", "\tC"]) == ["a", "b", "c"]


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=60), max_size=3))
def test_nothing_a_header_may_hold_raises(lines):
    directives(lines)
    dictionary(lines)
    entity_tags(lines)
    for line in lines:
        http_date(line, NOW)
        delta_seconds(line)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.*-]{0,8}", fullmatch=True),
                       st.one_of(st.integers(-10 ** 14, 10 ** 14), st.booleans(),
                                 st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=10)), min_size=1))
def test_what_is_written_as_a_dictionary_is_read_as_it(given_values):
    def written(value):
        if isinstance(value, bool):
            return "?1" if value else "?0"
        return str(value) if isinstance(value, int) else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert dictionary([", ".join(f"{name}={written(value)}" for name, value in given_values.items())]) == given_values
