"""The command line: ``gateway check``, ``schema``, ``routes``, ``explain``, ``run``, ``nginx``, ``purge``, ``demo``.

Exit status: 0, 1 when ``explain`` finds no answer, nobody takes a purge or the demo ends badly, 2 for a configuration with mistakes
(all of them on stderr) or a wrong command line. Commands import what they need when they run: looking at a file must not load a
server.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__

if TYPE_CHECKING:
    from .aggregate.part import PreparedPart
    from .app import Gateway
    from .cache.entry import Variants
    from .config import Config, Route
    from .message import Request
    from .pipeline import Pipeline

PACKAGED_CONF = Path(__file__).with_name("gunicorn_conf.py")

config_option = click.option("--config", "-c", "path", metavar="FILE", type=click.Path(),
                             help="The configuration. Else GATEWAY_CONFIG, else gateway.toml.")


class Commands(click.Group):
    """A group that turns ConfigError into its sentences on stderr and exit status 2. Its help has whole sentences."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, (command.help or "").partition("\n\n")[0])
                                for name, command in sorted(self.commands.items())])

    def invoke(self, ctx: click.Context) -> Any:
        from .errors import ConfigError
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            count = len(error.problems)
            where = f"{error.source}: " if error.source else ""
            click.echo(f"{where}{count} mistake{'' if count == 1 else 's'}", err=True)
            for problem in error.problems:
                click.echo(f"  {printable(problem)}", err=True)
            ctx.exit(2)


ENVIRONMENT = """\b
Environment:
  GATEWAY_CONFIG     the configuration file, instead of gateway.toml
  GATEWAY_BIND       where to listen, instead of 127.0.0.1:8000: host:port or
                     unix:/path, several with commas
  GATEWAY_WORKERS    how many worker processes, instead of 1
  GATEWAY_RUN_DIR    where the instance makes its private folder
  GATEWAY_ADMIN      host:port of the admin listener, instead of gateway.admin
  GATEWAY_LOG        where the request log goes, instead of gateway.log
  GATEWAY_LOG_LEVEL  what application code logs, instead of gateway.log_level
  GATEWAY_TIMEOUT    the deadline of a request, instead of gateway.timeout

Each command has a --help of its own.
"""


@click.group(cls=Commands, epilog=ENVIRONMENT)
@click.version_option(__version__, prog_name="wicketgate")
def main() -> None:
    """Wicketgate: a gateway in front of a synchronous application that has to stay alive while it is replaced."""


@main.command()
@config_option
def check(path: str | None) -> None:
    """Say every mistake in the configuration, and what is worth knowing about it."""
    from .configfile.checks import notices
    config, source = loaded(path)
    app, pipeline = assembled(config, source)            # some mistakes only views, certificates and the like show
    pipeline.close()
    click.echo(f"{source}: no mistakes; {counted(len(config.routes), 'route')}, {counted(len(config.upstreams), 'upstream')}")
    from .app import session_notices
    for notice in (*notices(config), *session_notices(app)):
        click.echo(f"  note: {notice}")


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from .configfile.load import schema as made
    click.echo(json.dumps(made(), indent=2))


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def routes(path: str | None, as_json: bool) -> None:
    """List the routes, the most specific first, with those of Flask views."""
    from .routing.pattern import specificity
    config, source = loaded(path)
    found: tuple[Route, ...] = config.routes
    if config.gateway.views:
        _, pipeline = assembled(config, source)
        found = pipeline.routes
        pipeline.close()
    rows = [route_row(route) for route in sorted(found, key=specificity)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        print_table(rows)


@main.command()
@config_option
@click.option("--header", "-H", "headers", metavar="'NAME: VALUE'", multiple=True, help="A header field of the request.")
@click.option("--peer", metavar="ADDRESS", help="The address it comes from, or unix. One in gateway.trust is a proxy, and what it"
                                                " says with -H of its client is believed: X-Forwarded-Port and the like.")
@click.argument("method")
@click.argument("url")
def explain(path: str | None, headers: tuple[str, ...], peer: str | None, method: str, url: str) -> None:
    """Say which route takes a request, why, which steps it meets and where it goes; or who refuses it.

    For example: gateway explain GET http://shop.test/users/7 -H 'X-Beta: 1'
    """
    config, source = loaded(path)
    from .errors import GatewayError
    from .explain import NOBODY, address_of, believed, described, own_answer, read
    from .routing.conditions import as_text
    try:
        request, address = described(method, url, headers), NOBODY if peer is None else address_of(peer)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    app, pipeline = assembled(config, source)
    try:
        click.echo(printable(as_text(f"{request.method} {request.scheme}://{request.host}{request.target}")))
        if method != method.upper():
            click.echo(printable(f"note: {method} is another method than {method.upper()}: case counts (RFC 9110 section 9.1)"))
        request = read(request, address, config.gateway.trust)
        if peer is not None:
            click.echo(printable(f"{peer} {believed(request)}"))
        answer = own_answer(request)
        if answer is not None:
            click.echo(f"answered {answer.status} by the gateway itself")
            return
        explanation = pipeline.table.explain(request)
        click.echo(printable(str(explanation)))
        if explanation.route is None:
            sys.exit(1)
        request.served, request.params = pipeline.table.match(request)
        click.echo("steps, outermost first:")
        for line in pipeline.describe(explanation.route, parts=False):
            click.echo(f"  {printable(line)}")
        for line in (*cache_lines(config, pipeline, explanation.route, request),
                     *destinations(app, pipeline, explanation.route, request)):
            click.echo(printable(line))
    except GatewayError as error:
        click.echo(printable(f"answered {error.status} {error.code}: {error}"))
        sys.exit(1)
    finally:
        pipeline.close()


@main.command(context_settings={"ignore_unknown_options": True})
@config_option
@click.option("--bind", "-b", metavar="ADDRESS", multiple=True, help="host:port or unix:/path; may be given several times.")
@click.option("--workers", "-w", type=click.IntRange(min=1), help="Number of worker processes.")
@click.option("--settings", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="Settings of Gunicorn: a Python file that begins with those of the gateway (from gateway.gunicorn_conf import"
                   " *). Else gunicorn.conf.py of this directory if it does so, else those of the gateway alone.")
@click.argument("gunicorn_options", nargs=-1, type=click.UNPROCESSED)
def run(path: str | None, bind: tuple[str, ...], workers: int | None, settings: str | None,
        gunicorn_options: tuple[str, ...]) -> None:
    """Serve, under Gunicorn.

    Further options are Gunicorn's own. The signals are Gunicorn's too: HUP reads the configuration again, TERM ends.
    """
    _, source = loaded(path)
    os.environ["GATEWAY_CONFIG"] = os.path.abspath(source)
    conf, why = (settings, "") if settings else settings_file()
    click.echo(f"settings of Gunicorn: {conf}{why}", err=True)
    command = [sys.executable, "-m", "gunicorn", "-c", conf]
    for address in bind:
        command += ["--bind", address]
    if workers is not None:
        command += ["--workers", str(workers)]
    os.execvp(command[0], [*command, *gunicorn_options, "gateway.app:create_app()"])


def settings_file() -> tuple[str, str]:
    """The file with Gunicorn's settings, and what is to be said of it. One that lies here may be of another application."""
    own = Path("gunicorn.conf.py")
    if not own.is_file():
        return str(PACKAGED_CONF), ""
    if b"gateway.gunicorn_conf" in own.read_bytes():
        return str(own.resolve()), ""
    return str(PACKAGED_CONF), (f"; not {own.resolve()}, which does not import gateway.gunicorn_conf and may be of another"
                                " application: to use it, say --settings gunicorn.conf.py")


@main.command()
@config_option
@click.option("--listen", metavar="ADDRESS", help="Where nginx listens, instead of nginx.listen.")
@click.option("--instance", "instances", metavar="ADDRESS", multiple=True,
              help="An instance of the gateway, instead of nginx.instances; may be given several times.")
@click.option("--include", is_flag=True, help="Only the part for an http block, not a whole nginx.conf.")
@click.option("--prefix", default="", metavar="FOLDER", help="Where a whole nginx keeps its pid, logs and temporary files.")
def nginx(path: str | None, listen: str | None, instances: tuple[str, ...], include: bool, prefix: str) -> None:
    """Print the configuration of the nginx in front."""
    from .nginx.configuration import render
    config, _ = loaded(path)
    click.echo(render(config, instances=instances or None, listen=listen, standalone=not include, prefix=prefix), nl=False)


@main.command()
@config_option
@click.option("--url", metavar="URL", help="One address: https://shop.test/a?b, or /a?b on every host.")
@click.option("--prefix", metavar="URL", help="All addresses that begin so.")
@click.option("--tag", help="Everything with this tag.")
@click.option("--everything", is_flag=True, help="Everything.")
@click.option("--soft", is_flag=True, help="Not gone but stale: served while it is refreshed, where that is allowed.")
def purge(path: str | None, url: str | None, prefix: str | None, tag: str | None, everything: bool, soft: bool) -> None:
    """Purge stored answers, in every worker: one of --url, --prefix, --tag, --everything."""
    given: dict[str, Any] = {name: value for name, value in (("url", url), ("prefix", prefix), ("tag", tag)) if value is not None}
    if everything:
        given["everything"] = True
    if len(given) != 1:
        raise click.UsageError("Purge one of --url, --prefix, --tag, --everything.")
    config, _ = loaded(path)
    status, answer = told(config, "POST", "/cache/purge", {**given, "soft": soft})
    if status != 200:
        raise click.ClickException(printable(answer.get("detail") or answer.get("title") or str(status)))
    [(kind, value)] = given.items()
    click.echo(printable(f"purged {kind}{'' if everything else f' {value}'}{', softly' if soft else ''}"))
    if answer["waiting"]:
        click.echo("Redis cannot be reached: other machines hear of it when it is back", err=True)
    if answer.get("nginx") is False:
        click.echo("the folder nginx.purges cannot be written to: nginx serves what it has until edge has passed", err=True)


@main.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Where clients connect.")
@click.option("--nginx/--no-nginx", default=True, help="With nginx in front of two instances, or one instance alone.")
def demo(port: int, nginx: bool) -> None:
    """Start slow legacy services, the gateway and nginx on this machine, until Ctrl-C."""
    from .demo import run as run_demo
    sys.exit(run_demo(port=port, nginx=nginx))


def told(config: Config, method: str, path: str, document: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON that the admin listener of a running instance on this machine answers. Raises ClickException."""
    import http.client

    from .values import parse_authority
    if config.gateway.admin is None:
        raise click.ClickException("gateway.admin is not set: a running gateway cannot be told anything")
    host, port = parse_authority(config.gateway.admin)
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path, json.dumps(document) if document else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"no gateway answers at {config.gateway.admin}: {error}") from None
    finally:
        connection.close()
    return answer.status, json.loads(text)


def cache_lines(config: Config, pipeline: Pipeline, route: Route, request: Request) -> list[str]:
    """What the route's cache makes of the request, and what is stored for it, as far as that can be seen from here."""
    from .cache.step import CacheStep
    from .headers import EditHeaders
    for step in pipeline.steps(route):
        if isinstance(step, EditHeaders) and step.request is not None:
            request.headers = step.request(request.headers)
        if isinstance(step, CacheStep):
            lines = step.explain(request)
            if lines[0].startswith("key: "):
                stored, where = stored_under(config, pipeline, step.key(request, step.asked(request)))
                lines += [f"stored: {where}", *(step.explain(request, stored) if stored else ())]
            return ["cache, for this request:", *(f"  {line}" for line in lines)]
    return []


def stored_under(config: Config, pipeline: Pipeline, key: str) -> tuple[Variants | None, str]:
    """What a running instance says that it has stored, else what is in the tiers that are shared; and where that was found."""
    from time import time
    from urllib.parse import quote

    from .cache.entry import Variants
    from .cache.explain import entry_of
    where = "gateway.admin is not set"
    if config.gateway.admin:
        try:
            status, answer = told(config, "GET", f"/cache?key={quote(key, safe='')}")
            found = Variants(entry_of(each, time()) for each in answer["entries"]) if status == 200 else None
            return found, f"{'' if found else 'nothing '}in the worker that answers at {config.gateway.admin}"
        except click.ClickException as error:
            where = error.message
    stored = pipeline.store.look(key)
    shared = ", ".join(tier.name for tier in pipeline.store.tiers)
    return stored, f"{'' if stored else 'nothing '}in {shared} ({where})" if shared else f"not known ({where})"


def loaded(path: str | None) -> tuple[Config, str]:
    """The configuration and the path it was read from. Raises ConfigError."""
    from .configfile.load import load_text, read_text
    from .errors import ConfigError
    from .gunicorn_environment import tidy
    if problems := tidy(os.environ):
        raise ConfigError(problems, "the environment")
    text, source = read_text(path, os.environ)
    return load_text(text, os.environ, source), source


def assembled(config: Config, source: str) -> tuple[Gateway, Pipeline]:
    """All of a configuration put together as a worker would, views included. Raises ConfigError."""
    if os.getcwd() not in sys.path:                      # where Gunicorn looks for views too
        sys.path.insert(0, os.getcwd())
    from .app import Gateway as Application
    from .errors import ConfigError
    silent = config.gateway.model_copy(update={"log": "off"})
    try:
        app = Application(config.model_copy(update={"gateway": silent}), source)
        app.request_log.destination = config.gateway.log             # named, but never opened: the file is the server's to make
        return app, app.pipeline
    except ConfigError as error:
        raise ConfigError(error.problems, error.source or source) from error.__cause__


def destinations(app: Gateway, pipeline: Pipeline, route: Route, request: Request) -> list[str]:
    """Who is asked for what, one line each. Raises InvalidTarget and BadRequest."""
    from .aggregate.target import Aggregate
    from .forward import Forward
    from .views import View, endpoint_of
    target = pipeline.target(route)
    upstreams = pipeline.config.upstreams
    if isinstance(target, Forward):
        return asked(f'upstream "{target.upstream}"', request.method, upstreams[target.upstream].instances, target.target(request))
    if isinstance(target, Aggregate):
        return [line for part in target.parts for line in call_of(part, upstreams[part.upstream].instances, request)]
    return [f"endpoint: {endpoint_of(app.url_map, request)}"] if isinstance(target, View) else []


def call_of(part: PreparedPart, instances: tuple[str, ...], request: Request) -> list[str]:
    """What a part of a composition asks for. Raises BadRequest when a required part cannot ask."""
    from .errors import BadRequest
    what = f'part "{part.name}"{", optional" if part.optional else ""}, upstream "{part.upstream}"'
    try:
        return asked(what, part.method, instances, part.target_for(request))
    except BadRequest as error:
        if not part.optional:
            raise
        return [f"{what}:", f"  not asked: {error}"]


def asked(what: str, method: str, instances: tuple[str, ...], target: str) -> list[str]:
    """A headline and the address at each instance."""
    return [f"{what}{', one of' if len(instances) > 1 else ''}:",
            *(f"  {method} {target} over {url}" if url.startswith("unix:") else f"  {method} {url.rstrip('/')}{target}"
              for url in instances)]


def route_row(route: Route) -> dict[str, Any]:
    """What the list of routes says about one."""
    return {"host": route.host, "methods": list(route.methods) if route.methods else None, "path": route.path,
            "header": route.header, "query": route.query, "cookie": route.cookie, "target": route.target, "timeout": route.timeout}


def print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from .values import duration_text
    table = Table(box=None, pad_edge=False)
    for title in ("METHODS", "HOST", "PATH", "CONDITIONS", "TARGET", "TIMEOUT"):
        table.add_column(title, overflow="fold")
    for row in rows:
        conditions = [f"{kind} {name}={value}" for kind in ("header", "query", "cookie") for name, value in row[kind].items()]
        table.add_row(*map(plain, (",".join(row["methods"] or ["any"]), row["host"] or "any", row["path"], ", ".join(conditions),
                                   row["target"], duration_text(row["timeout"]) if row["timeout"] else "")))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200                              # a pipe has no width; lines are not to be broken for one
    console.print(table)


def plain(text: str) -> Any:
    """Text that rich does not read as markup: ``[routes]`` is no style."""
    from rich.text import Text
    return Text(printable(text))


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Text for a terminal: what is not valid UTF-8 or would command it is shown by its code."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return "".join(character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
                   for character in shown)


if __name__ == "__main__":
    main()
