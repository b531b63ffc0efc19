"""The admin listener of a running instance on this machine, as the command line calls it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..config import Config


def call_admin(config: Config, method: str, path: str, document: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer. Raises ClickException."""
    import http.client

    from ..values import parse_authority
    if config.gateway.admin is None:
        raise click.ClickException("gateway.admin is not set: a running gateway cannot be told anything")
    host, port = parse_authority(config.gateway.admin)
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path, json.dumps(document) if document else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"no gateway answers at {config.gateway.admin}: {error}") from None
    finally:
        connection.close()
    return answer.status, json.loads(text)
