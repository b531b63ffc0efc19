"""Step: a route's own rules for header fields, in both directions: remove, then set, then add.

``set`` replaces every field of the name by one; ``add`` puts one beside those that are there. Toward an upstream the rules work
on what is about to be sent, after the gateway's own fields, so that they have the last word.

The rules for the answer hold for the gateway's own errors too (a browser hides one without its CORS fields from the page), except
for what they say of the route's content: an error is none, and must not be kept for as long.
"""

from __future__ import annotations

from .config import HeaderRules
from .http.fields import PROXY_WORDS, Kinds
from .message import Handler, Headers, Request, Response

STRANGERS = Kinds(dict.fromkeys(PROXY_WORDS, 1))
OF_CONTENT = frozenset({
    "cache-control", "cdn-cache-control", "surrogate-control", "expires", "age", "etag", "last-modified", "accept-ranges",
    "content-type", "content-encoding", "content-language", "content-location", "content-disposition", "x-accel-expires"})


class Edit:
    """``edit(headers) -> headers`` by one set of rules."""

    def __init__(self, rules: HeaderRules) -> None:
        self.rules = rules
        self._removals = frozenset(name.lower() for name in (*rules.remove, *rules.set))
        self.names = self._removals | frozenset(name.lower() for name in rules.add)
        self._new = [*rules.set.items(), *rules.add.items()]

    def __call__(self, headers: Headers) -> Headers:
        return [field for field in headers if field[0].lower() not in self._removals] + self._new

    def __repr__(self) -> str:
        rules = self.rules
        return ", ".join([*(f"-{name}" for name in rules.remove), *(f"{name}={value}" for name, value in rules.set.items()),
                          *(f"+{name}={value}" for name, value in rules.add.items())])


def edit_of(rules: HeaderRules) -> Edit | None:
    """The edit, or None when the rules are empty."""
    return Edit(rules) if rules.add or rules.set or rules.remove else None


def error_edit_of(rules: HeaderRules) -> Edit | None:
    """The edit for an error's fields: all of the rules except those about the route's content."""
    def about_errors(fields: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in fields.items() if name.lower() not in OF_CONTENT}

    names = tuple(name for name in rules.remove if name.lower() not in OF_CONTENT)
    return edit_of(rules.model_copy(update={"add": about_errors(rules.add), "set": about_errors(rules.set), "remove": names}))


class EditHeaders:
    """Edit the request's fields before ``next`` and the response's after it; either may be None."""

    def __init__(self, next: Handler, request: Edit | None, response: Edit | None) -> None:
        self.next = next
        self.request = request
        self.response = response

    def __call__(self, request: Request) -> Response:
        if self.request is not None:
            headers = request.headers
            if not request.trusted:                      # so that what the rules say of a proxy's fields stays
                headers = [field for field in headers if not STRANGERS[field[0]]]
            request.headers = self.request(headers)
        response = self.next(request)
        if self.response is not None:
            response.headers = self.response(response.headers)
        return response

    def __repr__(self) -> str:
        parts = [f"{side} {edit!r}" for side, edit in (("request", self.request), ("response", self.response)) if edit]
        return "headers: " + "; ".join(parts)
