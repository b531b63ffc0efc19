"""A pydantic ValidationError in the words of the configuration file: where, and one sentence about what is wrong. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from .values import did_you_mean, quoted

Place = tuple[Union[str, int], ...]
Mistake = tuple[Place, str]
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
FEW = 8
NOT_A_TABLE = "{} is not a table of settings"


def place_text(place: Place) -> str:
    """``instances[1]``, ``aggregate.user.from``, ``header."X Y"``."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if BARE_KEY.fullmatch(step) else quoted(step))
    return text


def mistakes_of(model: type[BaseModel], error: ValidationError) -> list[Mistake]:
    """Every mistake that reading ``model`` met."""
    details = error.errors(include_url=False)
    places = [detail["loc"] for detail in details]
    found = []
    for detail in details:
        place, kind = detail["loc"], detail["type"]
        if kind == "too_short" and any(other[:len(place)] == place and other != place for other in places):
            continue                                     # pydantic counts the items that were good
        if kind == "extra_forbidden":
            sentence = unknown(str(place[-1]), settings_at(model, place[:-1]))
        else:
            sentence = SENTENCES.get(kind, _as_pydantic_says)(detail)
        found.append((place[:-2] if place and place[-1] == "[key]" else place, sentence))
    return found


def unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    rest = f"; there are {', '.join(names)}" if len(names) <= FEW else "; gateway schema lists what there is"
    return f"unknown setting{did_you_mean(name, names) or rest}"


def unknown_upstream(name: str, upstreams: Collection[str]) -> str:
    if not upstreams:
        return f"there is no upstream {quoted(name)}; the file declares none"
    return f"there is no upstream {quoted(name)}{did_you_mean(name, upstreams) or '; there is ' + ', '.join(sorted(upstreams))}"


def settings_at(model: type[BaseModel], place: Place) -> list[str]:
    """The names of the settings that the table at ``place`` may have."""
    kind: Any = model
    for step in place:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = next(field.annotation for name, field in kind.model_fields.items() if step in (name, field.alias))
        else:
            kind = get_args(kind)[1 if get_origin(kind) is dict else 0]
        kind = _bare(kind)
    return [field.alias or name for name, field in kind.model_fields.items()]


def _bare(kind: Any) -> Any:
    """The type without Annotated and None."""
    while get_origin(kind) is Annotated or type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return kind


def _as_pydantic_says(detail: Any) -> str:
    return f"{quoted(detail['input'])}: {detail['msg']}"


def _choice(detail: Any) -> str:
    choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
    near = did_you_mean(detail["input"], choices) if isinstance(detail["input"], str) else ""
    return f"{quoted(detail['input'])} is not one of {', '.join(choices)}{near}"


def _text(detail: Any) -> str:
    value = detail["input"]
    if isinstance(value, (dict, list)):
        return f"{quoted(value)} is a {'table' if isinstance(value, dict) else 'list'} where text is needed"
    return f"{quoted(value)} is not text: write it in quotes, {quoted(str(quoted(value)))}"


def _list(detail: Any) -> str:
    return f"{quoted(detail['input'])} is not a list: write [{quoted(detail['input'])}]"


def _says(sentence: str) -> Callable[[Any], str]:
    return lambda detail: sentence.format(quoted(detail["input"]), **detail.get("ctx", {}))


SENTENCES: dict[str, Callable[[Any], str]] = {
    "missing": _says("is missing"),
    "value_error": lambda detail: str(detail["ctx"]["error"]),
    "literal_error": _choice,
    "string_type": _text,
    "tuple_type": _list,
    "too_short": _says("is empty"),
    "dict_type": _says("{} is not a table"),
    "model_type": _says(NOT_A_TABLE),
    "greater_than_equal": _says("{} is too small: at least {ge}"),
    "less_than_equal": _says("{} is too large: at most {le}"),
}


def not_a_table(value: Any) -> str:
    return NOT_A_TABLE.format(quoted(value))
