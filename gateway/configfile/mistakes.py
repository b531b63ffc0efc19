"""A pydantic ValidationError in the words of the configuration file: where, and one sentence about what is wrong. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..values import did_you_mean, quote

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
            text += ("." if text else "") + (step if BARE_KEY.fullmatch(step) else quote(step))
    return text


def mistakes_of(model: type[BaseModel], error: ValidationError) -> list[Mistake]:
    """All mistakes of one validation of ``model``."""
    details = error.errors(include_url=False)
    places = [detail["loc"] for detail in details]
    mistakes = []
    for detail in details:
        place, kind = detail["loc"], detail["type"]
        if kind == "too_short" and any(other[:len(place)] == place and other != place for other in places):
            continue                                     # pydantic counts the items that were good
        if kind == "extra_forbidden":
            sentence = unknown(str(place[-1]), settings_at(model, place[:-1]))
        else:
            sentence = SENTENCES.get(kind, _as_pydantic_says)({**detail, "model": model})
        mistakes.append((place[:-2] if place and place[-1] == "[key]" else place, sentence))
    return mistakes


# Words of other programs' configuration files (nginx, Traefik, Envoy, KrakenD, Kong, HAProxy, Caddy, Gunicorn), and what stands for
# them here: the first of these settings that the table in question may have.
SETTINGS_FOR = {
    **dict.fromkeys(("backend", "cluster", "dest", "destination", "forward_to", "origin", "proxy", "proxy_pass", "reverse_proxy",
                     "service", "target", "to", "uri", "url", "url_pattern"), ("upstream", "from", "instances")),
    **dict.fromkeys(("address", "addresses", "endpoints", "hosts", "servers", "targets", "urls", "nodes"),
                    ("instances", "routes", "host")),
    **dict.fromkeys(("backends", "clusters", "services", "upstream"), ("upstreams", "upstream")),
    **dict.fromkeys(("endpoint", "location", "locations", "paths", "route", "routers", "rules"), ("routes", "path")),
    **dict.fromkeys(("match", "pattern", "prefix", "regex", "rule", "uri_path"), ("path",)),
    **dict.fromkeys(("domain", "domains", "host_header", "hostname", "server_name", "virtual_host", "vhost"),
                    ("host", "server_names")),
    **dict.fromkeys(("pass_host_header", "passhostheader", "preserve_host"), ("host",)),
    **dict.fromkeys(("method", "verb", "verbs", "http_methods"), ("methods", "method")),
    **dict.fromkeys(("lb", "lb_policy", "load_balancer", "loadbalancer", "algorithm", "policy", "strategy"), ("balance",)),
    **dict.fromkeys(("proxy_connect_timeout",), ("connect_timeout",)),
    **dict.fromkeys(("deadline", "proxy_read_timeout", "request_timeout", "response_timeout"), ("timeout",)),
    **dict.fromkeys(("keepalive", "keepalive_timeout", "keep_alive"), ("idle_timeout",)),
    **dict.fromkeys(("client_max_body_size", "body_limit", "max_body_size", "max_request_size"), ("max_body",)),
    **dict.fromkeys(("strip_path", "stripprefix", "strip"), ("strip_prefix",)),
    **dict.fromkeys(("prefix_rewrite", "rewrite_path", "path_rewrite", "replace_path"), ("rewrite",)),
    **dict.fromkeys(("proxy_redirect",), ("rewrite_location",)),
    **dict.fromkeys(("proxy_cookie_domain", "proxy_cookie_path"), ("rewrite_cookies",)),
    **dict.fromkeys(("proxy_set_header", "input_headers"), ("request_headers",)),
    **dict.fromkeys(("add_header", "output_headers"), ("response_headers",)),
    **dict.fromkeys(("alias", "root", "static", "try_files"), ("files",)),
    **dict.fromkeys(("redirect", "return", "response", "direct_response", "static_response"), ("respond",)),
    **dict.fromkeys(("body", "content"), ("text",)),
    **dict.fromkeys(("code", "status_code"), ("status",)),
    **dict.fromkeys(("blueprint", "blueprints", "modules"), ("views",)),
    **dict.fromkeys(("trusted_proxies", "trusted_ips", "trusted_hosts", "forwarded_allow_ips", "set_real_ip_from"), ("trust",)),
    **dict.fromkeys(("access_log", "accesslog", "log_file"), ("log",)),
    **dict.fromkeys(("allow", "fields", "whitelist"), ("pick",)),
    **dict.fromkeys(("deny", "exclude", "blacklist"), ("drop",)),
    **dict.fromkeys(("mapping",), ("rename",)),
    **dict.fromkeys(("expires", "lifetime", "max_age", "proxy_cache_valid"), ("ttl",)),
    **dict.fromkeys(("verify_ssl", "ssl_verify", "insecure_skip_verify", "insecureskipverify"), ("verify", "tls")),
    **dict.fromkeys(("sni",), ("server_name", "tls")),
    **dict.fromkeys(("global", "http", "main", "server", "settings"), ("gateway", "instances")),
}
# The same for what is decided elsewhere.
ELSEWHERE = {
    **dict.fromkeys(("address", "bind", "listen", "port"), "GATEWAY_BIND says where the gateway listens"),
    **dict.fromkeys(("num_workers", "processes", "worker", "worker_processes", "workers"),
                    "GATEWAY_WORKERS says how many there are"),
    **dict.fromkeys(("compression", "gzip", "zstd"), "nginx in front compresses"),
    **dict.fromkeys(("cors",), "response_headers sets Access-Control-Allow-Origin and the like"),
    **dict.fromkeys(("certificate", "ssl", "ssl_certificate"), "nginx in front does the TLS of clients"),
}


def unknown(name: str, candidates: Iterable[str]) -> str:
    names, word = list(candidates), name.lower().replace("-", "_")
    if setting := next((setting for setting in SETTINGS_FOR.get(word, ()) if setting in names), None):
        return f"unknown setting, did you mean {setting}?"
    if word in ELSEWHERE:
        return f"unknown setting; {ELSEWHERE[word]}"
    rest = f"; there are {', '.join(names)}" if len(names) <= FEW else "; gateway schema lists what there is"
    return f"unknown setting{did_you_mean(name, names) or rest}"


def unknown_upstream(name: str, upstreams: Collection[str]) -> str:
    if "://" in name:
        return (f"{quote(name)} is an address; an upstream is named here: declare [upstreams.name] with instances ="
                f" [{quote(name)}], and write its name")
    if not upstreams:
        return f"there is no upstream {quote(name)}; the file declares none"
    return f"there is no upstream {quote(name)}{did_you_mean(name, upstreams) or '; there is ' + ', '.join(sorted(upstreams))}"


def takes(model: type[BaseModel], place: Place, value: Any) -> bool:
    """Is ``value`` valid at ``place``? A suggestion must not be the next mistake."""
    for step in reversed(place):
        value = [value] if isinstance(step, int) else {step: value}
    place = tuple(0 if isinstance(step, int) else step for step in place)
    try:
        model.model_validate(value)
    except ValidationError as error:                         # others may be missing
        return not any(detail["loc"][:len(place)] == place for detail in error.errors(include_url=False))
    return True


def described_at(model: type[BaseModel], place: Place) -> str:
    """A few words about the setting at ``place``; empty for an item of a list."""
    try:
        fields = kind_at(model, place[:-1]).model_fields
    except (AttributeError, IndexError, StopIteration):      # a list, or a table with names of one's own
        return ""
    text = next((field.description for name, field in fields.items() if place[-1] in (name, field.alias)), None)
    return re.split(r"[;.:] |\.$", text)[0] if text else ""


def kind_at(model: type[BaseModel], place: Place) -> Any:
    """The type of what stands at ``place``."""
    kind: Any = model
    for step in place:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = next(field.annotation for name, field in kind.model_fields.items() if step in (name, field.alias))
        else:
            kind = get_args(kind)[1 if get_origin(kind) is dict else 0]
        kind = _bare(kind)
    return kind


def settings_at(model: type[BaseModel], place: Place) -> list[str]:
    """The names of the settings that the table at ``place`` may have."""
    return [field.alias or name for name, field in kind_at(model, place).model_fields.items()]


def _bare(kind: Any) -> Any:
    """The type without Annotated and None."""
    while get_origin(kind) is Annotated or type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return kind


def _as_pydantic_says(detail: Any) -> str:
    return f"{quote(detail['input'])}: {detail['msg']}"


def _choice(detail: Any) -> str:
    choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
    near = did_you_mean(detail["input"], choices) if isinstance(detail["input"], str) else ""
    return f"{quote(detail['input'])} is not one of {', '.join(choices)}{near}"


def _text(detail: Any) -> str:
    value = detail["input"]
    if isinstance(value, (dict, list)):
        return f"{quote(value)} is a {'table' if isinstance(value, dict) else 'list'} where text is needed"
    if about := described_at(detail["model"], detail["loc"]):
        return f"{quote(value)} is not text in quotes: {about}"
    text = str(quote(value))
    return f"{quote(value)} is not text" + (f": write it in quotes, {quote(text)}" if takes(
        detail["model"], detail["loc"], text) else "")


def _list(detail: Any) -> str:
    value = detail["input"]
    item = next((each for each in (value, "name") if takes(detail["model"], detail["loc"], [each])), "...")
    return f"{quote(value)} is not a list: write [{quote(item)}]"


def _says(sentence: str) -> Callable[[Any], str]:
    return lambda detail: sentence.format(quote(detail["input"]), **detail.get("ctx", {}))


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
    return NOT_A_TABLE.format(quote(value))
