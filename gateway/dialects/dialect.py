"""What a dialect is: one reader's translator of one run. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from broker import cursor
from broker.cursor import Cursor


@dataclass(frozen=True, slots=True)
class Run:
    """Which run is read."""

    run_id: str
    thread_id: str
    agent: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of protocol 3 (sections 2 and 6), for a translator to read.

    ``cursor``: where a client that has it is; empty for what is not in the log.
    """

    text: bytes
    cursor: bytes
    fields: Mapping[str, Any]


Said = tuple[bytes, bytes]
"""What the client is told, as JSON, and its position then; empty when it stays where it is."""


class Dialect(ABC):
    """One for each reader of a run, which it gets from its beginning on, sub-agents included.

    So it knows what is open, and leaves out what the reader has. Of a run's text that is kept it
    gets one delta with ``offset`` 0 when the log is read, and again when the reader fell behind.
    Nothing comes after the run's own terminal event. Where the reader gets something else last, a
    ``closing`` or a ``resync``, it must not take the silence after it for the run's end.

    ``ended``: the last was said, so that the response ends although the run may go on.
    ``waits_until_ms``: until then (since 1970) the run waits for its user; a reader that has
    everything is let go with :meth:`leave`. ``resumes``: its reader comes back by itself when the
    response is cut off, so where the gateway has to close it, it is cut off and nothing is said.
    """

    ended: bool = False
    resumes: bool = False
    waits_until_ms: int = 0

    def leave(self) -> Iterable[Said]:
        """The last that a reader is told whose run goes on without him."""
        return ()

    @abstractmethod
    def event(self, frame: Frame) -> Iterable[Said]:
        """An event of the run, or a delta."""

    @abstractmethod
    def control(self, frame: Frame) -> Iterable[Said]:
        """What the gateway itself has to say: ``run_accepted`` is the first."""

    @staticmethod
    def position(text: str) -> Cursor:
        """The cursor in a position that a client gives back; ``ValueError`` without one."""
        return cursor.parse(text)


Speak = Callable[[Run, str | None], Dialect]
"""Makes the translator for a reader of this run, with the position that it goes on from, if any.

``ValueError`` for a position that is none."""
