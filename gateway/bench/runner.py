"""``runcast bench``: set up, measure, tell, and leave nothing behind."""

from __future__ import annotations

import asyncio
import secrets
import signal
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import uvloop

from broker.config import Settings
from broker.errors import RuncastError
from gateway.bench.audience import Audience, how_many
from gateway.bench.installation import Installation, given, own
from gateway.bench.measures import Measures
from gateway.bench.plan import TABS, Plan
from gateway.bench.processes import allow_files, cores, machine
from gateway.bench.screen import Bar, show, show_json, warn
from gateway.bench.speaker import Speaker
from gateway.version import product_version

INTERRUPTED: Final = 130
"""The exit status that shells give a program that Ctrl-C ended."""


def run_bench(settings: Settings, plan: Plan, *, as_json: bool) -> int:
    """The exit status: 0 when all was measured and every promise kept, 1 when one was broken.

    Raises the errors of the broker and :class:`~gateway.bench.failure.BenchFailed`.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_stopped(settings, plan, as_json=as_json))


async def _until_stopped(settings: Settings, plan: Plan, *, as_json: bool) -> int:
    loop = asyncio.get_running_loop()
    bench = asyncio.create_task(_bench(settings, plan, as_json=as_json))
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    stopper = asyncio.create_task(asked.wait())
    await asyncio.wait({bench, stopper}, return_when=asyncio.FIRST_COMPLETED)
    stopper.cancel()
    if not bench.done():
        bench.cancel()
        with suppress(asyncio.CancelledError):
            await bench
        warn("Stopped: the bench's runs are ended, its keys removed, its processes gone.")
        return INTERRUPTED
    return bench.result()


async def _bench(settings: Settings, plan: Plan, *, as_json: bool) -> int:
    name = f"bench-{secrets.token_hex(4)}"
    processes = how_many(cores(), plan.connections)
    allow_files(plan.connections + TABS, processes if not plan.own else 1)
    bar = Bar(plan)
    async with AsyncExitStack() as parts:
        place = own(settings, name=name) if plan.own else given(settings)
        installation = await parts.enter_async_context(place)
        if not plan.own:
            _warn_of_load(plan, installation)
        audience = Audience(
            installation.target,
            url=installation.url,
            own=plan.own,
            sign=installation.sign,
            name=name,
        )
        speaker = Speaker(installation.broker, name=name)
        parts.push_async_callback(_clean_up, speaker)
        parts.push_async_callback(audience.stop)
        await audience.start(processes)
        measures = Measures(plan, installation, audience, speaker, bar)
        async with bar.shown():
            await measures.run()
        told = _told(plan, installation, measures, audience)
    if as_json:
        show_json(told)
    else:
        show(told, measures.faults, audience.closed)
    return 1 if measures.faults else 0


def _warn_of_load(plan: Plan, installation: Installation) -> None:
    most = plan.most_rate or 0.0
    warn(
        f"Real load on {installation.url}: {plan.connections:,} connections and up to "
        f"{most:,.0f} events/s for some {plan.seconds:g} s, to users of the bench's own."
    )


async def _clean_up(speaker: Speaker) -> None:
    """End the runs and delete their keys, whatever happened before."""
    try:
        try:
            await speaker.end()
        finally:
            await speaker.remove()
    except RuncastError as error:
        warn(
            f"{error} What the bench could not clean up goes by itself: runs that were not ended "
            "are abandoned within seconds, and keys expire after RUNCAST_HISTORY_TTL_SECONDS."
        )


def _told(
    plan: Plan, installation: Installation, measures: Measures, audience: Audience
) -> dict[str, Any]:
    """Everything, as ``--json`` tells it."""
    if plan.own:
        gateway = "a gateway of the bench's own"
    elif installation.pids:
        gateway = f"process {', '.join(map(str, installation.pids))} on this machine"
    else:
        gateway = installation.unknown
    return {
        "ok": not measures.faults,
        "at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "url": installation.url,
        "gateway": gateway,
        "machine": machine(),
        "versions": {
            "gateway": installation.config["version"],
            "bench": product_version(),
            "redis": installation.redis_version,
        },
        "plan": asdict(plan),
        "measures": measures.results,
        "faults": asdict(measures.faults),
        "close_codes": {str(code): count for code, count in audience.closed.items()},
    }
