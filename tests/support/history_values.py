"""What happened, as values: what publishers were told, clients received, and the logs hold."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

Frame = Mapping[str, Any]
Cursor = tuple[int, int]

ZERO: Final = (0, 0)
TERMINAL: Final = "agent_completed"


class Kind(StrEnum):
    """How a promise can be broken."""

    LOST = "lost"
    """An event did not reach a client of its scope that is connected, and no resync covers it."""
    DOUBLED = "doubled"
    """The same event twice to one client, or twice in the log."""
    LEAKED = "leaked"
    """Delivered outside its scope: another user, thread, connection, or somebody else's reply."""
    OUT_OF_ORDER = "out_of_order"
    """Ids or a run's seq do not increase."""
    AFTER_TERMINAL = "after_terminal"
    """Something of a run after its end."""
    TWO_TERMINALS = "two_terminals"
    NO_TERMINAL = "no_terminal"
    """A run that was acknowledged has not ended."""
    UNKNOWN_TWICE = "unknown_twice"
    """An emission of unknown outcome happened more than once."""
    NOT_IN_LOG = "not_in_log"
    """Acknowledged, and the log does not have it."""
    UNTOLD = "untold"
    """A client has what the log does not have under that id, and was not told so by a resync."""
    TORN = "torn"
    """Streamed text that does not continue what the client has, or does not begin the response."""
    PHANTOM = "phantom"
    """An emission that was refused happened."""


class Outcome(StrEnum):
    """What a publisher knows about one emission."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Place:
    """A channel: scope ``user``, ``thread``, ``run`` or ``connection``, and its ids."""

    scope: str
    user: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run of the history. ``accepted``: somebody was told that it exists, so it must end."""

    run_id: str
    place: Place
    thread: str
    accepted: bool = True


@dataclass(frozen=True, slots=True)
class Emission:
    """One call of a publisher. ``marker`` is in the event and nowhere else.

    ``id``: when ok, but for a retry that was answered after its event had been trimmed.
    """

    run_id: str
    marker: str
    outcome: Outcome
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in a log, oldest first."""

    id: str
    run_id: str
    seq: int | None
    type: str
    thread: str
    marker: str | None = None


@dataclass(frozen=True, slots=True)
class Epoch:
    """One connection of a client: the cursor it asked for, what it sent, what it received."""

    after: str | None
    frames: Sequence[Frame]
    sent: frozenset[str] = frozenset()
    """The ids of its own frames."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A client. ``thread``: it asked for this thread's events only."""

    name: str
    place: Place
    epochs: Sequence[Epoch]
    thread: str | None = None
    connected: bool = True
    """In the end, and level: it must have everything."""


@dataclass(frozen=True, slots=True)
class Excuses:
    """What the fault may cost. ``rolled_back``: acknowledged events, which the log lost (a replica
    promoted without the tail, data gone); ``retention``: entries that a log keeps at least."""

    rolled_back: bool = False
    retention: int | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Everything that :func:`check` looks at."""

    runs: Mapping[str, RunRecord]
    emissions: Sequence[Emission]
    readers: Sequence[Reader]
    logs: Mapping[Place, Sequence[Entry]]
    excuses: Excuses = field(default_factory=Excuses)


@dataclass(frozen=True, slots=True)
class Violation:
    """One breach, and what shows it."""

    kind: Kind
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.who}: {self.what}"


def cursor(text: str) -> Cursor:
    """An id, comparable."""
    ms, _, seq = text.partition("-")
    return int(ms), int(seq)


def is_cursor(text: str) -> bool:
    """Whether a client's ``after`` has the form of an id."""
    return re.fullmatch(r"\d+-\d+", text) is not None


def marker_of(event: Frame) -> str | None:
    """Emissions are told apart by what an ``agent_thinking`` says."""
    thoughts: str | None = event.get("payload", {}).get("thoughts")
    return thoughts


def full(history: History, place: Place) -> bool:
    """Whether a log has as much as it keeps, so that older entries may be gone."""
    kept = history.excuses.retention
    return kept is not None and len(history.logs.get(place, ())) >= kept
