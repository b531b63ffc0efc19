"""Processes that share the test files: the plugin that scripts/run-tests loads."""

from __future__ import annotations

import os
from pathlib import Path


class Share:
    """Of the test files, this process runs those that no other process with the same folder has taken. See scripts/run-tests.

    Every second process begins at the end: files that take the processor meet files that wait. ``failed.<pid>`` in the folder
    lists the node ids of what has failed, a line each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mine: dict[Path, bool] = {}
        self.failed = folder / f"failed.{os.getpid()}"
        self.backwards = bool(sum(1 for _ in folder.glob("failed.*")) % 2)
        self.failed.touch()

    def take(self, path: Path) -> bool:
        """Is this file ours? Whoever makes its mark first has it."""
        if path not in self.mine:
            try:
                os.close(os.open(self.folder / str(path).replace(os.sep, "+"), os.O_CREAT | os.O_EXCL))
                self.mine[path] = True
            except FileExistsError:
                self.mine[path] = False
        return self.mine[path]

    def pytest_collection_modifyitems(self, items):
        if self.backwards:
            files = list(dict.fromkeys(item.path for item in items))
            items.sort(key=lambda item: -files.index(item.path))         # stable: the order inside a file stays

    def pytest_runtest_protocol(self, item, nextitem):
        return None if self.take(item.path) else True                    # True: it is done, say nothing of it

    def pytest_runtest_logreport(self, report):
        if report.failed:
            with self.failed.open("a") as file:
                file.write(report.nodeid + "\n")


def pytest_addoption(parser):
    parser.addoption("--share", type=Path, metavar="FOLDER", help="run only what no other process with the same folder runs")


def pytest_configure(config):
    if folder := config.getoption("--share"):
        config.pluginmanager.register(Share(folder))
