"""What is to be published of a worker's batch, and what of it is there already.

A batch is checked as a whole, against the run's record, before any of it is published: no state is
kept between two requests. An event is known by its ``seq``, a delta by its offset, the end of a run
by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from broker import events
from broker.composer import Composer, Moment, ask_seconds, text_size
from broker.errors import (
    EventTooLarge,
    Fenced,
    InvalidEvent,
    LifecycleError,
    RuncastError,
    RunClosed,
    RunExists,
    RunNotFound,
)
from broker.events import MAX_DELTA_CHARACTERS
from broker.lifecycle import State
from broker.publication import Delta, Publication
from gateway.event_batch import Item
from gateway.handshake import BadRequest

REFUSALS: Final[Mapping[type[RuncastError], tuple[str, int]]] = {
    InvalidEvent: ("bad_event", 400),
    RunNotFound: ("run_not_found", 404),
    LifecycleError: ("lifecycle_violation", 409),
    RunExists: ("run_exists", 409),
    Fenced: ("fenced", 409),
    RunClosed: ("run_closed", 409),
    EventTooLarge: ("too_large", 413),
}
"""Error → code and HTTP status of its problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of text in bytes, and of the time for which a question is open."""

    max_text_bytes: int
    input_seconds: float
    longest_input_seconds: float


@dataclass(slots=True)
class Plan:
    """What is to be done for a batch.

    ``recalled``: the events that are there already. ``said``: what is to be published, in order.
    """

    recalled: range = range(0)
    said: list[Publication | Delta] = field(default_factory=list)
    _of_items: list[tuple[str, int]] = field(default_factory=list)

    def add(self, what: Publication | Delta) -> None:
        """Publish it, and tell so."""
        self._of_items.append(("said", len(self.said)))
        self.said.append(what)

    def recall(self, seq: int) -> None:
        """It is there; tell its id."""
        self._of_items.append(("recalled", seq))
        first = min(seq, self.recalled.start) if self.recalled else seq
        self.recalled = range(first, max(seq + 1, self.recalled.stop))

    def note(self, following: int) -> None:
        """A delta is there."""
        self._of_items.append(("written", following))

    def told(self, ids: Sequence[str], done: Sequence[str | int]) -> list[dict[str, Any]]:
        """What became of each item: ``{seq, id}`` or ``{next}``. An id that was trimmed is null."""
        found: list[dict[str, Any]] = []
        for kind, at in self._of_items:
            if kind == "recalled":
                found.append({"seq": at, "id": ids[at - self.recalled.start] or None})
            elif kind == "written":
                found.append({"next": at})
            elif isinstance(said := self.said[at], Delta):
                found.append({"next": said.following})
            else:
                found.append({"seq": said.seq, "id": done[at] or None})
        return found


def refusal(error: RuncastError) -> BadRequest:
    """The problem that an error of :data:`REFUSALS` is answered with."""
    code, status = REFUSALS[type(error)]
    return BadRequest(code, str(error), status=status)


class Planning:
    """A batch, item by item, and how the run stands after each.

    ``run`` is where its record says it is, and goes along. ``text``: what was streamed so far, if
    an item needs it; ``text_bytes``: how long that is.
    """

    def __init__(
        self,
        run: Composer,
        *,
        run_id: str,
        text: str,
        text_bytes: int,
        bounds: Bounds,
        at: Moment,
    ) -> None:
        self.plan = Plan()
        self.run, self.text_bytes = run, text_bytes
        self._run_id, self._text, self._bounds, self._at = run_id, text, bounds, at
        self._there = run.seq
        self._over = run.lifecycle.state is State.COMPLETED

    def take_all(self, items: Sequence[Item]) -> Plan:
        """What to do for all of them.

        :class:`BadRequest` says which is refused, and why: nothing is to be published then.
        """
        for index, item in enumerate(items):
            try:
                self._take(item)
            except BadRequest as refused:
                raise _at(index, refused) from None
            except (InvalidEvent, LifecycleError, EventTooLarge, RunClosed) as error:
                raise _at(index, refusal(error)) from None
        return self.plan

    def _take(self, item: Item) -> None:
        if item.seq is None:
            self._take_delta(item.payload)
        elif item.type == events.AGENT_COMPLETED and not self._over:
            self._check_gap(item.seq)
            self._end(item.payload)
        elif item.seq <= self._there:
            # The end is behind the calls that it closed: known by itself, not by its number.
            self.plan.recall(self._there if item.type == events.AGENT_COMPLETED else item.seq)
        elif self.run.lifecycle.state is State.COMPLETED:
            raise RunClosed(subject=self._run_id)
        else:
            self._check_gap(item.seq)
            self.plan.add(self._event(item))

    def _event(self, item: Item) -> Publication:
        if item.type != events.INPUT_REQUIRED:
            return self.run.event(item.type, item.payload, self._at)
        payload = dict(item.payload)
        seconds = ask_seconds(
            payload.pop("expires_seconds", None),
            default=self._bounds.input_seconds,
            longest=self._bounds.longest_input_seconds,
        )
        return self.run.question(payload, seconds=seconds, at=self._at)

    def _end(self, given: dict[str, Any]) -> None:
        if self.run.lifecycle.state is State.COMPLETED:
            raise RunClosed(subject=self._run_id)
        failed = given.get("error") is not None
        status = given.get("status", events.FAILED if failed else events.SUCCEEDED)
        if status == events.SUCCEEDED and "response" not in given:
            given = {**given, "response": self._text}
        payload = self.run.check_end(given, self._at)
        self.plan.said += self.run.close_calls(self._at)
        self.plan.add(self.run.event(events.AGENT_COMPLETED, payload, self._at))

    def _take_delta(self, payload: dict[str, Any]) -> None:
        if payload.keys() != {"offset", "text"}:
            raise _bad_delta("payload", "has offset and text")
        offset, text = payload["offset"], payload["text"]
        if type(offset) is not int or offset < 0:
            raise _bad_delta("offset", "must be a number of UTF-8 bytes, from 0 on")
        most = self._bounds.max_text_bytes
        following = offset + text_size(text, run_id=self._run_id, before=offset, most=most)
        if not 1 <= len(text) <= MAX_DELTA_CHARACTERS:
            raise _bad_delta("text", f"must have 1 to {MAX_DELTA_CHARACTERS} characters")
        if following <= self.text_bytes:
            self.plan.note(following)
            return
        state = self.run.lifecycle.state
        if state is State.COMPLETED:
            raise RunClosed(subject=self._run_id)
        if state is State.QUEUED:
            why = "agent_started comes first"
            raise LifecycleError(state=state, event_type=events.AGENT_DELTA, why=why)
        if offset != self.text_bytes:
            raise BadRequest(
                "offset_gap",
                f"the text so far has {self.text_bytes} bytes: go on from there",
                status=409,
                more={"expected_offset": self.text_bytes},
            )
        self.plan.add(Delta(offset, following, text))
        self.text_bytes = following
        self._text += text

    def _check_gap(self, seq: int) -> None:
        following = self.run.seq + 1
        if seq > following:
            raise BadRequest(
                "seq_gap",
                f"the run's next event is {following}: send what comes before this one first",
                status=409,
                more={"expected_seq": following},
            )


def _bad_delta(field: str, why: str) -> InvalidEvent:
    return InvalidEvent(event_type=events.AGENT_DELTA, field=field, why=why)


def _at(index: int, refused: BadRequest) -> BadRequest:
    """The same, with which item it is about."""
    return BadRequest(
        refused.code,
        f"events[{index}]: {refused.detail}",
        status=refused.status,
        more={**refused.more, "index": index},
    )
