"""What is behind the servers: an nginx, and what it answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from .machine import Failed, Process, command, cores, free_port

HERE = Path(__file__).parent
MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
ITEM = {"sku": "A-10{n:02}", "name": "A thing to be sold", "price": 12.5, "stock": 7}


def padded(data: dict[str, Any], size: int) -> bytes:
    """JSON of exactly ``size`` bytes, filled up with text."""
    data["note"] = ""
    data["note"] = "x" * (size - len(json.dumps(data)))
    return json.dumps(data).encode()


ITEMS = [{**ITEM, "sku": f"A-{n:04}"} for n in range(8)]
JSON = padded({"id": 7, "items": ITEMS}, 1024)
USER = padded({"id": 7, "name": "Ada", "team_id": 3, "tags": ["new", "paying"]}, 400)
ORDERS = padded({"orders": [{"number": n, "total": 12.5 * n} for n in range(1, 6)]}, 400)
TEAM = padded({"id": 3, "name": "Analysts", "members": [1, 5, 7]}, 400)
LARGE = bytes(range(256)) * 400                              # 102,400 bytes
POSTED = padded({"order": 12345, "lines": ITEMS[:6]}, 1024)


class Upstream(NamedTuple):
    """Where it is: ``url`` answers, ``hanging`` does not."""

    process: Process
    port: int
    hanging_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def echo_module() -> str:
    for folder in MODULES:
        path = Path(folder, "ngx_http_echo_module.so")
        if path.exists():
            return str(path)
    raise SystemExit("bench: nginx has no echo module; on Debian: apt-get install libnginx-mod-http-echo")


def start(place: Path) -> Upstream:
    """Start it, with its files in ``place``."""
    port, hanging_port = free_port(), free_port()
    (place / "100k").write_bytes(LARGE)
    place.chmod(0o755)                                       # its worker runs as another user when we are root
    text = (HERE / "upstream.conf").read_text()
    for name, value in {"HANGING_PORT": hanging_port, "PORT": port, "PLACE": place, "ECHO_MODULE": echo_module(),
                        "'JSON'": f"'{JSON.decode()}'", "'USER'": f"'{USER.decode()}'", "'ORDERS'": f"'{ORDERS.decode()}'",
                        "'TEAM'": f"'{TEAM.decode()}'"}.items():
        text = text.replace(name, str(value))
    config = place / "upstream.conf"
    config.write_text(text)
    process = Process([command("nginx"), "-c", str(config), "-p", str(place)], [cores().upstream], place / "upstream.out")
    try:
        process.wait_until_it_answers(port, "/json")
    except Failed:
        process.__exit__()
        raise
    return Upstream(process, port, hanging_port)
