"""The demo's three legacy services: ordinary Flask and SQLite, one query and one pause at a time, as such applications are.

Nothing here knows of the gateway, and none of it is patched: each runs under Gunicorn's thread worker in processes of its own.
``users`` also plays the old application that everything goes to that no route names. The pause is what makes them slow; the data
is the same on every machine.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, request

USERS, TEAMS, ARTICLES, ORDERS = 1000, 20, 400, 8000
PAUSES = {"users": 0.08, "orders": 0.12, "inventory": 0.06}     # seconds that each service takes to answer anything
SCHEMA = {
    "users": "CREATE TABLE teams (id INTEGER PRIMARY KEY, name TEXT);"
             "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT, team_id INTEGER, favourite TEXT);",
    "orders": "CREATE TABLE orders (number INTEGER PRIMARY KEY, user_id INTEGER, sku TEXT, quantity INTEGER, total_cents INTEGER);"
              "CREATE INDEX orders_by_user ON orders (user_id, number);",
    "inventory": "CREATE TABLE articles (sku TEXT PRIMARY KEY, title TEXT, stock INTEGER, price_cents INTEGER) WITHOUT ROWID;",
}
FIRST = ("Ada", "Alan", "Barbara", "Edsger", "Grace", "Hedy", "Ivan", "Katherine", "Linus", "Margaret")
LAST = ("Bell", "Church", "Dahl", "Engel", "Farr", "Goll", "Hopf", "Iverson", "Jensen", "Knopp")
THINGS = ("chair", "desk", "kettle", "lamp", "mirror", "rug", "shelf", "sofa", "stool", "table")


def seed(folder: Path) -> None:
    """Write the three databases into ``folder``."""
    chance = random.Random(7)
    articles = [(f"{THINGS[number % 10]}-{number:03}", f"{THINGS[number % 10].title()} no. {number}", chance.randrange(50),
                 chance.randrange(500, 90000)) for number in range(1, ARTICLES + 1)]
    teams = [(number, f"Team {number}") for number in range(1, TEAMS + 1)]
    users = []
    for number in range(1, USERS + 1):
        first, last = chance.choice(FIRST), chance.choice(LAST)
        users.append((number, f"{first} {last}", f"{first}.{last}.{number}@shop.test".lower(), chance.randint(1, TEAMS),
                      chance.choice(articles)[0]))
    orders = []
    for number in range(1, ORDERS + 1):
        sku, _, _, price = chance.choice(articles)
        quantity = chance.randint(1, 4)
        orders.append((number, chance.randint(1, USERS), sku, quantity, quantity * price))
    write(folder, "users", {"teams": teams, "users": users})
    write(folder, "orders", {"orders": orders})
    write(folder, "inventory", {"articles": articles})


def write(folder: Path, service: str, tables: dict[str, list[tuple[Any, ...]]]) -> None:
    with closing(sqlite3.connect(folder / f"{service}.db")) as connection:
        connection.executescript(SCHEMA[service])
        for table, rows in tables.items():
            connection.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
        connection.commit()


def service(name: str, folder: str, pause: float | None = None) -> tuple[Flask, Callable[..., list[dict[str, Any]]]]:
    """A Flask application that answers slowly, and its ``query(sql, *values)``, which opens a connection for each call."""
    app = Flask(name)
    seconds = PAUSES[name] if pause is None else pause

    @app.before_request
    def be_slow() -> None:
        time.sleep(seconds)

    def query(sql: str, *values: Any) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(Path(folder) / f"{name}.db")) as connection, connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, values)]

    return app, query


def one(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The only row; 404 without one."""
    for row in rows:
        return row
    abort(404)


def users(folder: str, pause: float | None = None) -> Flask:
    app, query = service("users", folder, pause)

    @app.get("/")
    def home() -> str:
        return "<!doctype html><title>The old shop</title><h1>The old shop</h1><p>This page comes from the old application.</p>\n"

    @app.get("/api/users/<int:number>")
    def user(number: int) -> dict[str, Any]:
        return one(query("SELECT * FROM users WHERE id = ?", number))

    @app.get("/api/teams/<int:number>")
    def team(number: int) -> dict[str, Any]:
        return one(query("SELECT * FROM teams WHERE id = ?", number))

    @app.route("/echo/", defaults={"rest": ""}, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    @app.route("/echo/<path:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def echo(rest: str) -> Response:
        """What arrived here, as it arrived: two cookies show that several Set-Cookie lines stay several."""
        body = {"line": f"{request.method} {request.environ.get('RAW_URI', request.full_path)}", "headers": dict(request.headers),
                "bytes": len(request.get_data())}
        answer = Response(json.dumps(body, indent=2) + "\n", mimetype="application/json")
        answer.set_cookie("old_session", "abc", path="/echo")
        answer.set_cookie("old_basket", "3", path="/echo")
        return answer

    return app


def orders(folder: str, pause: float | None = None) -> Flask:
    app, query = service("orders", folder, pause)

    @app.get("/api/orders")
    def of_user() -> list[dict[str, Any]]:
        number, limit = request.args.get("user_id", type=int), request.args.get("limit", 10, type=int)
        if number is None:
            abort(400)
        return query("SELECT * FROM orders WHERE user_id = ? ORDER BY number DESC LIMIT ?", number, limit)

    @app.post("/api/orders")
    def place() -> tuple[dict[str, Any], int]:
        try:
            order = request.get_json()
            values = int(order["user_id"]), str(order["sku"]), int(order["quantity"]), int(order["total_cents"])
        except (KeyError, TypeError, ValueError):
            abort(400)
        return one(query("INSERT INTO orders (user_id, sku, quantity, total_cents) VALUES (?, ?, ?, ?) RETURNING *", *values)), 201

    return app


def inventory(folder: str, pause: float | None = None) -> Flask:
    app, query = service("inventory", folder, pause)

    @app.get("/api/articles/<sku>")
    def article(sku: str) -> dict[str, Any]:
        return one(query("SELECT * FROM articles WHERE sku = ?", sku))

    return app
