"""Libraries for asyncio do real work on the loop of the hub: aiohttp serves and asks, httpx asks, asgiref calls both ways."""

from __future__ import annotations

import asyncio
import time

import gevent
import httpx
import pytest
from aiohttp import ClientSession, WSMsgType, web
from asgiref.sync import async_to_sync, sync_to_async

from gateway.loop.asyncio_loop import HubLoop, get_policy, install, set_policy

AT_ONCE = 20


@pytest.fixture(autouse=True)
def installed():
    policy = get_policy()
    install()
    yield
    set_policy(policy)


class Service:
    """An aiohttp server on the loop that runs; each answer waits until twenty are asked for."""

    def __init__(self) -> None:
        self.arrived = 0

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_get("/", self.answer)
        app.router.add_get("/ws", self.echo)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return f"127.0.0.1:{self.runner.addresses[0][1]}"

    async def __aexit__(self, *error: object) -> None:
        await self.runner.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        self.arrived += 1
        while self.arrived % AT_ONCE:
            await asyncio.sleep(0.001)
        return web.Response(text="answer")

    async def echo(self, request: web.Request) -> web.WebSocketResponse:
        channel = web.WebSocketResponse()
        await channel.prepare(request)
        async for message in channel:
            await channel.send_str(message.data.upper())
        return channel


def test_aiohttp_asks_twenty_at_once():
    async def main():
        async with Service() as address, ClientSession() as session:
            async def ask():
                async with session.get(f"http://{address}/") as answer:
                    return await answer.text()
            return await asyncio.gather(*(ask() for _ in range(AT_ONCE)))

    assert asyncio.run(main()) == ["answer"] * AT_ONCE


def test_aiohttp_speaks_websocket():
    async def main():
        async with Service() as address, ClientSession() as session, session.ws_connect(f"ws://{address}/ws") as channel:
            await channel.send_str("hello")
            message = await channel.receive()
            return message.type, message.data

    assert asyncio.run(main()) == (WSMsgType.TEXT, "HELLO")


def test_httpx_asks_twenty_at_once():
    async def main():
        async with Service() as address, httpx.AsyncClient(trust_env=False) as client:
            answers = await asyncio.gather(*(client.get(f"http://{address}/") for _ in range(AT_ONCE)))
            return [answer.text for answer in answers]

    assert asyncio.run(main()) == ["answer"] * AT_ONCE


def test_asgiref_calls_both_ways_in_twenty_greenlets():
    """What Flask and Django do for coroutines. On asyncio's own loop all but one fail."""
    arrived = []

    async def part(number: int):
        assert type(asyncio.get_running_loop()) is HubLoop
        arrived.append(number)
        while len(arrived) < AT_ONCE:
            await asyncio.sleep(0.001)
        await sync_to_async(time.sleep)(0.001)
        return number

    greenlets = [gevent.spawn(async_to_sync(part), number) for number in range(AT_ONCE)]
    assert [greenlet.get() for greenlet in greenlets] == list(range(AT_ONCE))
