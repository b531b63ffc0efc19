"""Has asyncio make loops on the gevent hub, from the moment it is imported: a process that never imports it pays nothing (it takes
20 ms and 0.8 MB)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def enable_asyncio() -> None:
    """Have ``asyncio.new_event_loop()``, and with it ``asyncio.run`` and all that builds on it, make loops on the gevent hub
    (asyncio_loop.py), in every greenlet of a process that gevent has patched. Loops that are there already stay what they are."""
    if "asyncio" in sys.modules:
        _install()
    elif not any(isinstance(finder, AsyncioFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AsyncioFinder())


def _install() -> None:
    from .asyncio_loop import install
    install()


class AsyncioFinder(MetaPathFinder):
    """Finds asyncio where it is, once, for an AsyncioLoader."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "asyncio":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = AsyncioLoader(spec.loader)
        return spec


class AsyncioLoader(Loader):
    """Loads asyncio with its own ``loader``, to which the module then belongs, and installs the loop."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _install()
