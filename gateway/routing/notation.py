"""Paths as other frameworks write them, said in the gateway's notation: for the hint in a mistake. Pure.

=================================  ==========================================
Flask                              ``<id>``, ``<int:id>``, ``<path:rest>``
Django                             ``<slug:name>``, ``^users/(?P<id>\\d+)/$``
Express, Rails, Gin                ``:id``, ``:id(\\d+)``, ``:id?``, ``:id.:format``, ``*rest``
Laravel, ASP.NET                   ``{id?}``, ``{id=5}``, ``{*rest}``
FastAPI, gorilla, chi, Spring      ``{id:[0-9]+}``, ``{rest:.*}``, ``/**``
Go                                 ``{rest...}``, ``{$}``
API gateways                       ``{proxy+}``, ``{rest*}``
Next.js                            ``[id]``, ``[...rest]``, ``[[...rest]]``
=================================  ==========================================
"""

from __future__ import annotations

import re

ELSEWHERE = re.compile(
    r"<(?P<converter>\w+)(?:\([^<>]*\))?:(?P<flask>\w+)>"
    r"|\(\?P<(?P<django>\w+)>(?P<pattern>[^()]*)\)"
    r"|(?<=[/.-]):(?P<colon>[A-Za-z_]\w*)(?:\((?P<restriction>[^()/]*)\))?(?P<amount>[?*+]?)(?=[/.-]|$)"
    r"|(?<=/)\[(?P<bracket>\w+)\](?=/|$)|(?<=/)\[\.\.\.(?P<spread>\w+)\](?=/|$)|(?<=/)\[\[\.\.\.(?P<maybe>\w+)\]\](?=/|$)"
    r"|(?<=/)\*(?P<splat>[A-Za-z_]\w*)(?=$)"
    r"|\{\*{1,2}(?P<all>\w+)\}|\{(?P<plus>\w+)[+*]\}|\{(?P<dotted>\w+)\.\.\.\}"
    r"|\{(?P<optional>\w+)(?:\?|=[^{}/*]*)\}"
    r"|\{(?P<name>\w+):(?P<regex>\w*[^{}\w][^{}]*)\}"
    r"|(?P<end>\{\$\})|(?<=/)(?P<stars>\*\*)(?=$)")
NAMES = ("flask", "django", "colon", "bracket", "spread", "maybe", "splat", "all", "plus", "dotted", "optional", "name")
SEVERAL = {"spread", "maybe", "splat", "all", "plus", "dotted"}    # of these a parameter takes several segments
URL = re.compile(r"(?i)https?://([\w.-]+)(/[^\"]*)?")
REGEX = re.compile(r"[\^~(\\]")
BARE = re.compile(r"(?<!\?P)<(\w+)>")                     # Flask's, or text: it can come percent-encoded
KINDS = {"int": ":int", "path": ":path", "digits": ":int", r"\d+": ":int", "[0-9]+": ":int", ".*": ":path", ".+": ":path"}


def translate(path: str) -> str | None:
    """``path`` in the gateway's notation; None when no part of it is clearly another framework's."""
    pattern = ELSEWHERE.sub(_parameter, path)
    if pattern == path:
        return None
    pattern = perhaps(pattern)
    if "(?P<" in path:
        pattern = pattern.removeprefix("^").removesuffix("$")
    return pattern if pattern.startswith("/") else "/" + pattern


def perhaps(path: str) -> str:
    """``path`` with the parts translated that may be plain text as well."""
    return BARE.sub(r"{\1}", path)


def remark(path: str) -> str:
    """A hint that goes with a path that ``translate`` changes."""
    matches = list(ELSEWHERE.finditer(path))
    if any(match["optional"] or match["maybe"] or match["amount"] in ("?", "*") for match in matches):
        return "; where a parameter may be missing, another route takes the path without it"
    if any(match["bracket"] or match["spread"] for match in matches):
        return "; a [ as text is written %5B"
    return "; a : that begins a segment as text is written %3A" if any(match["colon"] for match in matches) else ""


def without_slash(path: str) -> str:
    """A hint for a path that does not begin with a slash."""
    if url := URL.fullmatch(path):
        return f'; did you mean path = "{url[2] or "/"}" with host = "{url[1]}"?'
    if REGEX.match(path):
        return "; regular expressions are not known here: {name} is one segment, /* at the end is all that follows"
    return f': write "/{path}"'


def _parameter(match: re.Match[str]) -> str:
    parts = {key: value for key, value in match.groupdict().items() if value is not None}
    if "end" in parts:
        return ""
    if "stars" in parts:
        return "*"
    name = next(parts[key] for key in NAMES if key in parts)
    if not SEVERAL.isdisjoint(parts) or parts.get("amount") in ("*", "+"):
        return f"{{{name}:path}}"
    kind = next((parts[key] for key in ("converter", "pattern", "restriction", "regex") if key in parts), "")
    return f"{{{name}{KINDS.get(kind, '')}}}"
