"""One line of the chaos report: a fault, what it cost, and how long until the next event came."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

PROPERTY: Final = "chaos"
"""The name under which a test hands a row to pytest, across processes too."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """``None`` = does not apply, or was not measured."""

    fault: str
    published: int | None = None
    delivered: int | None = None
    lost: int | None = None
    doubled: int | None = None
    leaked: int | None = None
    recovery_seconds: float | None = None


Report = Callable[[Row], None]
"""What the ``report`` fixture of the chaos tests is."""

COLUMNS: Final[Mapping[str, str]] = {
    "fault": "fault",
    "published": "events published",
    "delivered": "delivered",
    "lost": "lost",
    "doubled": "doubled",
    "leaked": "leaked",
    "recovery_seconds": "recovery (s)",
}


def as_property(row: Row) -> dict[str, Any]:
    return asdict(row)


def table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Markdown, sorted by fault."""
    ordered = sorted(rows, key=lambda row: str(row["fault"]))
    cells = [[_cell(row.get(name)) for name in COLUMNS] for row in ordered]
    lines = [list(COLUMNS.values()), *cells]
    widths = [max(len(line[at]) for line in lines) for at in range(len(COLUMNS))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [cell.ljust(width) if at == 0 else cell.rjust(width)
         for at, (cell, width) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]  # fmt: skip
    return ["| " + " | ".join(line) + " |" for line in (aligned[0], rule, *aligned[1:])]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
