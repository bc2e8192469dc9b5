"""The demo's agent. It does something true with what the user pastes.

Numbers or CSV: it parses them, computes per column, and reports. Prose: it counts words,
sentences and frequent terms. ``slowly:`` before the text, or ``pace_ms`` in the metadata, slows the
answer down so that there is time to press Stop.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from agents_sdk import analysis
from agents_sdk.run import Run
from agents_sdk.worker import Worker

PACE_MS: Final = 12
"""Between two words of the answer: one sees it being written, and a page of it takes a second."""
SLOW_MS: Final = 300
MAX_PACE_MS: Final = 2000
MAX_CHARACTERS: Final = 200_000
"""The rest is left out, and the answer says so."""

worker = Worker()


@worker.agent("analyst", timeout_seconds=300)
async def analyst(run: Run) -> None:
    """Read what was sent as data or as prose, use the tools for it, and write a short report."""
    text, pace_ms = request_of(run.content, run.metadata)
    await run.think("Looking at what you sent", step=1, progress=0.1)
    left_out = len(text) - MAX_CHARACTERS
    if left_out > 0:
        text = text[:MAX_CHARACTERS]
    numeric = await asyncio.to_thread(analysis.looks_numeric, text)
    report = await report_data(run, text) if numeric else None
    if report is None:
        report = await report_prose(run, text)
    if left_out > 0:
        report += f"\n\nI read the first {MAX_CHARACTERS:,} characters and left {left_out:,} out."
    await run.think("Writing down what I found", step=3, progress=0.9)
    for piece in re.findall(r"\s*\S+\s*?", report):
        await run.write(piece)
        if pace_ms > 0:
            await asyncio.sleep(pace_ms / 1000)


def request_of(content: Any, metadata: Mapping[str, Any]) -> tuple[str, float]:
    """Text and pace in milliseconds, out of whatever a client may send."""
    pace: Any = metadata.get("pace_ms", PACE_MS)
    if isinstance(content, Mapping):
        inner = [content[key] for key in ("text", "rows", "query", "message") if key in content]
        content = inner[0] if inner else json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        content = analysis.table_of(content)
    text = "" if content is None else str(content)
    head, colon, rest = text.partition(":")
    if colon and head.strip().lower() == "slowly":
        text, pace = rest, SLOW_MS
    valid = (
        isinstance(pace, int | float) and not isinstance(pace, bool) and 0 <= pace <= MAX_PACE_MS
    )
    return text.strip(), float(pace) if valid else PACE_MS


async def report_data(run: Run, text: str) -> str | None:
    """The report on a table, or ``None`` when there is none in it after all."""
    await run.think("This looks like data, so I parse it and compute", step=2, progress=0.3)
    async with run.tool(
        "parse_table", purpose="Find rows and columns", characters=len(text)
    ) as call:
        table = await asyncio.to_thread(analysis.parse_table, text)
        call.result = shape(table)
    if call.error is not None and call.error["code"] == "not_a_number":
        await run.think(f"{call.error['message']}: reading on without such cells", step=2)
        async with run.tool(
            "parse_table", purpose="Read what can be read", skip_invalid=True
        ) as call:
            table = await asyncio.to_thread(analysis.parse_table, text, skip_invalid=True)
            call.result = shape(table)
    if call.error is not None:
        await run.think(f"{call.error['message']}: reading it as prose instead", step=2)
        return None
    async with run.tool("data_analyzer", purpose="Compute statistics", rows=table.rows) as call:
        call.result = await asyncio.to_thread(
            lambda: {name: analysis.describe(values) for name, values in table.columns.items()}
        )
    if call.error is not None:
        return f"I found {quantity(table.rows, 'row')}, but: {call.error['message']}."
    if list(table.columns) == ["values"]:
        lines = [f"I read {quantity(table.rows - table.skipped, 'number')}."]
    else:
        columns = quantity(len(table.columns), "column")
        lines = [f"I read {quantity(table.rows, 'row')} with {columns} of numbers."]
    if table.skipped:
        lines.append(f"Left out, because not a number: {quantity(table.skipped, 'cell')}.")
    for name, found in call.result.items():
        figures = [f"{key} {short(value)}" for key, value in found.items() if value is not None]
        lines.append(f"\n{name}: {', '.join(figures)}.")
    return "\n".join(lines)


async def report_prose(run: Run, text: str) -> str:
    """The report on a text; on nothing at all, what the agent can do."""
    if text:
        await run.think("This is prose, so I count words and terms", step=2, progress=0.3)
    async with run.tool(
        "text_statistics", purpose="Count words and frequent terms", characters=len(text)
    ) as call:
        call.result = await asyncio.to_thread(analysis.text_statistics, text)
    if call.error is not None:
        return (
            f"{call.error['message']}. Paste some numbers, a CSV table or a paragraph of text: "
            "I compute statistics per column, or count words, sentences and frequent terms."
        )
    found = call.result
    terms = ", ".join(f"{each['term']} ({each['count']})" for each in found["frequent"])
    return (
        f"Your text has {quantity(found['words'], 'word')} "
        f"in {quantity(found['sentences'], 'sentence')}, "
        f"on average {found['words_per_sentence']:g} to a sentence. "
        f"Reading it takes about {reading_time(found['reading_seconds'])}."
        + (f"\n\nMost frequent terms: {terms}." if terms else "")
    )


def shape(table: analysis.Table) -> dict[str, Any]:
    """A table as the result of the tool that found it."""
    return {"rows": table.rows, "columns": list(table.columns), "skipped": table.skipped}


def quantity(count: int, noun: str) -> str:
    """``1 row``, ``1,200 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short(value: float) -> str:
    """Whole numbers in full, others with at most six significant digits."""
    if value == int(value) and abs(value) < 1e15:  # noqa: PLR2004  # beyond it floats skip integers
        return f"{int(value):,}"
    return f"{value:,.6g}"


def reading_time(seconds: float) -> str:
    """For people."""
    minutes = round(seconds / 60)
    return quantity(minutes, "minute") if minutes else quantity(max(1, round(seconds)), "second")
