"""``runcast bench`` as it is typed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from broker.config import load_settings
from broker.logs import configure_logging
from gateway.bench.plan import chosen, plan_for


def bench(
    *,
    url: Annotated[
        str | None,
        typer.Option(help="The gateway. Absent: RUNCAST_URL; without, one of its own."),
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option(min=2, help="Chat clients. Absent: 200; with a gateway of its own 1000."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="For all measures, about.")] = 20,
    rate: Annotated[float, typer.Option(min=1, help="Events a second to see latency at.")] = 200,
    most_rate: Annotated[
        float | None,
        typer.Option(
            min=1, help="Never more events a second. Absent: 2000; with its own gateway: no end."
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Of connect, memory, latency, throughput, fanout, resume. Absent: all."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A TOML file with settings."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Measure this installation: connects, memory, latency, throughput, resume.

    It is real load. Users, runs and events are the bench's own and removed at the end.
    Exit status 0 only when no event was lost, doubled or misdelivered.
    """
    from gateway.bench.runner import run_bench

    try:
        measures = chosen(only)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None
    settings = load_settings(config, url=url)
    configure_logging(settings.log_format, "error")  # the bench says it better
    plan = plan_for(
        own="url" not in settings.model_fields_set,
        connections=connections,
        seconds=seconds,
        rate=rate,
        most_rate=most_rate,
        only=measures,
    )
    sys.exit(run_bench(settings, plan, as_json=as_json))
