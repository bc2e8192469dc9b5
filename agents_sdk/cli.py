"""The SDK's commands of the ``runcast`` command line: ``worker`` and ``publish``."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast, get_args

import typer
from rich.console import Console

from agents_sdk.publisher import Publisher
from agents_sdk.service import Service
from agents_sdk.worker import Worker
from broker.config import load_settings
from broker.errors import ConfigurationError
from broker.events import LIFECYCLE
from broker.logs import configure_logging

ScopeName = Literal["user", "thread", "run"]

RedisUrl = Annotated[
    str | None, typer.Option(help="The gateways' Redis. Absent: RUNCAST_REDIS_URL.")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A TOML file with settings, as: port = 8080"),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: one JSON object per line.")]

WORKER_EXAMPLES: Final = (
    "Examples:\n\n  runcast worker my_agents:worker\n\n"
    "  RUNCAST_REDIS_URL=redis://10.0.0.5 runcast worker agents_sdk.demo:worker --concurrency 20"
)
PUBLISH_EXAMPLES: Final = (
    "Examples:\n\n"
    """  runcast publish --user alice --event agent_thinking --payload '{"thoughts": "hm"}'\n\n"""
    """  runcast publish --user alice --event tool_executing --payload '{"tool": "t", "status": """
    """"running"}' --event tool_completed --payload '{"tool": "t", "result": 1}'"""
)


def commands(app: typer.Typer) -> None:
    """Add the SDK's commands."""
    app.command(epilog=WORKER_EXAMPLES)(worker)
    app.command(epilog=PUBLISH_EXAMPLES)(publish)


def worker(
    target: Annotated[str, typer.Argument(metavar="MODULE:WORKER", help="As my_agents:worker.")],
    *,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Most runs at once. Absent: the worker's own.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Serve Prometheus metrics there; 0 picks one. Absent: nowhere."
        ),
    ] = None,
    redis_url: RedisUrl = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """A worker process. It prints one line when it takes requests; SIGTERM drains it.

    The module is found as Python would find it from the current directory.
    """
    chosen = find_worker(target)
    settings = load_settings(
        config, redis_url=redis_url or chosen.redis_url, worker_metrics_port=metrics_port
    )
    configure_logging(settings.log_format, settings.log_level)
    if chosen.settings is None or redis_url is not None or config is not None:
        chosen.settings = settings
    elif metrics_port is not None:
        chosen.settings = chosen.settings.model_copy(update={"worker_metrics_port": metrics_port})
    chosen.concurrency = concurrency or chosen.concurrency

    def ready(service: Service) -> None:
        if as_json:
            line = json.dumps({"worker": service.id, "agents": sorted(chosen.agents)})
        else:
            line = f"{service.id} serves {', '.join(sorted(chosen.agents))}"
        typer.echo(line)
        sys.stdout.flush()

    chosen.run(on_ready=ready)


def publish(
    *,
    user: Annotated[str, typer.Option(help="Whose channel.")],
    event: Annotated[list[str], typer.Option(help=f"Once per event: {', '.join(LIFECYCLE)}.")],
    payload: Annotated[list[str], typer.Option(help="Its payload, a JSON object; as many.")],
    agent: Annotated[str, typer.Option(help="The agent's name in the events.")] = "by-hand",
    thread: Annotated[str | None, typer.Option(help="The conversation. Absent: a new one.")] = None,
    tenant: Annotated[str, typer.Option(help="The user's tenant.")] = "",
    scope: Annotated[str, typer.Option(help="Who sees it: user, thread or run.")] = "user",
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Events by hand, for trying things: a run of its own with these events, begun and ended."""
    events = _pairs(event, payload)
    if scope not in get_args(ScopeName):
        raise typer.BadParameter(f"{scope!r} is not user, thread or run", param_hint="--scope")
    settings = load_settings(redis_url=redis_url)

    async def send() -> dict[str, Any]:
        ids = []
        async with Publisher(settings=settings) as publisher:
            async with publisher.run(
                user_id=user,
                agent_name=agent,
                thread_id=thread,
                tenant=tenant,
                scope=cast("ScopeName", scope),
            ) as run:
                for name, fields in events:
                    ids.append({"type": name, "id": await run.emit_event(name, fields)})
            return {"run_id": run.id, "thread_id": run.thread_id, "events": ids}

    sent = asyncio.run(send())
    if as_json:
        typer.echo(json.dumps(sent))
        return
    console = Console()
    for each in sent["events"]:
        console.print(f"[green]✓[/] {each['type']:16} [dim]{each['id']}[/]", highlight=False)
    console.print(f"run {sent['run_id']} of {user} has ended", highlight=False, markup=False)


def find_worker(target: str) -> Worker:
    """The worker that ``MODULE:WORKER`` names. :class:`ConfigurationError` says what is missing."""
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise _missing(
            target, "it does not have the form MODULE:WORKER", "Write it as my_agents:worker."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and itself imports something that is not
        raise _missing(
            target,
            f"there is no module {error.name!r} in {here} or installed",
            "Run the command in the directory that has it.",
        ) from None
    found = getattr(module, attribute, None)
    if isinstance(found, Worker):
        return found
    workers = [name for name, value in vars(module).items() if isinstance(value, Worker)]
    why = (
        f"module {module_name!r} has no {attribute!r}"
        if found is None
        else f"{attribute!r} is a {type(found).__name__}, not a Worker"
    )
    todo = (
        f"Did you mean {module_name}:{workers[0]}?"
        if workers
        else "Make one there: worker = Worker()."
    )
    raise _missing(target, why, todo)


def _missing(target: str, why: str, todo: str) -> ConfigurationError:
    return ConfigurationError(setting=target, why=why, todo=todo)


def _pairs(names: list[str], payloads: list[str]) -> list[tuple[str, dict[str, Any]]]:
    if len(names) != len(payloads):
        raise typer.BadParameter(
            f"{len(names)} --event but {len(payloads)} --payload; give one for each",
            param_hint="--payload",
        )
    events = []
    for name, text in zip(names, payloads, strict=True):
        if name not in LIFECYCLE:
            raise typer.BadParameter(
                f"{name!r} is not one of {', '.join(LIFECYCLE)}", param_hint="--event"
            )
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise typer.BadParameter(f"not JSON: {error}", param_hint="--payload") from None
        if not isinstance(fields, dict):
            raise typer.BadParameter("must be a JSON object", param_hint="--payload")
        events.append((name, fields))
    return events
