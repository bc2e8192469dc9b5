"""One reader of a run in AG-UI 1.0 (https://ag-ui.com/spec/1.0). Pure.

Every connection is a stream that AG-UI's rules accept by itself: RUN_STARTED first, what is open
opened again, nothing open at RUN_FINISHED, and no silent end. A run's text is one message until a
tool is called, and then another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from broker import events
from broker.cursor import Cursor, from_redis
from broker.errors import InvalidEvent
from broker.events import AGENT_COMPLETED, TOOL_EXECUTING, check_payload
from gateway.close_codes import CLOSE_CODES, UNAVAILABLE, Reconnect
from gateway.dialects.agui_constructs import Event
from gateway.dialects.agui_events import Story, epoch_ms, is_anew
from gateway.dialects.agui_position import Position, Span, parse
from gateway.dialects.agui_request import Asked, Interrupt
from gateway.dialects.dialect import Dialect, Frame, Run, Said

PROTOCOL: Final = "1.0"
ASK_AGAIN: Final = "ask_again"
"""Code of a RUN_ERROR that ends the stream and not the run: the same request gives it again."""

CLOSED: Final = "closed"
"""Code of one after which the same request would be refused."""


class Agui(Dialect):
    """Tells the run to whoever asked for it, from his position on; ``ValueError`` for none."""

    def __init__(self, asked: Asked, run: Run, last: str | None) -> None:
        self._asked, self._run, self._last = asked, run, last
        self._had = Position() if last is None else parse(last)
        self._spans = dict(self._had.texts)
        self._at, self._part = self._had.cursor, self._had.part
        self._story = Story(run, asked.run_id)
        self._known = last is None
        """Whether what is open has been told; of a run from its beginning on nothing is."""
        self.resumes = asked.resumes

    @staticmethod
    def position(text: str) -> Cursor:
        """The cursor in a position."""
        return parse(text).cursor

    # --- what comes

    def event(self, frame: Frame) -> Iterable[Said]:
        """An event of the run or of a sub-agent, or a delta."""
        event = frame.fields
        if self.ended or not _is_sound(event):
            return
        if frame.cursor:
            yield from self._entry(event, from_redis(frame.cursor))
            questions = self._story.questions.values()
            expiries = (epoch_ms(each["expires_at"]) or 0 for each in questions)
            self.waits_until_ms = max(expiries, default=0)
        elif event["type"] == events.AGENT_DELTA:
            yield from self._delta(event["run_id"], event["payload"])

    def control(self, frame: Frame) -> Iterable[Said]:
        """The run is there; or its reader has to ask again, and is told so."""
        kind, payload = frame.fields["type"], frame.fields["payload"]
        if self.ended:
            return
        if kind == "run_accepted":
            yield from self._begin(duplicate=payload["duplicate"])
        elif kind == "resync":
            yield self._failed(ASK_AGAIN, f"events are missing ({payload['reason']})", payload)
        elif kind == "closing":
            row = CLOSE_CODES.get(payload["code"], UNAVAILABLE)
            code = CLOSED if row.reconnect is Reconnect.NO else ASK_AGAIN
            yield self._failed(code, f"the stream was closed ({row.name})", payload)

    def leave(self) -> Iterable[Said]:
        """The run waits for its user: what it asked ends this stream, and an answer begins one."""
        self.ended, self.waits_until_ms = True, 0
        yield from self._reopened()
        for run_id in list(self._spans):
            yield from self._closed(run_id)
        asked = [self._interrupt(*names) for names in self._story.questions]
        for subagent in self._story.constructs.subagents():
            mine = [each["id"] for each in asked if each.get("subagentRunId") == subagent]
            outcome = {"type": "suspended", **({"interruptIds": mine} if mine else {})}
            yield self._say(
                {"type": "SUBAGENT_FINISHED", "subagentRunId": subagent, "outcome": outcome}
            )
        yield self._say(
            {"type": "RUN_FINISHED", "threadId": self._run.thread_id, "runId": self._asked.run_id,
             "outcome": {"type": "interrupt", "interrupts": asked}}
        )  # fmt: skip

    # --- what it becomes

    def _begin(self, *, duplicate: bool) -> Iterator[Said]:
        asked, run = self._asked, self._run
        started = {
            "type": "RUN_STARTED", "threadId": run.thread_id, "runId": asked.run_id,
            "protocolVersion": PROTOCOL,
            "metadata": {"runcast": {"run_id": run.run_id, "agent": run.agent}},
        }  # fmt: skip
        if asked.parent_run_id is not None:
            started["parentRunId"] = asked.parent_run_id
        yield self._say(started, self._last or str(self._had))
        mine = [each for each in asked.messages if self._is_mine(each)]
        if self._last is None and (asked.joins or (duplicate and mine)):
            # What it has of the run comes anew. A client keeps reasoning that it is not told of.
            kept = [{**each, "content": ""} for each in mine if each["role"] == "reasoning"]
            yield self._say(_snapshot([*self._others(), *kept]))

    def _entry(self, event: Mapping[str, Any], entry: Cursor) -> Iterator[Said]:
        told, had = self._story.read(event, str(entry)), self._had.has(entry)
        self._forget_answered(event, had)
        if had is None:
            self._story.begin(event)
            for each in told:
                self._story.constructs.note(each)
            if event["type"] == AGENT_COMPLETED and event["run_id"] == self._run.run_id:
                # A stream without an end would be taken for one that was cut.
                yield self._say(told[-1], str(self._had))
            return
        if event["type"] == AGENT_COMPLETED and told:
            told = [*self._another_response(event), *told]
        for each in told[:had]:
            self._story.constructs.note(each)
        yield from self._reopened()
        anew = is_anew(self._story, event)
        yield from self._text_before(event, anew=anew, ends=bool(told))
        self._story.begin(event)
        for number, each in enumerate(told[had:], had + 1):
            self._at, self._part = entry, None if number == len(told) else number
            if anew and self._part is None and self._asked.messages:
                yield self._say(_snapshot(self._others()))
            yield self._say(each, str(self._position()))
        self._at, self._part = entry, None
        if event["type"] == AGENT_COMPLETED:
            self._spans.pop(self._name(event["run_id"]), None)

    def _delta(self, run_id: str, payload: Mapping[str, Any]) -> Iterator[Said]:
        yield from self._reopened()
        span, text = self._span(run_id), payload["text"].encode()
        if payload["offset"] <= span.next < payload["next"]:
            yield from self._append(run_id, text[span.next - payload["offset"] :])

    # --- text

    def _text_before(self, event: Mapping[str, Any], *, anew: bool, ends: bool) -> Iterator[Said]:
        """What becomes of the text that is open before an event of the log is told."""
        if anew:
            for run_id in list(self._spans):
                yield from self._closed(run_id)
            self._spans.clear()
        elif event["type"] == TOOL_EXECUTING and not self._span(event["run_id"]).begun:
            # One without text stays open: its text comes under the same id.
            yield from self._closed(event["run_id"])
        elif event["type"] == AGENT_COMPLETED and ends:
            yield from self._rest(event["run_id"], event["payload"]["response"])

    def _append(self, run_id: str, text: bytes) -> Iterator[Said]:
        name, span = self._name(run_id), self._span(run_id)
        if not span.open:
            self._spans[name] = replace(span, begun=True)
            # With a position of its own: a reader who is cut off behind it is not told it again.
            opener = {"type": "TEXT_MESSAGE_START", **self._message(run_id, span)}
            yield self._say(opener, str(self._position()))
        self._spans[name] = span.grown(text)
        yield self._say(
            {"type": "TEXT_MESSAGE_CONTENT", "delta": text.decode(errors="replace"),
             "messageId": self._message(run_id, span)["messageId"], **self._story.tag(run_id)},
            str(self._position()),
        )  # fmt: skip

    def _closed(self, name: str) -> Iterator[Said]:
        """Ends the message that is open of this run, if any."""
        name = self._name(name)
        span = self._spans.get(name, Span())
        if span.open:
            run_id = name or self._run.run_id
            self._spans[name] = span.ended()
            message_id = self._message(run_id, span)["messageId"]
            yield self._say(
                {"type": "TEXT_MESSAGE_END", "messageId": message_id, **self._story.tag(run_id)},
                str(self._position()),
            )

    def _rest(self, run_id: str, response: object) -> Iterator[Said]:
        """What of the response was never streamed."""
        if isinstance(response, str) and (rest := self._span(run_id).rest(response.encode())):
            yield from self._append(run_id, rest)
        yield from self._closed(run_id)

    def _another_response(self, event: Mapping[str, Any]) -> list[Event]:
        """The response as a message of its own, where another text was streamed."""
        run_id, response = event["run_id"], event["payload"]["response"]
        if not isinstance(response, str) or self._span(run_id).rest(response.encode()) is not None:
            return []
        named = {"messageId": f"{self._story.scope(run_id)}:response", **self._story.tag(run_id)}
        return [
            {"type": "TEXT_MESSAGE_START", "role": "assistant", **named},
            {"type": "TEXT_MESSAGE_CONTENT", "delta": response, **named},
            {"type": "TEXT_MESSAGE_END", **named},
        ]

    def _message(self, run_id: str, span: Span) -> Event:
        message_id = f"{self._story.scope(run_id)}:text-{span.begin}"
        return {"messageId": message_id, "role": "assistant", **self._story.tag(run_id)}

    def _span(self, run_id: str) -> Span:
        return self._spans.get(self._name(run_id), Span())

    def _name(self, run_id: str) -> str:
        return "" if run_id == self._run.run_id else run_id

    # --- the rest

    def _reopened(self) -> Iterator[Said]:
        """What was open where the reader left, once, before the first that he does not have.

        Under the position that he has: a client that knows what is open takes it for a duplicate.
        """
        if self._known:
            return
        self._known = True
        position = self._last if self._asked.resumed else None
        for opener in self._story.constructs.openers():
            yield self._say(opener, position or "")
        for name, span in self._spans.items():
            if span.open:
                run_id = name or self._run.run_id
                opener = {"type": "TEXT_MESSAGE_START", **self._message(run_id, span)}
                yield self._say(opener, position or "")

    def _forget_answered(self, event: Mapping[str, Any], had: int | None) -> None:
        """What this request answers is not asked again, also when the answer came to nothing."""
        if event["type"] == events.INPUT_REQUIRED and had is None:
            for answer in self._asked.answers:
                names = answer.interrupt.asker, answer.interrupt.request_id
                self._story.questions.pop(names, None)

    def _interrupt(self, run_id: str, request_id: str) -> Event:
        asked = self._story.questions[run_id, request_id]
        place = str(replace(self._position(), part=None))
        return Interrupt(self._run.run_id, run_id, request_id, place).told(asked)

    def _failed(self, code: str, why: str, payload: Mapping[str, Any]) -> Said:
        self.ended = True
        message = f"{why}; the run may go on: ask again" if code == ASK_AGAIN else why
        error = {"type": "RUN_ERROR", "code": code, "message": message}
        return self._say({**error, "metadata": {"runcast": dict(payload)}})

    def _others(self) -> Sequence[Mapping[str, Any]]:
        """The conversation as the client has it, without what this run said."""
        return [each for each in self._asked.messages if not self._is_mine(each)]

    def _is_mine(self, message: Mapping[str, Any]) -> bool:
        begin = f"{self._run.run_id}:", f"{self._run.run_id}."
        return str(message.get("id")).startswith(begin)

    def _position(self) -> Position:
        spans = {name: span for name, span in self._spans.items() if span.next or span.begun}
        return Position(self._at, self._part, spans)

    def _say(self, event: Event, position: str = "") -> Said:
        self._story.constructs.note(event)
        metadata = event.get("metadata", {})
        about = {**metadata.get("runcast", {}), "cursor": position} if position else None
        if about:
            event = {**event, "metadata": {**metadata, "runcast": about}}
        return orjson.dumps(event), position.encode()


def _snapshot(messages: Sequence[Mapping[str, Any]]) -> Event:
    return {"type": "MESSAGES_SNAPSHOT", "messages": messages}


def _is_sound(event: Mapping[str, Any]) -> bool:
    """Whether it has what is read of it: somebody else than the SDK may have written it."""
    kind, payload = event.get("type"), event.get("payload")
    texts = (event.get(name) for name in ("type", "run_id", "agent_name"))
    if not all(isinstance(text, str) for text in texts) or not isinstance(payload, dict):
        return False
    if kind == events.AGENT_DELTA:
        numbers = payload.get("offset"), payload.get("next")
        return all(type(n) is int for n in numbers) and isinstance(payload.get("text"), str)
    if kind in events.PAYLOADS:
        try:
            check_payload(str(kind), payload)
        except InvalidEvent:
            return False
    return True
