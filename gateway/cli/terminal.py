"""Text for a terminal: what a command prints, and the table of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import Route


def route_row(route: Route) -> dict[str, Any]:
    """One row of the list of routes."""
    return {"host": route.host, "methods": list(route.methods) if route.methods else None, "path": route.path,
            "header": route.header, "query": route.query, "cookie": route.cookie, "target": route.target, "timeout": route.timeout}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows of ``route_row``."""
    from rich.console import Console
    from rich.table import Table

    from ..values import duration_text
    table = Table(box=None, pad_edge=False)
    for title in ("METHODS", "HOST", "PATH", "CONDITIONS", "TARGET", "TIMEOUT"):
        table.add_column(title, overflow="fold")
    for row in rows:
        conditions = [f"{kind} {name}={value}" for kind in ("header", "query", "cookie") for name, value in row[kind].items()]
        table.add_row(*map(plain, (",".join(row["methods"] or ["any"]), row["host"] or "any", row["path"], ", ".join(conditions),
                                   row["target"], duration_text(row["timeout"]) if row["timeout"] else "")))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200                              # a pipe has no width; lines are not to be broken for one
    console.print(table)


def plain(text: str) -> Any:
    """Text that rich does not parse as markup: ``[routes]`` is not a style."""
    from rich.text import Text
    return Text(printable(text))


def count_text(number: int, noun: str) -> str:
    """``1 route``, ``2 routes``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Text that a terminal shows as it is: invalid UTF-8 and control characters are replaced by their codes."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    return "".join(character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
                   for character in safe)
