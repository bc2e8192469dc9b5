"""The last events of a run that nobody works on any more (protocol section 2, promise G5).

Its open calls are closed and its one ``agent_completed`` says what became of it. These are the only
events of the five that the infrastructure itself writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker.events import AGENT_COMPLETED, TOOL_COMPLETED
from broker.lifecycle import FLAGS, State, missing
from broker.publication import Publication
from broker.redis.records import Claim

REASONS: Final[Mapping[str, str]] = {
    "stopped": "the run was stopped",
    "worker_lost": "the worker that ran it was lost",
    "queue_timeout": "no worker took it in time",
}
"""Error code of a terminal event written here → its text."""


def closing(claim: Claim, *, status: str, code: str, epoch_ms: int) -> list[Publication]:
    """What to publish, in order, to end the run that was taken over."""
    seq, sent, envelope = claim.seq, claim.sent, claim.envelope
    publications = []
    for call_id, call in claim.open_calls.items():
        seq += 1
        sent = _with(sent, TOOL_COMPLETED)
        payload: dict[str, Any] = {
            "tool": call.tool,
            "call_id": call_id,
            "success": False,
            "result": None,
            "duration_ms": max(0, epoch_ms - call.since_ms),
            "error": {"code": "run_ended", "message": REASONS[code]},
        }
        publications.append(
            Publication(
                seq=seq,
                event_type=TOOL_COMPLETED,
                body=envelope.encode(TOOL_COMPLETED, payload, epoch_ms=epoch_ms, seq=seq),
                state=State.RUNNING,
                sent=sent,
                call_closed=call_id,
            )
        )
    seq += 1
    sent = _with(sent, AGENT_COMPLETED)
    payload = {
        "response": None,
        "complete": True,
        "status": status,
        "duration_ms": max(0, epoch_ms - claim.created_ms),
        "missing": missing(sent),
        "error": {"code": code, "message": REASONS[code]},
    }
    publications.append(
        Publication(
            seq=seq,
            event_type=AGENT_COMPLETED,
            body=envelope.encode(AGENT_COMPLETED, payload, epoch_ms=epoch_ms, seq=seq),
            state=State.COMPLETED,
            sent=sent,
            status=status,
        )
    )
    return publications


def _with(sent: str, event_type: str) -> str:
    letters = sent + FLAGS[event_type]
    return "".join(flag for flag in FLAGS.values() if flag in letters)
