"""The variables of the environment that Gunicorn reads before any of its settings: one that it cannot read ends it, or whatever
imports it, with a traceback or with a sentence that does not name it. ``gateway`` looks at them first. Pure."""

from __future__ import annotations

import shlex
from collections.abc import MutableMapping


def tidy(environ: MutableMapping[str, str]) -> list[str]:
    """What is wrong with them. An empty one is unset, here as everywhere, and is taken out."""
    for name in ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"):
        if not environ.get(name, "unset").strip():
            del environ[name]
    problems = []
    workers = environ.get("WEB_CONCURRENCY", "1")
    if not is_number(workers):
        problems.append(f"WEB_CONCURRENCY: {workers!r} is no number, and Gunicorn reads it at start: unset it; GATEWAY_WORKERS says"
                        " how many workers there are")
    try:
        shlex.split(environ.get("GUNICORN_CMD_ARGS", ""))
    except ValueError as error:
        problems.append(f"GUNICORN_CMD_ARGS: {environ['GUNICORN_CMD_ARGS']!r} is no command line: {str(error).lower()}")
    return problems


def is_number(text: str) -> bool:
    try:
        return int(text) >= 0
    except ValueError:
        return False
