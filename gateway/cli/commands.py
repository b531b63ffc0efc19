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

from .. import __version__
from ..build import RUNNING, Build
from .admin_client import call_admin
from .assembly import assemble, load
from .terminal import count_text, print_table, printable, route_row

if TYPE_CHECKING:
    from ..config import Route

PACKAGED_CONF = Path(__file__).parent.with_name("gunicorn_conf.py")

config_option = click.option("--config", "-c", "path", metavar="FILE", type=click.Path(),
                             help="The configuration. Else GATEWAY_CONFIG, else gateway.toml.")


class Commands(click.Group):
    """A group that turns ConfigError into its sentences on stderr and exit status 2. Its help has whole sentences."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, (command.help or "").partition("\n\n")[0])
                                for name, command in sorted(self.commands.items())])

    def invoke(self, ctx: click.Context) -> Any:
        from ..errors import ConfigError
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
  GATEWAY_BUILD      pure: the sources run, also where there are compiled modules;
                     compiled: no start without those

Each command has a --help of its own.
"""


def say_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        build = context.find_object(Build) or RUNNING
        click.echo(f"wicketgate, version {__version__} ({build})" + (f"\n  note: {build.notice}" if build.notice else ""))
        context.exit()


@click.group(cls=Commands, epilog=ENVIRONMENT)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=say_version,
              help="Show the version and the build, and exit.")
def main() -> None:
    """Wicketgate: a gateway in front of a synchronous application that has to stay alive while it is replaced."""


@main.command()
@config_option
@click.pass_context
def check(context: click.Context, path: str | None) -> None:
    """Say every mistake in the configuration, and what is worth knowing about it."""
    from ..configfile.checks import notices
    config, source = load(path)
    app, pipeline = assemble(config, source)            # some mistakes only views, certificates and the like show
    pipeline.close()
    click.echo(f"{source}: no mistakes; {count_text(len(config.routes), 'route')}, {count_text(len(config.upstreams), 'upstream')}")
    from ..app import session_notices
    running = context.find_object(Build) or RUNNING
    for notice in filter(None, (*notices(config), *session_notices(app), running.notice)):
        click.echo(f"  note: {notice}")


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from ..configfile.load import schema as made
    click.echo(json.dumps(made(), indent=2))


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def routes(path: str | None, as_json: bool) -> None:
    """List the routes, the most specific first, with those of Flask views."""
    from ..routing.pattern import specificity
    config, source = load(path)
    selection: tuple[Route, ...] = config.routes
    if config.gateway.views:
        _, pipeline = assemble(config, source)
        selection = pipeline.routes
        pipeline.close()
    rows = [route_row(route) for route in sorted(selection, key=specificity)]
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
    config, source = load(path)
    from ..errors import GatewayError
    from ..routing.conditions import as_text
    from .example_request import NOBODY, address_of, build, own_answer, receive, trust_text
    from .explain import cache_lines, destinations
    try:
        request, address = build(method, url, headers), NOBODY if peer is None else address_of(peer)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    _, pipeline = assemble(config, source)
    try:
        click.echo(printable(as_text(f"{request.method} {request.scheme}://{request.host}{request.target}")))
        if method != method.upper():
            click.echo(printable(f"note: {method} is another method than {method.upper()}: case counts (RFC 9110 section 9.1)"))
        request = receive(request, address, config.gateway.trust)
        if peer is not None:
            click.echo(printable(f"{peer} {trust_text(request)}"))
        answer = own_answer(request)
        if answer is not None:
            click.echo(f"answered {answer.status} by the gateway itself")
            return
        explanation = pipeline.table.explain(request)
        click.echo(printable(str(explanation)))
        if explanation.route is None:
            sys.exit(1)
        request.entry, request.params = pipeline.table.match(request)
        click.echo("steps, outermost first:")
        for line in pipeline.describe(explanation.route, parts=False):
            click.echo(f"  {printable(line)}")
        for line in (*cache_lines(config, pipeline, explanation.route, request),
                     *destinations(pipeline, explanation.route, request)):
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
    _, source = load(path)
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
    """The file with Gunicorn's settings, and a remark about it: a gunicorn.conf.py here may belong to another application."""
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
    from ..nginx.configuration import render
    config, _ = load(path)
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
    targets: dict[str, Any] = {name: value for name, value in (("url", url), ("prefix", prefix), ("tag", tag)) if value is not None}
    if everything:
        targets["everything"] = True
    if len(targets) != 1:
        raise click.UsageError("Purge one of --url, --prefix, --tag, --everything.")
    config, _ = load(path)
    status, answer = call_admin(config, "POST", "/cache/purge", {**targets, "soft": soft})
    if status != 200:
        raise click.ClickException(printable(answer.get("detail") or answer.get("title") or str(status)))
    [(kind, value)] = targets.items()
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
    from ..demo import run as run_demo
    sys.exit(run_demo(port=port, nginx=nginx))
