"""What is seen of a bench: a bar on standard error while it runs, a table on standard output."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.bench.account import Faults
from gateway.bench.plan import Plan
from gateway.bench.report import TITLES, rows

NAME_COLUMNS: Final = 16
VALUE_COLUMNS: Final = 15
_REDRAW_SECONDS: Final = 0.25
"""Seldom enough that the publisher, in the same process, is not disturbed."""


class Bar:
    """How far the bench is; nothing when standard error is no terminal."""

    def __init__(self, plan: Plan) -> None:
        console = Console(stderr=True)
        self._total = plan.seconds
        self._done = 0.0
        self._begun, self._share = time.monotonic(), 0.0
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[now]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("starting", total=self._total, now="")

    def begin(self, measure: str, seconds: float) -> None:
        """A measure begins: the ones before it are done."""
        self._done = min(self._total, self._done + self._share)
        self._begun, self._share = time.monotonic(), seconds
        self._progress.update(self._task, description=measure, now="")

    def note(self, words: str) -> None:
        """What it is doing now."""
        self._progress.update(self._task, now=words)

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Draw it until the end of the block."""
        drawing = asyncio.create_task(self._draw())
        self._progress.start()
        try:
            yield
        finally:
            drawing.cancel()
            await asyncio.wait({drawing})
            self._progress.stop()

    async def _draw(self) -> None:
        while not self._progress.disable:
            within = min(self._share, time.monotonic() - self._begun)
            self._progress.update(self._task, completed=self._done + within)
            self._progress.refresh()
            await asyncio.sleep(_REDRAW_SECONDS)


def show(told: Mapping[str, Any], faults: Faults, closed: Mapping[int, int]) -> None:
    """The whole table on standard output."""
    console = Console(highlight=False)
    machine, versions = told["machine"], told["versions"]
    console.print(
        f"[bold]Runcast {versions['gateway']}[/] at {told['url']}, {told['gateway']}",
        soft_wrap=True,
    )
    console.print(
        f"Redis {versions['redis']}, Python {machine['python']}, {machine['system']}\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB\n"
        f"{told['plan']['connections']:,} connections, {told['at']}",
        style="dim",
        soft_wrap=True,
    )
    for measure, result in told["measures"].items():
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(width=NAME_COLUMNS)
        table.add_column(width=VALUE_COLUMNS, justify="right")
        table.add_column(style="dim")
        for row in rows(measure, result):
            table.add_row(f"  {row.name}", row.value, row.meaning)
        console.print(f"\n[bold]{TITLES[measure]}[/]")
        console.print(table)
    console.print()
    if not faults:
        said = "✔ No event was lost, doubled, out of order or misdelivered."
        console.print(said, style="green")
        return
    console.print(f"✘ Promises were broken: {faults}.", style="red")
    if closed:
        codes = ", ".join(f"{code} ({count} times)" for code, count in sorted(closed.items()))
        console.print(f"  Close codes: {codes}; docs/reference/close-codes.md tells them.")
    for measure, result in told["measures"].items():
        broken = Faults(**result["faults"])
        if broken:
            console.print(f"  {measure}: {broken}")
    console.print("  The gateway's log, and /ws/health, may tell why. Then measure again.")


def show_json(told: Mapping[str, Any]) -> None:
    """The same as one JSON object."""
    sys.stdout.write(f"{orjson.dumps(told).decode()}\n")


def warn(words: str) -> None:
    """A line for the operator, beside the results."""
    Console(stderr=True, highlight=False).print(words, style="yellow")
