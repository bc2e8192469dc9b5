"""One run's events out of its channel, up to its end (protocol section 7). Pure.

The channel may carry other runs too. Which of them are sub-agents' of this one is told by their own
events, so the channel is read from before the run's beginning, and what the client has is left out.
"""

from __future__ import annotations

from typing import Any

import orjson

from broker.cursor import Cursor, from_redis
from broker.events import AGENT_COMPLETED
from gateway.frames import sse_message
from gateway.outbox import Outbox


class RunOutbox(Outbox):
    """Takes what :data:`~gateway.wires.UNFRAMED` gives, and holds server-sent events.

    ``after``: events up to there are left out. ``ended``: the run's terminal event was taken, so
    that nothing follows.
    """

    __slots__ = ("_after", "_family", "_run_id", "ended")

    def __init__(self, run_id: str, after: Cursor) -> None:
        super().__init__()
        self._run_id, self._after = run_id, after
        self._family = {run_id}
        self.ended = False

    def push(self, frame: bytes) -> bool:
        """Take an event or a delta, if it is the run's; False as in :meth:`Outbox.push`."""
        cursor, _, text = frame.partition(b"\n")
        event = _read(text)
        run_id = str(event.get("run_id"))
        if run_id not in self._family and event.get("parent_run_id") not in self._family:
            return True
        is_new = not cursor or from_redis(cursor) > self._after
        if is_new and not super().push(sse_message(text, cursor)):
            return False
        self._family.add(run_id)
        if run_id == self._run_id and event.get("type") == AGENT_COMPLETED:
            self.ended = True
        return True


def _read(text: bytes) -> dict[str, Any]:
    """Empty for what is no event: somebody else than the SDK wrote it."""
    try:
        event = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return event if isinstance(event, dict) else {}
