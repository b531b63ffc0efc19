"""Reading the configuration: the TOML file, the environment, and every mistake at once, each with its place.

The file is ``GATEWAY_CONFIG``, else ``gateway.toml`` in the current directory. In text values ``${NAME}`` is a variable of the
environment, ``${NAME:-default}`` one that may be missing or empty, and ``$${`` the characters themselves. ``GATEWAY_ADMIN``,
``GATEWAY_LOG``, ``GATEWAY_LOG_LEVEL`` and ``GATEWAY_TIMEOUT`` take the place of those settings of ``[gateway]``, unless they are
empty.

A mistake is one sentence: the place as a person finds it, the setting, what is wrong, and what was perhaps meant::

    route "/users/{id}": cache.tll: unknown setting, did you mean ttl?

Each upstream and each route is read by itself. Where one cannot be read completely, what is left of it is still checked, so
that one run names all that can be named.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from ..config import TARGETS, CacheStorage, Config, GatewaySettings, Nginx, Route, UpstreamSettings
from ..errors import ConfigError
from ..routing.pattern import clashes, labels_of, route_problems
from ..values import duration_text, quote
from .checks import check_gateway, check_route, check_storage, check_upstream
from .mistakes import Mistake, Place, mistakes_of, not_a_table, place_text, unknown

DEFAULT_PATH = "gateway.toml"
OVERRIDES = {"admin": "GATEWAY_ADMIN", "log": "GATEWAY_LOG", "log_level": "GATEWAY_LOG_LEVEL", "timeout": "GATEWAY_TIMEOUT"}
MATCHING = frozenset({"path", "host", "methods", "header", "query", "cookie"})
VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")
TOML_PLACE = re.compile(r"(.*) \(at (line (\d+), column \d+|end of document)\)", re.DOTALL)
NEEDS = {"respect": "ttl", "default": "optional", "key": "certificate"}      # settings that are mistakes without another
LARGEST = 16 * 2 ** 20           # characters of the file, which may be no file of ours at all
DEEPEST = 100                    # tables and lists in each other, the whole file counted
LOOKED_BACK = 200                # lines in which the beginning of what is not TOML is looked for

M = TypeVar("M", bound=BaseModel)


def load(path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in a file. Raises ConfigError with every mistake in it."""
    text, name = read_text(path, environ)
    return load_text(text, environ, name)


def read_text(path: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """The text of the configuration file, and its path. Raises ConfigError."""
    name = os.fspath(path or environ.get("GATEWAY_CONFIG") or DEFAULT_PATH)
    try:
        with open(name, encoding="utf-8-sig") as file:      # editors on Windows begin a file with a byte order mark
            text = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise ConfigError([f"there is no file {os.path.abspath(name)}: create it, or name another with --config or"
                           f" GATEWAY_CONFIG"], name) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"byte {error.start} is not UTF-8, the encoding of TOML"], name) from None
    except OSError as error:
        raise ConfigError([f"the file cannot be read: {error.strerror}"], name) from error
    if len(text) > LARGEST:
        raise ConfigError(["the file is larger than 16 MB: is it a configuration?"], name)
    return text, name


def load_text(text: str, environ: Mapping[str, str], source: str = "") -> Config:
    """The configuration in a text. ``source`` is the name of its origin, for ConfigError."""
    try:
        data = tomllib.loads(text)
        deep = nested_deeper(data, DEEPEST)
    except tomllib.TOMLDecodeError:
        raise ConfigError([not_toml(text)], source) from None
    except RecursionError:
        deep = True
    if deep:
        raise ConfigError([f"tables and lists stand in each other, more than {DEEPEST} deep"], source)
    reader = Reader(environ)
    config = reader.config(data)
    if config is None:
        raise ConfigError(reader.problems, source)
    return config


def nested_deeper(value: Any, depth: int) -> bool:
    """Is a value nested deeper than ``depth``? Python's own recursion limit depends on the caller."""
    level = [value]
    for _ in range(depth):
        level = [item for each in level for item in (each.values() if isinstance(each, dict) else each)
                 if isinstance(item, (dict, list))]
    return bool(level)


def not_toml(text: str) -> str:
    """The parser's message, with the line where the unreadable part begins: a missing closing bracket is reported far below it."""
    message = toml_mistake(text)
    match = TOML_PLACE.fullmatch(message)
    if match is None:
        return f"TOML: {message}"
    what = match[1][:1].lower() + match[1][1:]
    if match[3] is None:                                 # on the last line, which may be complete
        match = TOML_PLACE.fullmatch(toml_mistake(text + "\n\n")) or match
    lines = text.splitlines(keepends=True)
    last = int(match[3] or len(lines))
    begin = next((number for number in range(last, max(0, last - LOOKED_BACK), -1)
                  if not toml_mistake("".join(lines[:number - 1]))), None)
    if match[3] is None:
        what = "a value is missing, or the bracket that closes one" if what == "invalid value" else what
        return f"line {begin}: the file ends in the middle of what begins here: {what}" if begin else f"end of the file: {what}"
    return f"{match[2]}: {what}" + (f"; what is wrong begins on line {begin}" if begin and begin != last else "")


def toml_mistake(text: str) -> str:
    """The parser's message; empty when the text is TOML."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return str(error)
    return ""


class Section(NamedTuple):
    """One table as far as it was readable: ``model`` is None when nothing was; ``names`` are the settings in the file, ``invalid``
    those with an unreadable value, ``gaps`` the places of such values."""

    model: Any
    names: frozenset[str]
    invalid: frozenset[str]
    gaps: frozenset[str] = frozenset()


class Reader:
    """Reads one file, collecting ``problems``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []

    def config(self, data: dict[str, Any]) -> Config | None:
        """The configuration, or None when there are problems."""
        self.problems += [f"{name}: {unknown(name, Config.model_fields)}" for name in data if name not in Config.model_fields]
        gateway = self.gateway(data.get("gateway", {}))
        upstreams = self.upstreams(data.get("upstreams", {}))
        routes = self.routes(data.get("routes", []), upstreams, trusting=gateway is None or bool(gateway.trust))
        cache = self.section(CacheStorage, data.get("cache", {}), "cache").model
        if cache is not None:
            self.report("cache", check_storage(cache, routes))
        nginx = self.section(Nginx, data.get("nginx", {}), "nginx").model
        if self.problems:
            return None
        return Config(gateway=gateway, upstreams=upstreams, routes=tuple(routes), cache=cache, nginx=nginx)

    def gateway(self, raw: Any) -> GatewaySettings:
        variables = {setting: name for setting, name in OVERRIDES.items() if self.environ.get(name)}
        gateway = self.section(GatewaySettings, raw, "gateway", variables).model
        if gateway is not None:
            for mistake in check_gateway(gateway):
                setting, _, sentence = mistake.partition(": ")
                self.problems.append(f"gateway: {variables.get(setting, setting)}: {sentence}")
        return gateway

    def upstreams(self, raw: Any) -> dict[str, Any]:
        """By name; None for those that cannot be read, so that routes may still name them."""
        if not isinstance(raw, dict):
            self.problems.append(f"upstreams: {quote(raw)} is not a table: write [upstreams.name]")
            return {}
        sections = {}
        for name, settings in raw.items():
            label = f"upstream {quote(name)}"
            section = self.section(UpstreamSettings, settings, label)
            sections[name] = section.model
            self.report(label, check_upstream(name, section.model), section.gaps)
        return sections

    def routes(self, raw: Any, upstreams: Mapping[str, Any], trusting: bool) -> list[Route]:
        if not isinstance(raw, list):
            what = "is one table" if isinstance(raw, dict) else f"{quote(raw)} is not a list of tables"
            self.problems.append(f"routes: {what}: write [[routes]], in two pairs of brackets")
            return []
        labels = labels_of(map(route_name, raw))
        routes, sound = [], []
        for settings, label in zip(raw, labels):
            route, names, invalid, gaps = self.section(Route, settings, label)
            if route is None:
                continue
            routes.append(route)
            before = len(self.problems)
            self.report(label, route_problems(route))
            if len(self.problems) == before and invalid.isdisjoint(MATCHING):
                sound.append((label, route))
            parts = settings.get("aggregate")
            there = parts if isinstance(parts, dict) else ()
            self.report(label, check_route(route, names, upstreams, trusting, there), gaps)
        self.problems += clashes(sound)
        return routes

    def section(self, model: type[BaseModel], raw: Any, label: str, variables: Mapping[str, str] | None = None) -> Section:
        """One table. ``variables`` are the settings that a variable of the environment decides."""
        if not isinstance(raw, dict):
            self.problems.append(f"{label}: {not_a_table(raw)}")
            return Section(None, frozenset(), frozenset())
        variables = variables or {}
        mistakes: list[Mistake] = []
        values = fill(raw, self.environ, mistakes)
        values.update((setting, self.environ[name]) for setting, name in variables.items())
        gaps = {place for place, _ in mistakes}
        try:
            section: BaseModel | None = model.model_validate(values)
        except ValidationError as error:
            mistakes += [(place, sentence) for place, sentence in mistakes_of(model, error)
                         if not any(place[:length] in gaps for length in range(1, len(place) + 1))]
        invalid = {place[0] for place, _ in mistakes if place}
        if invalid:
            section = remainder(model, values, [place for place, _ in mistakes if place])
        order: dict[str | int, int] = {name: position for position, name in enumerate(raw)}
        for place, sentence in sorted(mistakes, key=lambda mistake: order.get(mistake[0][0], -1) if mistake[0] else -1):
            setting = variables.get(str(place[0])) if place else None
            self.problems.append(": ".join(filter(None, [label, setting or place_text(place), sentence])))
        return Section(section, frozenset(raw), frozenset(map(str, invalid)), frozenset(place_text(place) for place, _ in mistakes))

    def report(self, label: str, mistakes: Iterable[str], gaps: Collection[str] = ()) -> None:
        """Add mistakes. ``gaps`` are the places of unreadable values: nothing is reported as missing there."""
        for mistake in mistakes:
            table, dot, setting = mistake.partition(": ")[0].rpartition(".")
            if f"{table}{dot}{NEEDS.get(setting)}" not in gaps:
                self.problems.append(f"{label}: {mistake}")


def salvage(model: type[M], values: dict[str, Any]) -> M | None:
    """The model without the settings that cannot be read; None when one of them is required."""
    try:
        return model.model_validate(values)
    except ValidationError:                              # reported already, when all the settings were read
        return None


def remainder(model: type[M], values: dict[str, Any], places: Iterable[Place]) -> M | None:
    """The model without the settings at ``places``, and without the tables that require them; None when that is everything. So a
    mistake hides only what depends on it."""
    for place in places:
        values = without(values, place)
    try:
        return model.model_validate(values)
    except ValidationError as error:                     # what was left out is needed by the table around it
        around = {detail["loc"][:-1] for detail in error.errors(include_url=False)}
        return None if () in around else remainder(model, values, around)


def without(value: Any, place: Place) -> Any:
    """A copy of a table without the value at ``place``. Of a list the whole is removed: the places of other items are given by
    their index."""
    if not isinstance(value, dict) or place[0] not in value:
        return value
    name, rest = place[0], place[1:]
    if not rest or not isinstance(value[name], dict):
        return {key: item for key, item in value.items() if key != name}
    return {**value, name: without(value[name], rest)}


def route_name(raw: Any) -> str | None:
    """``Route.name`` of settings that may be wrong; None without a path."""
    if not isinstance(raw, dict) or not isinstance(raw.get("path"), str):
        return None
    matching = {name: value for name, value in raw.items() if name in MATCHING}
    route = salvage(Route, matching) or salvage(Route, {name: matching[name] for name in ("path", "host") if name in matching})
    return route.name if route is not None else raw["path"]


def fill(value: Any, environ: Mapping[str, str], mistakes: list[Mistake], place: Place = ()) -> Any:
    """``value`` with the variables in its texts replaced. Variables that are missing are added to ``mistakes`` and left as
    written."""
    if isinstance(value, dict):
        return {name: fill(item, environ, mistakes, (*place, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [fill(item, environ, mistakes, (*place, position)) for position, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replacement(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if match[0] == "$${":
            return "${"
        if name is None:
            what = "this text" if place[-1:] == ("secret_key",) else quote(value)
            mistakes.append((place, f"{what}: a variable is written ${{NAME}} or ${{NAME:-default}},"
                                    f" and $${{ where the characters themselves are meant"))
        elif default is not None:
            return environ.get(name) or default
        elif name in environ:
            return environ[name]
        else:
            mistakes.append((place, f"the environment has no {name}: set it, or write ${{{name}:-default}}"))
        return match[0]

    return VARIABLE.sub(replacement, value)


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors. It covers single values; how they must fit together only ``load`` checks."""
    document = _for_editors(Config.model_json_schema())
    part, route = document["$defs"]["Part"], document["$defs"]["Route"]
    document["$defs"]["Part"] = {"anyOf": [{"type": "string", "description": 'Short for { from = "..." }.'}, part]}
    route["oneOf"] = [{"required": [target]} for target in TARGETS if target != "view"]
    route["oneOf"].append({"required": ["view"], "properties": {"view": {"not": {"const": False}}}})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Configuration of Wicketgate", **document}


def _for_editors(node: Any) -> Any:
    """Without null, which TOML lacks, and without titles that repeat names; durations as text; and with a variable allowed wherever
    not any text is."""
    if isinstance(node, list):
        return [_for_editors(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    node = {key: _for_editors(value) for key, value in node.items()
            if not (key == "default" and value is None or key == "title" and isinstance(value, str))}
    if isinstance(node.get("default"), float):
        node["default"] = duration_text(node["default"])
    if isinstance(node.get("anyOf"), list) and len(node["anyOf"]) == 1:
        node.update(node.pop("anyOf")[0])
    if "pattern" in node or "enum" in node or node.get("type") in ("boolean", "integer"):
        about = {key: node.pop(key) for key in ("description", "default") if key in node}
        node = {"anyOf": [node, {"type": "string", "pattern": r"\$\{"}], **about}
    return node
