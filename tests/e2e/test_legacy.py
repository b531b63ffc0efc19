"""Real legacy applications behind the gateway's defaults: they log a user in, and send him to the public address.

Each is run by its own development server, in a process of its own, and a browser's steps are made with requests. Laravel's tests
are skipped where php is not installed, in CI too: its 90 packages take as long to install as all the rest.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from running import Running, connects, free_port

from tests.waiting import until

pytestmark = pytest.mark.leaks_allowed

DJANGO = '''
import sys
from django.conf import settings
settings.configure(
    DEBUG=False, SECRET_KEY="x" * 50, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["shop.test"], USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies", DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"), CSRF_COOKIE_SECURE=False)
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth import authenticate, login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpResponse, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.urls import path
User.objects.create_user("ann", password="secret")

def enter(request):
    if request.method == "POST":
        login(request, authenticate(request, username=request.POST["user"], password=request.POST["password"]))
        return HttpResponseRedirect(request.build_absolute_uri("/account"))
    return HttpResponse(f'<form><input name="csrfmiddlewaretoken" value="{get_token(request)}"></form>')

@login_required(login_url="/login")
def account(request):
    return HttpResponse(f"hello {request.user.username}")

urlpatterns = [path("login", enter), path("account", account)]
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
from wsgiref.simple_server import make_server
make_server("127.0.0.1", int(sys.argv[1]), application).serve_forever()
'''
FLASK = '''
import sys
from flask import Flask, redirect, request, session, url_for
app = Flask(__name__)
app.secret_key = "x" * 50

@app.route("/login", methods=["GET", "POST"])
def enter():
    if request.method == "POST":
        session["user"] = request.form["user"]
        return redirect(url_for("account", _external=True))
    return '<form><input name="csrfmiddlewaretoken" value="none"></form>'

@app.get("/account")
def account():
    if "user" not in session:
        return redirect(url_for("enter"))
    return f"hello {session['user']}"

if "fix" in sys.argv:
    from werkzeug.middleware.proxy_fix import ProxyFix
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)
from wsgiref.simple_server import make_server
make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
'''
GATEWAY = '''
[gateway]
trust = ["127.0.0.1/32"]
[upstreams.legacy]
instances = ["http://127.0.0.1:{port}"]
{setting}
[[routes]]
path = "{path}"
upstream = "legacy"
{route}
'''


@pytest.fixture
def served(tmp_path):
    """``served(code, *arguments, setting="", route="")`` is a gateway in front of an application; ``by`` makes the command that
    runs it, of a port and a file."""
    running = []

    def serve(code, *arguments, setting="", route="", path="/*", by=lambda port, file: [sys.executable, file, str(port)]):
        port = free_port()
        program = tmp_path / "legacy"
        program.write_text(code)
        process = subprocess.Popen([*by(port, str(program)), *arguments], stderr=subprocess.DEVNULL)
        running.append(lambda: (process.terminate(), process.wait()))
        until(lambda: process.poll() is not None or connects(port), "the application listens")
        assert process.poll() is None, "the application ended"
        gateway = Running(tmp_path, GATEWAY.format(port=port, setting=setting, route=route, path=path))
        running.append(gateway.stop)
        return gateway

    yield serve
    for end in reversed(running):
        end()


def log_in(gateway, scheme="https", below=""):
    """The steps of a browser at ``https://shop.test``, whose TLS a proxy in front of the gateway does: what POST answers, what
    the page after it says."""
    public = {"Host": "shop.test", "X-Forwarded-Proto": scheme, "X-Forwarded-Host": "shop.test"}
    address = f"http://127.0.0.1:{gateway.port}{below}"
    form = requests.get(f"{address}/login", headers=public, timeout=60)
    assert form.status_code == 200
    field, token = re.search(r'name="(.*?)" value="(.*?)"', form.text).groups()
    jar = {cookie.name: cookie.value for cookie in form.cookies}
    answer = requests.post(f"{address}/login", data={"user": "ann", "password": "secret", field: token},
                           cookies=jar, allow_redirects=False, timeout=60,
                           headers={**public, "Origin": f"{scheme}://shop.test", "Referer": f"{scheme}://shop.test/login"})
    if answer.status_code != 302:
        return answer.status_code, "", ""
    jar.update({cookie.name: cookie.value for cookie in answer.cookies})
    page = requests.get(f"{address}/account", headers=public, cookies=jar, allow_redirects=False, timeout=60)
    return answer.status_code, answer.headers["Location"], page.text


def test_django_logs_in_behind_the_default(served):
    assert log_in(served(DJANGO)) == (302, "https://shop.test/account", "hello ann")


def test_django_refuses_a_host_that_is_not_its_own(served):
    gateway = served(DJANGO)
    assert requests.get(f"http://127.0.0.1:{gateway.port}/login", headers={"Host": "evil.test"}, timeout=60).status_code == 400


def test_django_with_the_instances_host_needs_to_believe_the_forwarded_one(served):
    code = DJANGO.replace('ALLOWED_HOSTS=["shop.test"]', 'ALLOWED_HOSTS=["*"]')
    gateway = served(code, setting='host = "upstream"')
    assert log_in(gateway)[0] == 403                     # CSRF: the Origin is not the Host


def test_django_with_the_instances_host_that_believes_the_forwarded_one(served):
    code = DJANGO.replace("USE_TZ=True", "USE_TZ=True, USE_X_FORWARDED_HOST=True")
    assert log_in(served(code, setting='host = "upstream"')) == (302, "https://shop.test/account", "hello ann")


@pytest.mark.parametrize("arguments, setting, scheme, location", [
    ((), "", "http", "http://shop.test/account"),
    (("fix",), "", "https", "https://shop.test/account"),
    (("fix",), 'host = "upstream"', "https", "https://shop.test/account"),
], ids=["default", "default and ProxyFix", "upstream and ProxyFix"])
def test_flask_redirects_to_the_public_address(served, arguments, setting, scheme, location):
    assert log_in(served(FLASK, *arguments, setting=setting), scheme) == (302, location, "hello ann")


def test_flask_without_its_public_name_redirects_to_the_inside(served):
    status, location, page = log_in(served(FLASK, setting='host = "upstream"'), "http")
    assert (status, page) == (302, "hello ann") and location.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("setting", ["", 'host = "upstream"'], ids=["preserve", "upstream"])
def test_location_is_made_public_with_either_host(served, setting):
    status, location, _ = log_in(served(FLASK, setting=setting, route="rewrite_location = true"), "http")
    assert (status, location) == (302, "http://shop.test/account")


LARAVEL = (Path(__file__).parent / "laravel.php").read_text()
BELOW = {"path": "/old/*", "route": """strip_prefix = "/old"
rewrite_location = true
rewrite_cookies = true
request_headers = { set = { X-Forwarded-Prefix = "/old" } }"""}


@pytest.fixture
def laravel(served, require):
    """``laravel(trust, **settings)``: as ``served``, with an application that believes the proxy ``trust``."""
    php = require("php", "php-cli php-laravel-framework", file="/usr/share/php/Illuminate")

    def serve(trust, **settings):
        return served(LARAVEL, **settings, by=lambda port, file: ["env", f"TRUST={trust}", php, "-S", f"127.0.0.1:{port}", file])

    return serve


@pytest.mark.parametrize("trust, settings, below, location", [
    ("127.0.0.1", {}, "", "https://shop.test/account"),
    ("", {}, "", "http://shop.test/account"),
    ("127.0.0.1", {"setting": 'host = "upstream"'}, "", "https://shop.test/account"),
    ("127.0.0.1", BELOW, "/old", "https://shop.test/old/account"),
], ids=["default and TrustProxies", "default", "upstream and TrustProxies", "below a prefix"])
def test_laravel_logs_in_and_makes_public_addresses(laravel, trust, settings, below, location):
    gateway = laravel(trust, **settings)
    assert log_in(gateway, below=below) == (302, location, "hello ann")
    public = {"Host": "shop.test", "X-Forwarded-Proto": "https"}
    signed = requests.get(f"http://127.0.0.1:{gateway.port}{below}/sign", headers=public, timeout=60).text
    path = signed.removeprefix(location.removesuffix(f"{below}/account"))
    assert requests.get(f"http://127.0.0.1:{gateway.port}{path}", headers=public, timeout=60).text == "file a"
