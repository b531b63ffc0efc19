"""Coroutines as views: by the test client, and with a client that leaves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from flask import Blueprint, current_app, request

from gateway.app import Gateway
from gateway.async_views import sync_of
from gateway.config import Config
from gateway.loop.coroutines import close_shared_loop
from gateway.message import Request
from gateway.tasks import current_request


@pytest.fixture
def shared_loop():
    yield
    close_shared_loop()


def test_the_test_client_runs_async_views(shared_loop):
    app = Gateway(Config.model_validate({"gateway": {"log": "off"}}))

    @app.get("/x")
    async def answer():
        await asyncio.sleep(0)
        return f"{request.path} {current_app.name}"

    try:
        assert app.test_client().get("/x").text == "/x gateway"
    finally:
        app.pipeline.close()


@pytest.mark.parametrize("is_needed, watched", [(True, 0), (False, 1)])
def test_a_client_that_leaves_ends_no_clean_up(shared_loop, monkeypatch, is_needed, watched):
    sockets = []
    monkeypatch.setattr("gateway.async_views.watch", lambda sock: sockets.append(sock) or 1_000_000)
    made = Request("GET", "/x", [])
    made.connection = SimpleNamespace(socket="the socket")
    token = current_request.set(made)
    try:
        assert sync_of(asyncio.sleep, is_needed)(0, "slept") == "slept"
    finally:
        current_request.reset(token)
    assert sockets == ["the socket"] * watched


def test_teardown_functions_are_needed_without_a_client(monkeypatch):
    async def view():
        """A view."""

    async def clean_up(error):
        """A clean-up."""

    app = Gateway(Config.model_validate({"gateway": {"log": "off"}}))
    blueprint = Blueprint("b", __name__)
    blueprint.teardown_request(clean_up)
    app.register_blueprint(blueprint)
    needed = []
    monkeypatch.setattr("gateway.app.sync_of", lambda function, is_needed: needed.append(is_needed))
    app.ensure_sync(view)
    app.ensure_sync(clean_up)
    app.teardown_appcontext(view)
    app.ensure_sync(view)
    assert needed == [False, True, True]
