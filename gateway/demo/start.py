"""Starting the demo, watching it, and ending it.

Everything listens on loopback, keeps its files in one temporary folder, and ends with the demo. Ports follow from one number::

    8000  nginx (without it: the only instance)      8011 8012 8013  the services users, orders, inventory
    8001 8002  instances of the gateway              9901 9902       their admin listeners
"""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from ..configfile.load import load
from ..nginx.configuration import render
from .processes import ChildDied, Children
from .services import PAUSES, seed

SERVICES = ("users", "orders", "inventory")
PACKAGE = Path(__file__).resolve().parent.parent
READY_WITHIN = 60.0                     # seconds until everything must answer
HIGHEST = 65535 - 1902
OTHERS = range(8100, HIGHEST, 100)      # proposed instead of ports in use
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/bin")    # where nginx is and a user's PATH may not look

TRY = (                                 # what to type, and what it shows
    ("curl {front}/", "the old application: the catch-all takes what no route names"),
    ("curl -i '{front}/echo/a%2Fb//c?q=1+2'", "what it received, byte for byte; both Set-Cookie come back"),
    ("time curl {front}/api/dashboard/7", "four calls, {row} ms in a row, composed in about {chain} ms"),
    ("curl {front}/views/profile/7", "a plain Flask view: two `requests` calls, at once by gather"),
    ("curl -i {front}/stock/desk-001", "a new path for an old service, with header rules"),
    ("curl -i {front}/cached/desk-001", "the cache: the second time Cache-Status says hit, and nobody waits"),
    ("curl -i {front}/old-shop/chair", "an answer that stands in the configuration"),
    ("curl -i {front}/views/profile/0", "an error: problem+json with the id of the request"),
    ("curl {admin}/metrics", "Prometheus metrics; also / /routes /cache /config /healthz /readyz"),
)


class Ports:
    """The demo's ports, counted from the one that clients use."""

    def __init__(self, front: int, nginx: bool) -> None:
        self.front = front
        self.instances = [front + 1, front + 2] if nginx else [front]
        self.admins = [front + 1901, front + 1902][:len(self.instances)]
        self.services = {name: front + 11 + number for number, name in enumerate(SERVICES)}

    def by_name(self) -> dict[int, str]:
        """Each port and what will listen there."""
        labels = {self.front: "nginx"} if len(self.instances) > 1 else {}
        labels.update({port: f"instance {number} of the gateway" for number, port in enumerate(self.instances, 1)})
        labels.update({port: f"the service {name}" for name, port in self.services.items()})
        labels.update({port: f"the admin listener of instance {number}" for number, port in enumerate(self.admins, 1)})
        return labels


class StopSignal:
    """True once a signal has told the demo to end."""

    def __init__(self) -> None:
        self.signals = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1

    def __bool__(self) -> bool:
        return self.signals > 0


def run(port: int = 8000, nginx: bool = True) -> int:
    """Run the demo until Ctrl-C or SIGTERM. Returns the exit status: 0, or 1 when it could not start or something in it died."""
    stop = StopSignal()
    program = find_nginx() if nginx else None
    ports = Ports(port, program is not None)
    try:
        refuse_used(ports)
        config = configuration()
    except (PortsUsed, FileNotFoundError) as error:
        return report_failure(error)
    with tempfile.TemporaryDirectory(prefix="wicketgate-demo-") as name:
        folder = Path(name)
        folder.chmod(0o711)                             # nginx's own user has to reach its temporary files
        seed(folder)
        children = Children(folder, environment(os.environ))
        try:
            launch(children, ports, config, program)
            if wait_ready(children, ports, stop):
                print(greeting(ports, folder, config, nginx), flush=True)
            while not stop:
                children.check()
                time.sleep(0.1)
        except (ChildDied, NotReady) as error:
            return report_failure(error)
        finally:
            print("Stopping.", flush=True)
            children.stop()
    return 0


def report_failure(error: Exception) -> int:
    print(error, file=sys.stderr, flush=True)
    return 1


class PortsUsed(Exception):
    """Something listens where the demo wants to."""


class NotReady(Exception):
    """Something did not answer in time."""


def refuse_used(ports: Ports, others: Sequence[int] = OTHERS) -> None:
    """Raises PortsUsed naming every port of the demo that is not free, and the first number of ``others`` for which all are."""
    if not 0 < ports.front <= HIGHEST:
        raise PortsUsed(f"Port {ports.front} leaves no room for the others: choose one from 1 to {HIGHEST}.")
    if used := used_ports(ports):
        raise PortsUsed("\n".join([*used, advice(len(ports.instances) > 1, others)]))


def advice(nginx: bool, others: Sequence[int]) -> str:
    """How to start the demo where nothing is in its way."""
    free = next((front for front in others if not used_ports(Ports(front, nginx))), "N")
    return f'Free it, or choose other ports: make run ARGS="--port {free}", which is gateway demo --port {free}'


def used_ports(ports: Ports) -> list[str]:
    """A sentence for each port of the demo that cannot be bound."""
    used = []
    for port, what in ports.by_name().items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                reason = "in use" if error.errno == errno.EADDRINUSE else f"not to be had ({error.strerror})"
                used.append(f"Port {port} is {reason}; the demo needs it for {what}.")
    return used


def find_nginx() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), *SBIN)))


def configuration() -> Path:
    """The demo's gateway.toml: the repository's, or where an installation puts it."""
    candidates = PACKAGE.parent / "gateway.toml", Path(sys.prefix) / "share" / "wicketgate" / "gateway.toml"
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError("The demo's configuration is neither " + " nor ".join(map(str, candidates)))


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The children's environment: the user's, without variables that would change what is printed."""
    others = "GATEWAY_", "GUNICORN_", "DEMO_", "WEB_CONCURRENCY"
    variables = {name: value for name, value in environ.items() if not name.startswith(others)}
    path = [str(PACKAGE.parent), *filter(None, [environ.get("PYTHONPATH")])]
    return {**variables, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def launch(children: Children, ports: Ports, config: Path, nginx: str | None) -> None:
    """Start everything; nothing answers yet when this returns."""
    gunicorn = [sys.executable, "-m", "gunicorn"]
    upstreams = {f"DEMO_{name.upper()}": f"http://127.0.0.1:{port}" for name, port in ports.services.items()}
    for name, port in ports.services.items():
        children.start(f"service {name}", [*gunicorn, "-b", f"127.0.0.1:{port}", "-k", "gthread", "--threads", "64",
                                           "--keep-alive", "75", "--no-control-socket",
                                           f"gateway.demo.services:{name}({str(children.folder)!r})"])
    for number, (port, admin) in enumerate(zip(ports.instances, ports.admins), 1):
        children.start(f"gateway {number}", [*gunicorn, "-c", "python:gateway.gunicorn_conf", "gateway.app:create_app()"],
                       env={**upstreams, "GATEWAY_CONFIG": str(config), "GATEWAY_BIND": f"127.0.0.1:{port}",
                            "GATEWAY_WORKERS": "2", "GATEWAY_ADMIN": f"127.0.0.1:{admin}", "GATEWAY_RUN_DIR": str(children.folder)})
    if nginx is not None:
        text = render(load(config, {**children.env, **upstreams}), listen=f"127.0.0.1:{ports.front}",
                      instances=[f"127.0.0.1:{port}" for port in ports.instances], prefix=str(children.folder))
        (children.folder / "nginx.conf").write_text(text)
        children.start("nginx", [nginx, "-p", children.folder, "-e", "error.log", "-c", children.folder / "nginx.conf",
                                 "-g", "daemon off;"])


def wait_ready(children: Children, ports: Ports, stop: StopSignal) -> bool:
    """Wait until everything answers; False when a signal came first. Raises NotReady, ChildDied."""
    probes = [*((port, "/") for port in ports.services.values()), *((port, "/readyz") for port in ports.admins),
              *((port, "/old-shop/") for port in (*ports.instances, ports.front))]
    deadline = time.monotonic() + READY_WITHIN
    while probes and not stop:
        children.check()
        probes = [(port, path) for port, path in probes if not answers(port, path)]
        if probes and time.monotonic() > deadline:
            port = probes[0][0]
            raise NotReady(f"Port {port} ({ports.by_name()[port]}) did not answer within {READY_WITHIN:g} s.")
        time.sleep(0.05)
    return not probes


def answers(port: int, path: str) -> bool:
    """Is there an HTTP answer other than a server's error?"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def greeting(ports: Ports, folder: Path, config: Path, with_nginx: bool) -> str:
    """URLs to try, and what each shows."""
    if len(ports.instances) > 1:
        title = (f"Wicketgate: nginx on {ports.front}, instances of the gateway on {ports.instances[0]} and {ports.instances[1]}, "
                 f"three slow services behind them.")
    else:
        reason = "nginx is not installed (Debian: apt-get install nginx)" if with_nginx else "without nginx"
        title = f"Wicketgate, {reason}: one instance of the gateway listens on {ports.front} itself, three slow services behind it."
    row = sum(PAUSES[name] for name in ("users", "orders", "users", "inventory"))
    values = {"front": f"http://127.0.0.1:{ports.front}", "admin": f"http://127.0.0.1:{ports.admins[0]}",
              "row": round(1000 * row), "chain": round(2000 * PAUSES["users"])}
    lines = [(command.format(**values), shows.format(**values)) for command, shows in TRY]
    width = max(len(command) for command, _ in lines)
    return "\n".join([title, "", *(f"  {command:{width}}  # {shows}" for command, shows in lines), "",
                      f"The configuration is {config}, the logs are in {folder}/", "Ctrl-C stops everything."])
