"""Settings and hooks for Gunicorn. ``gunicorn.conf.py`` of the repository takes everything from here; an installation without it
uses ``gunicorn -c python:gateway.gunicorn_conf``. An option on Gunicorn's command line has the last word over a setting.

Environment: ``GATEWAY_BIND`` (127.0.0.1:8000; several with commas), ``GATEWAY_WORKERS`` (1), ``GATEWAY_RUN_DIR`` (where the
instance's run directory is made, see local/run_directory.py), and those of configfile/load.py.

What the master does, before it forks anything: reads the configuration and stops with status 2, naming every mistake or the port
in use; opens the admin listener, which is kept over HUP and handed on at USR2; makes the run directory. A HUP with a broken
configuration changes nothing but what it says in the log and on the admin listener.
"""

from gevent import monkey

monkey.patch_all()

import atexit  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Collection  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

from gunicorn.errors import HaltServer  # noqa: E402
from gunicorn.util import parse_address  # noqa: E402

from gateway.build import RUNNING, Build, edited_files, outdated, own_version  # noqa: E402
from gateway.errors import ConfigError  # noqa: E402
from gateway.local import run_directory  # noqa: E402
from gateway.loop.asyncio_import import enable_asyncio  # noqa: E402
from gateway.server import master  # noqa: E402


def stop(*problems: str) -> NoReturn:
    """End the start: every problem on a line, status 2."""
    for problem in problems:
        print(f"gateway: {problem}", file=sys.stderr)
    sys.stderr.flush()
    raise SystemExit(2)


def addresses(text: str) -> list[str]:
    """The addresses in GATEWAY_BIND. Empty means unset, here as everywhere; so does an empty item between two commas."""
    parts = [address.strip() for address in text.split(",") if address.strip()] or ["127.0.0.1:8000"]
    for address in parts:
        try:
            parsed = parse_address(address)
            if isinstance(parsed, tuple) and (not 0 <= parsed[1] < 65536 or address.count(":") > 1 and "[" not in address):
                raise RuntimeError
        except RuntimeError:
            stop(f'GATEWAY_BIND: {address!r} is no address: write host:port or unix:/path, several with commas')
    return parts


def number_of_workers(text: str) -> int:
    text = text.strip() or "1"
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= run_directory.MOST):
        stop(f"GATEWAY_WORKERS: {text!r} is no number of workers: write one from 1 to {run_directory.MOST}")
    return int(text)


bind = addresses(os.environ.get("GATEWAY_BIND", ""))
workers = number_of_workers(os.environ.get("GATEWAY_WORKERS", ""))
worker_class = "gateway.server.worker.GatewayWorker"
worker_connections = 10000      # of one worker, idle ones included: when they are all taken, new ones wait
backlog = 2048
timeout = 30                    # seconds without a heartbeat after which a worker is blocked and replaced; requests may take longer
graceful_timeout = 30
keepalive = 75                  # longer than nginx keeps its idle connections (60 s), so that nginx is the one to close them

# What nginx accepts by default (large_client_header_buffers 4 8k).
limit_request_line = 8190
limit_request_field_size = 8190
limit_request_fields = 100

http_parser = "python"          # strict; "auto" takes the laxer one as soon as gunicorn_h1c is installed
permit_unconventional_http_method = True                     # any token is a method (RFC 9110 section 9.1)
header_map = "refuse"           # X_Forwarded_For and X-Forwarded-For are one name in a WSGI environ
forwarder_headers = ""
forwarded_allow_ips = ""        # the application decides whom it believes ([gateway] trust)
secure_scheme_headers: dict[str, str] = {}

accesslog = None                # the gateway writes a request log of its own
errorlog = "-"
control_socket_disable = True
reload_extra_files = edited_files(RUNNING)     # --reload itself watches the files that were loaded, compiled or not
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None     # a heartbeat never waits for a disk

OPEN_FILES = 65536
ADMIN_FD = "GATEWAY_ADMIN_FD"


def drop_unwritten() -> None:
    """A line of the log that found no room, on a full disk, is lost: Python would try once more at the end, and exit with 120."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


atexit.register(drop_unwritten)     # in the master, and as its children in the workers


class MasterState:
    """What the master holds for its workers, as ``arbiter.gateway``: the run directory and the admin listener."""

    def __init__(self) -> None:
        self.run_dir: run_directory.RunDir | None = None
        self.admin: socket.socket | None = None
        self.address: str | None = None                      # of the admin listener

    def open_admin(self, address: str | None) -> None:
        """Listen on ``address`` for the admin listener, in place of the one before. Raises OSError, and then keeps that one."""
        if address == self.address and ADMIN_FD not in os.environ:
            return
        listener = inherit_listener(address) or (listen(address) if address else None)
        if self.admin is not None:
            self.admin.close()
        self.admin, self.address = listener, address


def inherit_listener(address: str | None) -> socket.socket | None:
    """The admin listener of the master that USR2 was sent to, if it is for ``address``."""
    number, _, theirs = os.environ.pop(ADMIN_FD, "").partition(" ")
    if not number.isdigit() or "GUNICORN_PID" not in os.environ:         # not by USR2: nobody has handed it on
        return None
    sock = socket.socket(fileno=int(number))
    sock.set_inheritable(False)
    if theirs == address:
        return sock
    sock.close()
    return None


def listen(address: str) -> socket.socket:
    host, port = parse_address(address)
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


def refuse(server: Any, problems: list[str]) -> NoReturn:
    """End the start when there is a master already."""
    if server.pidfile is not None:
        server.pidfile.unlink()
    stop(*problems)


def ports_in_use(server: Any) -> list[str]:
    """Which addresses of ``bind`` cannot be listened on. Gunicorn itself would try for five seconds, and not say 2."""
    return [] if "GUNICORN_FD" in os.environ or "LISTEN_FDS" in os.environ else unavailable(server.cfg)


def unavailable(cfg: Any, ours: Collection[Any] = ()) -> list[str]:
    """Which addresses of ``cfg`` cannot be listened on. ``ours`` are those that this master listens on."""
    problems = []
    for address in () if cfg.reuse_port else cfg.address:
        if isinstance(address, tuple) and address not in ours:
            try:
                listen("[%s]:%d" % address[:2] if ":" in address[0] else "%s:%d" % address[:2]).close()
            except OSError as error:
                problems.append(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}")
    return problems


def read_configuration() -> tuple[Any, str, list[str]]:
    """The configuration and its text, which is what the workers use until the next HUP; or None and what is wrong with it."""
    from gateway.configfile import load

    try:
        text, source = load.read_text(None, os.environ)
        return load.load_text(text, os.environ, source), text, []
    except ConfigError as error:
        return None, "", [f"{error.source}: {problem}" for problem in error.problems]


def on_starting(server: Any) -> None:
    instance = server.gateway = MasterState()
    config, text, problems = read_configuration()
    if problems := problems or ports_in_use(server):
        refuse(server, problems)
    try:
        instance.open_admin(config.gateway.admin)
    except OSError as error:
        refuse(server, [f"cannot listen on {config.gateway.admin} (admin): {error.strerror}"])
    if server.cfg.worker_class_str != worker_class:
        server.log.warning("worker_class is %s, not %s: no fast lane, no answers on the admin listener while it is busy or cannot"
                           " run gevent, no renewal without a gap", server.cfg.worker_class_str, worker_class)
    uid, gid = (server.cfg.uid, server.cfg.gid) if os.geteuid() == 0 else (-1, -1)
    try:
        instance.run_dir = run_directory.start(os.environ.get("GATEWAY_RUN_DIR"), uid, gid)
    except OSError as error:
        refuse(server, [f"GATEWAY_RUN_DIR: cannot make a run directory: {error}"])
    instance.run_dir.offer_config(text)
    server.log.info("Wicketgate %s, %s", own_version(), RUNNING)
    if RUNNING.notice:
        server.log.warning("%s", RUNNING.notice)
    master.protect(server, instance.run_dir, unavailable)
    if os.path.basename(server.START_CTX["args"][1]) == "__main__.py":
        # USR2 runs this again. As a file it would put gunicorn's folder, with its http package, before the standard library.
        server.START_CTX["args"][1:2] = ["-m", "gunicorn"]


def on_reload(server: Any) -> None:
    instance = server.gateway
    config, text, problems = read_configuration()
    problems += server.settings_problems
    if config is not None:
        instance.run_dir.offer_config(text)
        try:
            instance.open_admin(config.gateway.admin)
        except OSError as error:
            problems += [f"gateway: admin: cannot listen on {config.gateway.admin}: {error.strerror}; {instance.address} is kept"]
    for problem in problems:
        server.log.error("%s", problem)
    instance.run_dir.report_config(problems)


def pre_fork(server: Any, worker: Any) -> None:
    worker.gateway = server.gateway
    worker.slot = server.gateway.run_dir.take_slot()


def post_fork(server: Any, worker: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)            # until the worker has its own: the master's would swallow it here
    worker.gateway.run_dir.enter_slot(worker.slot)
    enable_asyncio()


def post_worker_init(worker: Any) -> None:
    """After patching, fork and import of the application: what needs threads, timers or sockets starts here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < limit:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError) as error:               # above fs.nr_open, or forbidden in a container
            worker.log.warning("this worker may open %d files, not %d: %s", soft, limit, error)
    warn_of_changes(worker.log)
    module = sys.modules.get("gateway.app")                  # not imported for an application that does without
    worker.application = module.served_by(worker.wsgi) if module is not None else None
    if module is not None and worker.application is not None:
        module.start_worker(worker.application)
        worker.application.is_reached_directly(worker.wsgi)
    if worker.gateway.admin is None:
        return
    from gateway.admin import listener
    closing = [worker.gateway.admin.close]
    try:
        sock = socket.socket(fileno=os.dup(worker.gateway.admin.fileno()))
        closing.append(listener.start(sock, worker.application).close)
    except OSError as error:
        worker.log.error("this worker does not answer on the admin listener: %s", error)
    worker.on_master_death = lambda: [close() for close in closing]      # the next start is to find the port free


def warn_of_changes(log: Any, running: Build = RUNNING, look: Callable[[], str] = outdated) -> None:
    """Say which sources were edited since the master has started: what it runs itself, its workers run too."""
    if running.name == "compiled" and (problem := look()):
        log.warning("%s; until the instance is started again what was compiled runs", problem)


def worker_exit(server: Any, worker: Any) -> None:
    """In the worker, when it ends; Gunicorn calls it in the master too, for one that vanished."""
    if worker.pid != os.getpid():
        server.gateway.run_dir.free_slot(worker.slot)
        return
    coroutines = sys.modules.get("gateway.loop.coroutines")  # not imported where no coroutine has run
    if coroutines is not None:
        coroutines.close_shared_loop()
    if worker.booted and worker.application is not None:
        sys.modules["gateway.app"].stop_worker(worker.application)


def child_exit(server: Any, worker: Any) -> None:
    server.gateway.run_dir.free_slot(worker.slot)


def pre_exec(server: Any) -> None:
    """In the child that becomes the new master (USR2)."""
    environ = server.cfg.env_orig
    for name in (ADMIN_FD, "GATEWAY_INSTANCE_DIR"):          # of this master, when it was itself started by USR2, or reloaded
        environ.pop(name, None)
    if server.gateway.admin is not None:
        server.gateway.admin.set_inheritable(True)
        environ[ADMIN_FD] = f"{server.gateway.admin.fileno()} {server.gateway.address}"


def on_exit(server: Any) -> None:
    """In the master. A worker's first start that failed for the configuration ends it with 2, as when the file itself is broken."""
    run_dir = server.gateway.run_dir
    mistaken = isinstance(sys.exc_info()[1], HaltServer) and run_dir.config_problems()
    run_dir.remove()
    if mistaken:
        raise SystemExit(2)
