"""Paths as other frameworks write them, said in the gateway's notation: for the hint in a mistake. Pure.

=================================  ==========================================
Flask                              ``<id>``, ``<int:id>``, ``<path:rest>``
Django                             ``<slug:name>``, ``^users/(?P<id>\\d+)/$``
Express, Rails, Gin                ``:id``, ``:id(\\d+)``, ``:id?``, ``*rest``
Laravel, ASP.NET                   ``{id?}``, ``{id=5}``, ``{*rest}``
FastAPI, gorilla, chi, Spring      ``{id:[0-9]+}``, ``{rest:.*}``, ``/**``
Go                                 ``{rest...}``, ``{$}``
=================================  ==========================================
"""

from __future__ import annotations

import re

ELSEWHERE = re.compile(
    r"<(?P<converter>\w+)(?:\([^<>]*\))?:(?P<flask>\w+)>"
    r"|\(\?P<(?P<django>\w+)>(?P<pattern>[^()]*)\)"
    r"|(?<=/):(?P<colon>[A-Za-z_]\w*)(?:\((?P<restriction>[^()/]*)\))?(?P<amount>[?*+]?)(?=/|$)"
    r"|(?<=/)\*(?P<splat>[A-Za-z_]\w*)(?=$)"
    r"|\{\*{1,2}(?P<all>\w+)\}|\{(?P<dotted>\w+)\.\.\.\}"
    r"|\{(?P<optional>\w+)(?:\?|=[^{}/*]*)\}"
    r"|\{(?P<name>\w+):(?P<regex>\w*[^{}\w][^{}]*)\}"
    r"|(?P<end>\{\$\})|(?<=/)(?P<stars>\*\*)(?=$)")
BARE = re.compile(r"(?<!\?P)<(\w+)>")                     # Flask's, or text: it can come percent-encoded
KINDS = {"int": ":int", "path": ":path", "digits": ":int", r"\d+": ":int", "[0-9]+": ":int", ".*": ":path", ".+": ":path"}


def translated(path: str) -> str | None:
    """``path`` in the gateway's notation, None where nothing in it is surely another's."""
    made = ELSEWHERE.sub(_parameter, path)
    if made == path:
        return None
    made = perhaps(made)
    if "(?P<" in path:
        made = made.removeprefix("^").removesuffix("$")
    return made if made.startswith("/") else "/" + made


def perhaps(path: str) -> str:
    """The same for what may be text as well."""
    return BARE.sub(r"{\1}", path)


def remark(path: str) -> str:
    """What else is to be said of a path that is ``translated``."""
    found = list(ELSEWHERE.finditer(path))
    if any(match["optional"] or match["amount"] in ("?", "*") for match in found):
        return "; where a parameter may be missing, another route takes the path without it"
    return "; a : that begins a segment as text is written %3A" if any(match["colon"] for match in found) else ""


def _parameter(match: re.Match[str]) -> str:
    found = {key: value for key, value in match.groupdict().items() if value is not None}
    if "end" in found:
        return ""
    if "stars" in found:
        return "*"
    name = next(found[key] for key in ("flask", "django", "colon", "splat", "all", "dotted", "optional", "name") if key in found)
    if "splat" in found or "all" in found or "dotted" in found or found.get("amount") in ("*", "+"):
        return f"{{{name}:path}}"
    kind = next((found[key] for key in ("converter", "pattern", "restriction", "regex") if key in found), "")
    return f"{{{name}{KINDS.get(kind, '')}}}"
