"""The JSON schema and the page of the documentation say what the configuration takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from gateway.configfile.load import load_text, schema, tomllib
from tests.configfile.reading import UP, R


def test_the_schema_is_one_and_accepts_the_repository_s_file():
    made = json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(made)
    jsonschema.validate(tomllib.loads((Path(__file__).parent.parent.parent / "gateway.toml").read_text()), made)


@pytest.mark.parametrize("text, place", [
    ('[gateway]\ntimeut = "1s"', ["gateway"]),
    ('[gateway]\ntimeout = 3', ["gateway", "timeout"]),
    ('[gateway]\ntimeout = "3"', ["gateway", "timeout"]),
    ('[gateway]\nmax_body = -1', ["gateway", "max_body"]),
    ('[upstreams.a]', ["upstreams", "a"]),
    ('[upstreams.a]\ninstances = []', ["upstreams", "a", "instances"]),
    (UP + 'balance = "best"', ["upstreams", "a", "balance"]),
    (UP + 'tls.verify = 1', ["upstreams", "a", "tls", "verify"]),
    (R, ["routes", 0]),
    (R + 'view = true\nupstream = "a"', ["routes", 0]),
    (R + 'view = false', ["routes", 0]),
    (R + 'aggregate = { a = { form = "a:/" } }', ["routes", 0, "aggregate", "a"]),
    (R + 'respond = { status = 99 }', ["routes", 0, "respond", "status"]),
])
def test_the_schema_finds_mistakes_of_single_values(text, place):
    errors = list(jsonschema.Draft202012Validator(schema()).iter_errors(tomllib.loads(text)))
    assert [list(error.absolute_path) for error in errors] == [place]


@pytest.mark.parametrize("text", [
    '[gateway]\ntimeout = "${T:-3s}"\nmax_body = "${M}"', UP + 'tls.verify = "${V}"\nmax_connections = "${N}"', R + 'view = true',
    '[gateway]\nmax_body = 7', '[gateway]\nmax_body = "64mb"', R + 'aggregate = { a = "b:/" }', R + 'upstream = "a"\nview = false',
])
def test_the_schema_accepts_what_can_be_written(text):
    jsonschema.validate(tomllib.loads(text), schema())


def test_every_setting_is_described():
    def undescribed(node, place):
        for name, setting in node.get("properties", {}).items():
            if "$ref" not in setting and "description" not in setting:
                yield f"{place}.{name}"
    made = schema()
    tables = {**made["$defs"], "": made, "Part": made["$defs"]["Part"]["anyOf"][1]}
    assert [name for place, node in tables.items() for name in undescribed(node, place)] == []
    assert made["$defs"]["GatewaySettings"]["properties"]["timeout"]["default"] == "10s"


PAGE = (Path(__file__).parent.parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_the_example_of_the_documentation_has_no_mistakes():
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
    assert [route.path for route in load_text(example, {}).routes] == ["/*", "/api/dashboard/{id:int}", "/old-shop/*"]


def test_the_documentation_lists_every_setting():
    listed = set(re.findall(r"^\| `([^`]+)`", PAGE, re.MULTILINE))
    made = schema()
    tables = {**made["$defs"], "Part": made["$defs"]["Part"]["anyOf"][1]}
    for name, node in tables.items():
        assert set(node["properties"]) <= listed, name
