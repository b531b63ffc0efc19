"""The configuration and the application for a command, put together as a worker would."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..app import Gateway
    from ..config import Config
    from ..pipeline import Pipeline


def load(path: str | None) -> tuple[Config, str]:
    """The configuration and the path it was read from. Raises ConfigError."""
    from ..configfile.load import load_text, read_text
    from ..errors import ConfigError
    from .gunicorn_environment import tidy
    if problems := tidy(os.environ):
        raise ConfigError(problems, "the environment")
    text, source = read_text(path, os.environ)
    return load_text(text, os.environ, source), source


def assemble(config: Config, source: str) -> tuple[Gateway, Pipeline]:
    """The application and its pipeline, views included. Raises ConfigError."""
    if os.getcwd() not in sys.path:                      # where Gunicorn looks for views too
        sys.path.insert(0, os.getcwd())
    from ..app import Gateway as Application
    from ..errors import ConfigError
    silent = config.gateway.model_copy(update={"log": "off"})
    try:
        app = Application(config.model_copy(update={"gateway": silent}), source)
        app.request_log.destination = config.gateway.log             # named, but never opened: the file is the server's to make
        return app, app.pipeline
    except ConfigError as error:
        raise ConfigError(error.problems, error.source or source) from error.__cause__
