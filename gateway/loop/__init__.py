"""The event loop: pooled greenlets, native threads, readiness of sockets, sends of one turn, time limits, clients that go away; and
asyncio on it."""
