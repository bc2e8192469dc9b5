"""Markdown tables, as all generated ones are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NOTHING: Final = "\N{EN DASH}"
"""A cell without anything."""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; ``|`` in a cell is escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace(chr(124), chr(92) + chr(124)) for cell in row)} |"
        for row in lines
    )
