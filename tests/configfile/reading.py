"""What the tests of reading the configuration share: the shortest beginnings of a file, and the mistakes found in one."""

from __future__ import annotations

import pytest

from gateway.configfile.load import load_text
from gateway.errors import ConfigError

UP = '[upstreams.a]\ninstances = ["http://a"]\n'
R = '[[routes]]\npath = "/x"\n'


def mistakes(text, environ=None):
    with pytest.raises(ConfigError) as caught:
        load_text(text, environ or {}, "gateway.toml")
    assert caught.value.source == "gateway.toml"
    return caught.value.problems
