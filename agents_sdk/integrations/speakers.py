"""One answer out of what several models say: one at a time, with a blank line between two."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

BETWEEN: Final = "\n\n"


class Speakers:
    """Passes text on in whole turns. A turn is held back while another speaks, and then comes.

    ``write`` takes the text of the answer, in order.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._last: Hashable = None
        self._speaking: Hashable = None
        self._held: dict[Hashable, list[str]] = {}
        self._ended: set[Hashable] = set()

    def say(self, speaker: Hashable, text: str) -> None:
        """``speaker`` goes on with this text."""
        if self._speaking is None:
            self._speaking = speaker
        if self._speaking == speaker:
            self._pass_on(speaker, text)
        else:
            self._held.setdefault(speaker, []).append(text)

    def end(self, speaker: Hashable) -> None:
        """``speaker`` has said all; does nothing for one who never spoke."""
        if speaker != self._speaking:
            if speaker in self._held:
                self._ended.add(speaker)
            return
        self._speaking = None
        while self._held and self._speaking is None:
            following = next(iter(self._held))
            self._pass_on(following, "".join(self._held.pop(following)))
            if following in self._ended:
                self._ended.discard(following)
            else:
                self._speaking = following

    def _pass_on(self, speaker: Hashable, text: str) -> None:
        if not text:
            return
        if self._last is not None and self._last != speaker:
            text = BETWEEN + text
        self._last = speaker
        self._write(text)
