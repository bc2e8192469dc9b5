"""One run's events out of its channel, in its reader's words, up to its end. Pure.

The channel may carry other runs too. Which of them are sub-agents' of this one is told by their own
events, so the channel is read from before the run's beginning, and what the client has is left out
by its :class:`~gateway.dialects.dialect.Dialect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import orjson

from broker.events import AGENT_COMPLETED
from gateway.dialects.dialect import Dialect, Frame, Said
from gateway.outbox import Outbox

LOST: Final = "resync"


class RunOutbox(Outbox):
    """Takes what :data:`~gateway.wires.UNFRAMED` gives, and holds what ``write`` makes of it.

    ``ended``: the run's terminal event was taken, or the dialect's last said: nothing follows.
    """

    __slots__ = ("_dialect", "_family", "_run_id", "_write", "ended")

    def __init__(
        self, run_id: str, dialect: Dialect, write: Callable[[bytes, bytes], bytes]
    ) -> None:
        super().__init__()
        self._run_id, self._dialect, self._write = run_id, dialect, write
        self._family = {run_id}
        self.ended = False

    def push(self, frame: bytes) -> bool:
        """Take an event or a delta, if it is the run's; False as in :meth:`Outbox.push`."""
        if self.ended:
            return True
        cursor, _, text = frame.partition(b"\n")
        event = _read(text)
        run_id = str(event.get("run_id"))
        if run_id not in self._family and event.get("parent_run_id") not in self._family:
            return True
        if self.full:  # before it is translated: what comes again must not have been taken in
            return False
        self._family.add(run_id)
        # What somebody else than the SDK wrote may lack what the dialect looks for.
        with suppress(LookupError, TypeError, ValueError, AttributeError):
            self._tell(self._dialect.event(Frame(text, cursor, event)))
        if run_id == self._run_id and event.get("type") == AGENT_COMPLETED:
            self.ended = True
        return True

    def say(self, text: bytes, cursor: bytes = b"") -> bool:
        """Take a control frame. True: it tells of a hole, in which the run's end may have been."""
        fields = _read(text)
        if not self.ended:
            self._tell(self._dialect.control(Frame(text, cursor, fields)))
        return fields.get("type") == LOST

    def let_go(self, now_ms: int) -> None:
        """Its reader has everything; he is not kept while the run waits for him."""
        dialect = self._dialect
        if not (self.ended or dialect.ended) and dialect.waits_until_ms > now_ms:
            dialect.ended = True
            self._tell(dialect.leave())

    def _tell(self, what: Iterable[Said]) -> None:
        for said, position in what:
            self.put(self._write(said, position))
        self.ended = self.ended or self._dialect.ended


def _read(text: bytes) -> dict[str, Any]:
    """Empty for what is no event: somebody else than the SDK wrote it."""
    try:
        event = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return event if isinstance(event, dict) else {}
