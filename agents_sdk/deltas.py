"""Streamed text: what is written within 40 ms becomes one delta (protocol section 2).

The first text after a silence goes at once, so that a reader waits for nothing; the rest is merged,
so that a fast model does not cost one publish per token.
"""

from __future__ import annotations

from typing import Final

from broker.events import MAX_DELTA_CHARACTERS

WINDOW_SECONDS: Final = 0.04


class Merger:
    """Text that is not sent yet. Whole characters in, whole characters out; times in seconds."""

    __slots__ = ("_last", "_parts")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._last = float("-inf")

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, text: str) -> None:
        """Keep ``text`` until it is taken."""
        self._parts.append(text)

    def wait(self, now: float) -> float:
        """Seconds until what was added is due; 0 = take it now."""
        return max(0.0, self._last + WINDOW_SECONDS - now)

    def take(self, now: float) -> str:
        """Everything added."""
        text = "".join(self._parts)
        self._parts.clear()
        self._last = now
        return text


def cut(text: str) -> list[str]:
    """``text`` as pieces of at most the longest delta."""
    return [
        text[at : at + MAX_DELTA_CHARACTERS] for at in range(0, len(text), MAX_DELTA_CHARACTERS)
    ]
