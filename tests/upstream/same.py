"""What a function does, as a value: two that do the same give the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def outcome(function: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """What it returns or raises; of a mapping the type and the items in their order."""
    try:
        result = function(*arguments)
    except Exception as error:
        return "raised", type(error), str(error)
    return "returned", type(result), list(result.items()) if hasattr(result, "items") else result
