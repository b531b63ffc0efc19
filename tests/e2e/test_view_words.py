"""What view code says and needs: its log is written, its sessions are signed, and what is wrong with its modules has a remedy."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import requests
from running import Running

from gateway.app import remedy

pytestmark = pytest.mark.leaks_allowed

VIEWS = '''
import logging
from flask import Blueprint, current_app, session
{setup}
shop = Blueprint("shop", __name__)
log = logging.getLogger("shop.orders")

@shop.get("/count")
def count():
    log.debug("a debug line")
    log.info("an info line")
    current_app.logger.warning("a warning line")
    session["n"] = session.get("n", 0) + 1
    return str(session["n"])
'''
GATEWAY = '[gateway]\nviews = ["shop_words"]\n{more}\n'


@pytest.mark.parametrize("setup, more, said, unsaid", [
    ("", "", ["[INFO] shop.orders: an info line", "[WARNING] gateway: a warning line"], ["a debug line"]),
    ("", 'log_level = "warning"', ["a warning line"], ["an info line", "a debug line"]),
    ("", 'log_level = "debug"', ["a debug line", "an info line"], []),
    ("logging.basicConfig(level=logging.INFO, format='mine: %(message)s')", "", ["mine: an info line", "mine: a warning line"],
     ["[INFO]  shop.orders"]),
])
def test_the_log_of_views_is_written_once(tmp_path, setup, more, said, unsaid):
    (tmp_path / "shop_words.py").write_text(VIEWS.replace("{setup}", setup))
    key = 'secret_key = "${SHOP_KEY}"'
    gateway = Running(tmp_path, GATEWAY.format(more=f"{key}\n{more}"), environ={"SHOP_KEY": "s3cret-of-the-shop"})
    try:
        with requests.Session() as client:
            assert [client.get(f"http://127.0.0.1:{gateway.port}/count", timeout=60).text for _ in "ab"] == ["1", "2"]
    finally:
        gateway.stop()
    text = gateway.errors.read_text()
    assert [text.count(line) for line in said] == [2] * len(said)
    assert not [line for line in unsaid if line in text]
    assert "s3cret-of-the-shop" not in text + gateway.log.read_text()


@pytest.mark.parametrize("module, said", [
    (None, ["cannot import 'shop_words'", "WorkingDirectory=", "PYTHONPATH"]),
    ("import nothing_of_this_name", ["'shop_words' imports it: is it installed in"]),
    ("from flask import Flask\napp = Flask(__name__)", ['write app = Blueprint("app", __name__) instead of app = Flask(...)']),
    ("from flask import Flask\ndef create_app():\n    return Flask(__name__)", ["in create_app(), which is not called here"]),
    ("from gateway import create_app", ['write shop = Blueprint("shop", __name__)']),
    ("", ['write shop = Blueprint("shop", __name__)']),
])
def test_what_is_wrong_with_a_module_of_views_has_a_remedy(tmp_path, module, said):
    if module is not None:
        (tmp_path / "shop_words.py").write_text(module)
    status, text = check(tmp_path, "")
    assert status == 2
    assert [part for part in said if part not in text] == []


@pytest.mark.parametrize("name, missing, said", [
    ("shop.py", "shop", "without .py: 'shop'"), ("shop.views", "shop", "PYTHONPATH"), ("shop.views", "shop.views", "PYTHONPATH"),
    ("shop", "shopping", "'shop' imports it"), ("shop.views", "views", "'shop.views' imports it")])
def test_the_remedy_for_a_module_that_is_not_found(name, missing, said):
    assert said in remedy(name, ModuleNotFoundError(name=missing))


@pytest.mark.parametrize("module, more, noted", [
    (VIEWS.replace("{setup}", ""), "", True), (VIEWS.replace("{setup}", ""), 'secret_key = "s3cret"', False),
    ("import flask\nb = flask.Blueprint('b', __name__)\n@b.get('/')\ndef home():\n    return flask.session.get('x')", "", True),
    ("from flask import Blueprint, flash\nb = Blueprint('b', __name__)", "", True),
    ("from flask import Blueprint\nb = Blueprint('b', __name__)\n@b.get('/')\ndef home():\n    return ''", "", False),
    ("from flask import Blueprint, session\nb = Blueprint('b', __name__)\n@b.record_once\ndef setup(state):\n"
     "    state.app.config['SECRET_KEY'] = 'x'", "", False),
])
def test_sessions_without_a_secret_key_are_noted(tmp_path, module, more, noted):
    (tmp_path / "shop_words.py").write_text(module)
    status, text = check(tmp_path, more)
    assert status == 0, text
    assert ("gateway.secret_key" in text) == noted and "s3cret" not in text


def check(place, more):
    """Status and output of ``gateway check`` in a folder."""
    (place / "gateway.toml").write_text(GATEWAY.format(more=more))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    done = subprocess.run([sys.executable, "-m", "gateway.cli", "check"], cwd=place, env=environ, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr
