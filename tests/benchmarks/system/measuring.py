"""A scenario: a name, what it measures, and how it runs at full and at quick size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Found = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """``run(quick)`` answers system → figures, JSON all the way."""

    name: str
    what: str
    run: Callable[[bool], dict[str, Found]]
