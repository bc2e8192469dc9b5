"""The ``runcast`` command line: the program, and the commands of the gateway's side.

Other packages add theirs through the entry-point group ``runcast.commands``. Standard output is for
what was asked for, standard error for everything else; exit status 2 means that the command line is
wrong, 1 that the command failed, and the last line says what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console

from broker.config import Settings, load_settings
from broker.errors import BrokerUnavailable, ConfigurationError, RuncastError
from broker.logs import configure_logging
from gateway.bench.command import bench
from gateway.client_errors import ChatError, ConnectionRefused
from gateway.key_source import require_verification_key

COMMAND_GROUPS: Final = {
    "gateway": "gateway.cli:commands",
    "agents_sdk": "agents_sdk.cli:commands",
}
"""The entry points of pyproject.toml, for a checkout that is not installed."""

REFUSED: Final = {
    None: "Start a gateway there, or say where one is: --url, or RUNCAST_URL.",
    401: "Sign with the gateway's RUNCAST_JWT_SECRET, or give a --token that it accepts.",
    404: "Check the path of --url or RUNCAST_URL: it is /ws.",
}
"""What to do about a connection that was not made, by its HTTP status."""

CONFIG_HELP: Final = "A TOML file with settings, as: port = 8080"

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)]
User = Annotated[str | None, typer.Option(help="Whose token to sign with RUNCAST_JWT_SECRET.")]
Tenant = Annotated[str | None, typer.Option(help="The tenant in that token.")]
GivenToken = Annotated[str | None, typer.Option("--token", help="A token, instead of --user.")]
Url = Annotated[
    str | None, typer.Option(help="The gateway, as ws://host:port/ws. Absent: RUNCAST_URL.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: one JSON object per line.")]
ModeOption = Annotated[str, typer.Option(help="main, factory, isolated or legacy.")]
Level = Annotated[str | None, typer.Option(help="In factory mode: standard or strict.")]
Thread = Annotated[str | None, typer.Option(help="The conversation.")]


def main() -> NoReturn:
    """Run the command line and exit."""
    configure_logging(level="warning")
    try:
        program()(prog_name="runcast")
    except (RuncastError, ChatError, OSError) as error:
        told = str(error)
        if isinstance(error, BrokerUnavailable):
            told = f"{told.rstrip('.')}. Check RUNCAST_REDIS_URL: runcast check tells more."
        elif isinstance(error, ConnectionRefused) and error.status in REFUSED:
            told = f"{told.rstrip('.')}. {REFUSED[error.status]}"
        Console(stderr=True).print("error:", told, style="red", markup=False, soft_wrap=True)
    sys.exit(1)


def program() -> typer.Typer:
    """The command line with the commands of every package that offers some."""
    app = typer.Typer(
        name="runcast",
        help="Carries the lifecycle of AI-agent runs to the right user's chat clients.",
        epilog="To see it all at work: runcast demo",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    for register in _groups():
        register(app)
    return app


def commands(app: typer.Typer) -> None:
    """Add the gateway's commands."""
    app.command(epilog=_examples("runcast demo", "runcast demo --port 0 --once"))(demo)
    app.command(
        epilog=_examples(
            "RUNCAST_JWT_SECRET=… runcast gateway",
            "runcast gateway --config runcast.toml --host 0.0.0.0 --processes 4",
        )
    )(gateway)
    app.command(epilog=_examples("runcast redis --port 6400", "runcast redis --data-dir ./data"))(
        redis
    )
    app.command(
        epilog=_examples(
            "runcast token --user alice",
            "runcast token --user ops --operator --ttl-seconds 60",
        )
    )(token)
    app.command(
        epilog=_examples(
            'runcast chat --user alice "1 2 3"',
            "runcast chat --user alice --json --mode factory --level strict - < data.csv",
        )
    )(chat)
    app.command(
        epilog=_examples(
            "runcast tail --user alice", "runcast tail --user alice --after 0-0 --json"
        )
    )(tail)
    app.command(epilog=_examples("runcast check", "runcast check --config runcast.toml --json"))(
        check
    )
    app.command(
        epilog=_examples(
            "runcast bench",
            "runcast bench --only latency,resume --connections 2000 --json",
            "RUNCAST_JWT_SECRET=… RUNCAST_REDIS_URL=… runcast bench --url ws://10.0.0.7:8080/ws",
        )
    )(bench)


def demo(
    *,
    port: Annotated[int, typer.Option(help="Of the chat page; 0 picks a free one.")] = 8080,
    once: Annotated[bool, typer.Option("--once", help="Stop after the sample question.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Everything on this machine: Redis, a gateway, a worker with an agent, and a chat page.

    One sample question is sent through all of it; then it serves until Ctrl-C.
    """
    from gateway.demo_runner import run_demo

    sys.exit(run_demo(port=port, once=once, open_page=open_page))


def gateway(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks one.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many share the port.")] = 1,
    config: Config = None,
) -> None:
    """A gateway. Settings come from flags, then RUNCAST_*, then --config.

    Without RUNCAST_REDIS_URL it starts a Redis of its own. SIGTERM drains.
    """
    from gateway.serve import serve

    settings = _settings(config, host=host, port=port)
    require_verification_key(settings)
    serve(settings, processes=processes)


def redis(
    *,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Loopback; 0: any. Absent: unix socket.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where the data is kept. Absent: RUNCAST_DATA_DIR, or the user's state folder."
        ),
    ] = None,
) -> None:
    """Just the embedded Redis, until Ctrl-C. The first line printed is its URL."""
    from gateway.serve import serve_redis

    settings = _settings(None, data_dir=data_dir)
    asyncio.run(serve_redis(settings, port=port))


def token(
    *,
    user: Annotated[str, typer.Option(help="Who it is for: the token's sub.")],
    ttl_seconds: Annotated[int, typer.Option(min=1, help="How long it is valid.")] = 3600,
    tenant: Tenant = None,
    operator: Annotated[bool, typer.Option("--operator", help="With the operator's role.")] = False,
    config: Config = None,
) -> None:
    """A token for development, signed with RUNCAST_JWT_SECRET, on standard output."""
    settings = _settings(config)
    if ttl_seconds > settings.jwt_max_age_seconds:
        raise ConfigurationError(
            setting="--ttl-seconds",
            why=f"gateways refuse what is valid for longer than {settings.jwt_max_age_seconds} s",
            todo="Choose less, or raise RUNCAST_JWT_MAX_AGE_SECONDS there and here.",
        )
    print(_sign(settings, user, tenant, ttl_seconds, operator=operator))


def chat(
    text: Annotated[str, typer.Argument(help="The message; - reads standard input.")],
    *,
    user: User = None,
    tenant: Tenant = None,
    given_token: GivenToken = None,
    agent: Annotated[str | None, typer.Option(help="Which agent. Absent: the gateway's.")] = None,
    mode: ModeOption = "main",
    level: Level = None,
    thread: Thread = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Answers what the run asks; once for each question."),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Send one message and show its events until the run ends.

    A run that asks is answered from --answer, then from the terminal. Exit status 0 only when the
    run succeeded. Ctrl-C leaves the run going.
    """
    from gateway.client import ChatClient
    from gateway.replies import Replies
    from gateway.terminal import ask

    settings = _settings(None, url=url)
    client = ChatClient(
        settings.url,
        token=_token(settings, user, tenant, given_token),
        mode=mode,
        isolation_level=level,
        thread_id=thread if mode != "legacy" else None,
    )
    content = sys.stdin.read() if text == "-" else text
    typed = text != "-" and not as_json and sys.stdin.isatty()
    replies = Replies(answer or (), typed=typed)
    succeeded = asyncio.run(
        ask(client, content, thread=thread, agent=agent, as_json=as_json, replies=replies)
    )
    sys.exit(0 if succeeded else 1)


def tail(
    *,
    user: User = None,
    tenant: Tenant = None,
    given_token: GivenToken = None,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Resume from here; 0-0: all retained.")
    ] = None,
    mode: ModeOption = "main",
    level: Level = None,
    thread: Thread = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Follow a user's channel until Ctrl-C; reconnects and resumes by itself."""
    from gateway.client import ChatClient
    from gateway.terminal import follow

    settings = _settings(None, url=url)
    client = ChatClient(
        settings.url,
        token=_token(settings, user, tenant, given_token),
        mode=mode,
        isolation_level=level,
        thread_id=thread,
        after=after,
    )
    with contextlib.suppress(KeyboardInterrupt):  # how following ends
        asyncio.run(follow(client, as_json=as_json))


def check(*, config: Config = None, as_json: AsJson = False) -> None:
    """Validate the configuration and reach Redis; says what is wrong and what to do."""
    from gateway.check import findings, show

    settings = _settings(config)
    configure_logging(settings.log_format, "error")  # the findings say it better
    found = asyncio.run(findings(settings))
    show(found, as_json=as_json)
    sys.exit(0 if all(finding.ok for finding in found) else 1)


def _settings(config: Path | None, **flags: object) -> Settings:
    settings = load_settings(config, **flags)
    configure_logging(settings.log_format, settings.log_level)
    return settings


def _token(
    settings: Settings, user: str | None, tenant: str | None, given: str | None
) -> str | Callable[[], str]:
    """A token, or what signs a new one for every connection."""
    if given is not None:
        return given
    if user is None:
        raise ConfigurationError(
            setting="--user",
            why="nobody's token is given",
            todo="Say whom to sign for (--user alice) or give a --token.",
        )
    _sign(settings, user, tenant, 1)
    return lambda: _sign(settings, user, tenant, 3600)


def _sign(
    settings: Settings, user: str, tenant: str | None, ttl_seconds: int, *, operator: bool = False
) -> str:
    from gateway.tokens import issue_token

    if settings.jwt_secret is None:
        raise ConfigurationError(
            setting="RUNCAST_JWT_SECRET",
            why="there is nothing to sign with",
            todo="Set it to the gateway's secret, or pass a --token from your login service.",
        )
    algorithm = require_verification_key(settings)[0]
    try:
        return issue_token(
            secret=settings.jwt_secret.get_secret_value(),
            alg=algorithm,
            user=user,
            ttl_seconds=ttl_seconds,
            now=time.time(),
            tenant=tenant,
            operator=operator,
            audience=next(iter(settings.jwt_audience), None),
            issuer=settings.jwt_issuer,
            token_type=settings.jwt_type,
        )
    except ValueError as error:
        raise ConfigurationError(
            setting="--user and --tenant", why=str(error), todo="Choose other ones."
        ) from None


def _groups() -> list[Callable[[typer.Typer], None]]:
    found = importlib.metadata.entry_points(group="runcast.commands")
    places = {entry.name: entry.value for entry in found} or COMMAND_GROUPS
    groups = []
    for place in places.values():
        module, _, name = place.partition(":")
        groups.append(getattr(importlib.import_module(module), name))
    return groups


def _examples(*lines: str) -> str:
    """Typer joins an epilogue's lines unless an empty one is between them."""
    return "\n\n".join(("Examples:", *(f"  [cyan]{line}[/cyan]" for line in lines)))
