"""What is published of a run: an event, or a piece of its streamed text."""

from __future__ import annotations

from dataclasses import dataclass

from broker.lifecycle import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One event, encoded, with what its run's hash must say after it.

    ``changes``: false when ``state`` and ``sent`` are those of the event before, no call opens or
    closes, and nothing is asked. It is the rule rather than the exception, and costs Redis less.
    ``asked``: request id, and for how many milliseconds it can be answered.
    """

    seq: int
    event_type: str
    body: bytes
    state: State
    sent: str
    call_opened: tuple[str, str] | None = None
    call_closed: str | None = None
    asked: tuple[str, int] | None = None
    status: str | None = None
    changes: bool = True


@dataclass(frozen=True, slots=True)
class Delta:
    """Streamed text, from ``offset`` to ``following`` of the run's text, in UTF-8 bytes."""

    offset: int
    following: int
    text: str
