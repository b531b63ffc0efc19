"""Protection of a Gunicorn master: nothing that it does between its start and its end may end the instance.

Gunicorn's master ends, with all its workers, when anything in its loop raises: a hook, a fork, a log file whose folder is gone, a
settings file that is broken at HUP. ``protect`` puts a guard around each action of the loop: what fails is logged, and the master
goes on. An action that was not completed is tried again where the loop does so each second (starting workers), or by the operator.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from gunicorn.errors import HaltServer

from ..local.run_directory import RunDir

ACTIONS = ("handle_hup", "handle_ttin", "handle_ttou", "handle_usr1", "handle_usr2", "handle_winch", "handle_chld", "handle_cld",
           "manage_workers", "murder_workers", "reap_workers", "maybe_promote_master")
SETTINGS = ("worker_class", "address", "logger_class", "uid", "gid")     # read from a settings file only when they are asked for


def protect(server: Any, run_dir: RunDir, unavailable: Callable[[Any, Any], list[str]]) -> None:
    """Guard ``server``, an Arbiter that is starting. ``unavailable(cfg, ours)`` says which addresses of ``cfg``, but for ``ours``,
    cannot be listened on."""
    count_out_leaving(server, run_dir)
    for name in ACTIONS:
        guard(server, name)
    keep_settings(server, unavailable)
    keep_log_files(server)
    wait_for_signals = server.wait_for_signals

    def each_second(*args: Any, **kwargs: Any) -> Any:
        run_dir.free_others({worker.slot for worker in server.WORKERS.values()})
        run_dir.mend()
        return wait_for_signals(*args, **kwargs)

    server.wait_for_signals = each_second


def guard(server: Any, name: str) -> None:
    """Let an action of the master's loop raise only what ends it by intention."""
    act = getattr(server, name)

    def run_guarded() -> None:
        try:
            act()
        except (HaltServer, StopIteration):
            raise
        except (Exception, SystemExit) as error:
            if os.getpid() == server.pid:
                server.log.error("%s failed; the master goes on", name, exc_info=error)
                return
            if isinstance(error, SystemExit):                # a worker that has ended
                raise
            server.log.error("The new master cannot be started", exc_info=error)
            os._exit(1)                                      # a copy of this master, which would end our workers as its own

    setattr(server, name, run_guarded)


def count_out_leaving(server: Any, run_dir: RunDir) -> None:
    """Let the master look away from workers that end by themselves.

    So it starts the successor of one that has reached ``max_requests`` while that one still serves; and when there are too many,
    it does not end one that serves for the sake of one that is ending, or could not start.
    """
    manage_workers = server.manage_workers

    def manage() -> None:
        states = {worker.pid: worker.state for worker in run_dir.states().values()}
        ending = [pid for pid in server.WORKERS if states.get(pid) in ("retiring", "draining")]
        surplus = max(0, len(server.WORKERS) - len(ending) - server.num_workers)
        ending += [pid for pid in server.WORKERS if states.get(pid) == "failed"][:surplus]
        aside = {pid: server.WORKERS.pop(pid) for pid in ending}
        try:
            manage_workers()
        finally:
            server.WORKERS.update(aside)

    server.manage_workers = manage


def keep_settings(server: Any, unavailable: Callable[[Any, Any], list[str]]) -> None:
    """At HUP: settings that cannot be read or used, or addresses that cannot be listened on, leave those there are."""
    server.settings_problems = []
    application = server.app
    load = application.reload

    def reload() -> None:
        before = application.cfg
        try:
            load()
            for name in SETTINGS:
                getattr(application.cfg, name)
            problems = unavailable(application.cfg, before.address)
        except (Exception, SystemExit) as error:             # Gunicorn exits, and has said why on stderr
            problems = [f"the settings of Gunicorn cannot be read again: {error!r}"]
        server.settings_problems = [f"{problem}; those there are stay" for problem in problems]
        if problems:
            application.cfg = before

    application.reload = reload


def keep_log_files(server: Any) -> None:
    """At USR1 and HUP: the folders of log files and the pid file are made again. Log files that still cannot be opened go on as
    they are: Gunicorn closes them first, and then every line that is logged raises."""
    logger = server.log

    def with_folders(act: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            try:
                for path in {server.cfg.errorlog, server.cfg.accesslog, server.cfg.pidfile} - {None, "-"}:
                    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
                    if path != server.cfg.pidfile:
                        open(path, "ab").close()
            except OSError as error:
                logger.error("log files are not opened again: %s", error)
            else:
                act(*args)
        return run

    logger.reopen_files, logger.setup = with_folders(logger.reopen_files), with_folders(logger.setup)
