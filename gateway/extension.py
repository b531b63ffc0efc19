"""Steps and targets of the user's own, written in Python and named in the configuration of a route::

    [[routes]]
    path = "/quotes/*"
    upstream = "quotes"
    steps = ["shop.steps:Audit", { use = "shop.steps:Tenant", header = "X-Tenant" }]

    [[routes]]
    path = "/prices/{sku}"
    handler = "shop.handlers:prices"

The contract is that of the gateway's own parts. A handler is ``(Request) -> Response``. A step is called once, when the route is
put together, with the handler inside it and its settings as keyword arguments, and gives a handler. While either runs, the request
is the current one: what it calls through ``requests`` takes the time that is left. A GatewayError is answered as what it is,
anything else as 500, with its traceback in the log. The deadline ends a target that waits; a step looks at ``request.deadline``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from .config import StepSettings
from .http.closing_stream import ClosingStream
from .message import Handler, Request, Response
from .tasks import Guard, current_request


class OwnPartError(ValueError):
    """A step or target of the user's own cannot be used. The text begins with the setting that names it."""


class OwnStep:
    """A user's step. ``next`` is the handler inside it, for whoever looks through the pipeline."""

    def __init__(self, next: Handler, settings: StepSettings) -> None:
        self.next = next
        self.name = settings.use
        self.handler = make_handler(load("steps", settings.use), next, settings.model_extra or {}, settings.use)

    def __call__(self, request: Request) -> Response:
        return run_as_current(request, self.handler, self.name)

    def __repr__(self) -> str:
        return f"step {describe(self.handler, self.name)}"


class OwnTarget:
    """A user's target."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.handler = load("handler", name)
        if not callable(self.handler):
            raise OwnPartError(f"handler: {name} cannot be called")
        if problem := signature_problem(self.handler, (None,), {}):
            raise OwnPartError(f"handler: {name} does not take a request: {problem}")

    def __call__(self, request: Request) -> Response:
        with Guard(request.deadline):
            return run_as_current(request, self.handler, self.name)

    def __repr__(self) -> str:
        return f"handler {describe(self.handler, self.name)}"


def load(setting: str, reference: str) -> Any:
    """What ``package.module:name`` stands for. Raises OwnPartError, whose cause is what the module raised."""
    module, _, name = reference.partition(":")
    try:
        value = import_module(module)
    except (Exception, SystemExit) as error:             # a module may fail in any way while it is run
        raise OwnPartError(f"{setting}: cannot import {module!r}: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(value, part):
            raise OwnPartError(f"{setting}: {module!r} has no {name!r}")
        value = getattr(value, part)
    return value


def make_handler(step: Any, next: Handler, settings: Mapping[str, Any], reference: str) -> Handler:
    """The handler that a step gives. Raises OwnPartError."""
    if not callable(step):
        raise OwnPartError(f"steps: {reference} is neither a class nor a function")
    if problem := signature_problem(step, (next,), settings):
        raise OwnPartError(f"steps: {reference} does not take these settings: {problem}")
    try:
        handler = step(next, **settings)
    except Exception as error:
        raise OwnPartError(f"steps: {reference} cannot be made: {type(error).__name__}: {error}") from error
    if not callable(handler):
        raise OwnPartError(f"steps: {reference} gives {type(handler).__name__}, which is no handler")
    return handler


def signature_problem(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    """Why a function cannot be called so; empty when it can, or when nobody can tell."""
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as error:
        return str(error)
    except ValueError:                                   # builtins that do not say what they take
        return ""
    return ""


def run_as_current(request: Request, handler: Handler, name: str) -> Response:
    """What a user's handler answers, the request being the current one until the end of a streamed body. Raises TypeError for what
    is no Response, or has fields that are none: later nobody could tell whose fault that is."""
    token: Any = current_request.set(request)
    try:
        response = handler(request)
        if not isinstance(response, Response):
            raise TypeError(f"{name} gave {type(response).__name__} instead of a Response")
        if response.head_lines is None and not all(map(is_field, response.fields)):
            raise TypeError(f"{name} gave a Response with a header field that is not a pair of texts")
        if not isinstance(response.body, bytes):
            response.body = ClosingStream(response.body, response.body.close, partial(current_request.reset, token))
            token = None
        return response
    finally:
        if token is not None:
            current_request.reset(token)


def is_field(field: object) -> bool:
    return isinstance(field, tuple) and len(field) == 2 and isinstance(field[0], str) and isinstance(field[1], str)


def describe(handler: Any, name: str) -> str:
    """Its name, with what it says about itself."""
    own = type(handler).__repr__
    return name if own in (object.__repr__, type(describe).__repr__) else f"{name}: {handler!r}"
