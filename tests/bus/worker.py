"""A worker process for the tests of the bus: ``worker.py journal redis-url name`` says on stdout what it hears of two topics, and
publishes what it reads from stdin, a JSON list of topic, key and payload a line; then it says how many transports have it."""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402

from gateway.bus.bus import Bus  # noqa: E402
from gateway.bus.clock import BUS_CLOCK  # noqa: E402
from gateway.bus.journal import Journal  # noqa: E402
from gateway.bus.notice import Notice  # noqa: E402
from gateway.bus.redis_stream import RedisStream  # noqa: E402
from gateway.remote.redis_client import RedisClient  # noqa: E402
from tests.waiting import SAFETY, until  # noqa: E402


def say(*words: object) -> None:
    print(json.dumps(words), flush=True)


def main(journal: str, url: str) -> None:
    client = RedisClient(url, timeout=SAFETY)
    bus = Bus([Journal(journal), RedisStream(client)], patience=SAFETY)
    for topic in ("stages", "limits"):
        bus.subscribe(topic, lambda notice: say("heard", *notice[:3]), lambda at, topic=topic: say("gap", topic))
    bus.start()
    until(lambda: client.usable)
    say("ready")
    while line := gevent.get_hub().threadpool.apply(sys.stdin.readline):
        topic, key, payload = json.loads(line)
        bus.catch_up()
        say("told", bus.publish(Notice(topic, key, payload, True, BUS_CLOCK.now())).wait())
    bus.stop(1.0)
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
