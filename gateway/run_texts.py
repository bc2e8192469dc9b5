"""The streamed text of each run, put together from its deltas (protocol section 2). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.events import AGENT_COMPLETED, AGENT_DELTA, AGENT_STARTED

REMEMBERED: Final = 100
"""Texts of runs that have ended."""


@dataclass(slots=True)
class _Text:
    """``next`` is the position after it."""

    next: int
    text: str


class RunTexts:
    """Of one client's runs: those that are open, and the latest that have ended."""

    def __init__(self) -> None:
        self._open: dict[str, _Text] = {}
        self._ended: dict[str, str] = {}

    def of(self, run_id: str) -> str:
        """What the run has said so far; empty for one that is not known."""
        open_text = self._open.get(run_id)
        return self._ended.get(run_id, "") if open_text is None else open_text.text

    def take(self, frame: Mapping[str, Any]) -> None:
        """Go on by one frame, of whatever kind."""
        run_id, payload = frame.get("run_id"), frame.get("payload")
        if not isinstance(run_id, str) or not isinstance(payload, dict):
            return
        kind = frame.get("type")
        if kind == AGENT_DELTA:
            self._append(run_id, payload)
        elif kind == AGENT_STARTED:
            self._open.pop(run_id, None)  # what an attempt before had said is void
        elif kind == AGENT_COMPLETED:
            response, said = payload.get("response"), self.of(run_id)
            self._open.pop(run_id, None)
            self._ended[run_id] = response if isinstance(response, str) else said
            if len(self._ended) > REMEMBERED:
                del self._ended[next(iter(self._ended))]

    def _append(self, run_id: str, delta: Mapping[str, Any]) -> None:
        """After a hole the gateway sends the whole: what continues nothing is left out."""
        offset, following, text = delta["offset"], delta["next"], delta["text"]
        known = self._open.get(run_id)
        if run_id in self._ended:
            return
        if offset == 0:
            self._open[run_id] = _Text(following, text)
        elif known is not None and known.next == offset:
            known.next, known.text = following, known.text + text
