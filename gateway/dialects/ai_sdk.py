"""A run as the UI message stream of the Vercel AI SDK. Pure.

One run is one assistant message, with the run's id. Its chunks come from the beginning, compacted,
whenever it is read anew; a client that has part of it and answers a question goes on from the
position that the message's metadata has.

A question is a tool call that the client is to give the output of: that it can answer by itself,
once its response is over, and what goes on is another response. The run's own tools are executed by
the provider, in the AI SDK's words. A lost attempt is void with the step that it was in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from broker import cursor, events
from broker.cursor import ZERO, Cursor, from_redis
from gateway.dialects.ai_sdk_message import Call, Chunk, Message
from gateway.dialects.dialect import Dialect, Frame, Run, Said
from gateway.dialects.shown_text import ShownText

QUESTION: Final = "input_required"
"""The tool whose calls are questions to the user."""

Event = Mapping[str, Any]


class AiSdk(Dialect):
    """``after``: the position in the metadata of the message that the client has a part of."""

    def __init__(self, run: Run, after: str | None) -> None:
        _, _, mark = (after or "").partition("/")
        self._run = run
        self._after = ZERO if after is None else self.position(after)
        self._reached = self._after
        self._message = Message(run.run_id, ShownText.parse(mark) if mark else ShownText())
        self._begun = False
        self._questions: dict[Call, int] = {}

    @staticmethod
    def position(text: str) -> Cursor:
        """A position is a cursor and, behind a slash, what the client has of the text."""
        return cursor.parse(text.partition("/")[0])

    def event(self, frame: Frame) -> Iterable[Said]:
        """An event of the run or a sub-agent's, or a delta."""
        if not frame.cursor:
            return _said(self._delta(frame.fields))
        told = self._told(frame.fields)
        if from_redis(frame.cursor) > self._after:
            self._reached = from_redis(frame.cursor)
            return _said(told)
        text = self._message.text
        for _ in told:  # the client has it; what it leaves open is known from here on
            pass
        self._message.text = text
        self._message.forget_place()
        return ()

    def control(self, frame: Frame) -> Iterable[Said]:
        """The message begins as soon as it is known which run it is; what ends it is an error."""
        payload = frame.fields.get("payload", {})
        match frame.fields.get("type"):
            case "run_accepted":
                run = self._run
                told = {"run_id": run.run_id, "thread_id": run.thread_id, "agent": run.agent}
                return _said(self._message.start(told))
            case "resync":
                why = f"Some of it is no longer kept ({payload['reason']}): resume the chat."
                return _said(self._fail(f"resync_{payload['reason']}", why, {}))
            case "closing":
                why = f"The connection ended ({payload['reason']}): resume the chat."
                return _said(self._fail(f"closed_{payload['code']}", why, {}))
        return ()

    def leave(self) -> Iterable[Said]:
        """The message stops at a question, and goes on with what answers it."""
        return _said(self._message.finish("tool-calls", self._place()))

    def _told(self, event: Event) -> Iterator[Chunk]:
        tell = TELL.get(event["type"])
        if tell is not None:
            yield from tell(self, event)
        self.waits_until_ms = max(self._questions.values(), default=0)

    def _fail(self, code: str, text: str, told: Event) -> Iterator[Chunk]:
        self.ended = True
        return self._message.fail(code, text, {**told, **self._place()})

    def _place(self) -> Chunk:
        return {"cursor": f"{self._reached}/{self._message.text.mark}"}

    def _is_own(self, event: Event) -> bool:
        return bool(event["run_id"] == self._run.run_id)

    def _by(self, event: Event) -> Chunk:
        """Which sub-agent's it is; nothing for the run's own."""
        if self._is_own(event):
            return {}
        return {"run_id": event["run_id"], "agent": event["agent_name"]}

    def _delta(self, event: Event) -> Iterator[Chunk]:
        """A sub-agent's text comes with its end."""
        if self._is_own(event):
            payload, message = event["payload"], self._message
            yield from message.say(message.text.delta(payload["offset"], payload["text"]))

    def started(self, event: Event) -> Iterator[Chunk]:
        """``agent_started``: the first attempt, or another one."""
        message, said = self._message, event["payload"]["message"]
        if not self._is_own(event):
            told = {"agent": event["agent_name"], "parent_run_id": event.get("parent_run_id")}
            yield from message.subagent(event["run_id"], **told, status="running", message=said)
            return
        if self._begun:
            self._questions.clear()
            yield from message.void("The attempt that began this was lost.")
        self._begun = True
        yield from message.tell({"message": said, "attempt": event.get("attempt", 1)})

    def thinking(self, event: Event) -> Iterator[Chunk]:
        """``agent_thinking``: a thought, and how far the run is."""
        payload = event["payload"]
        if payload["thoughts"]:
            yield from self._message.reason(event["id"], payload["thoughts"], self._by(event))
        if payload.get("progress") is not None:
            told = {name: payload[name] for name in ("progress", "step") if name in payload}
            yield from self._message.data("progress", event["run_id"], told)

    def executing(self, event: Event) -> Iterator[Chunk]:
        """``tool_executing``: text that follows is behind it."""
        payload, run_id = event["payload"], event["run_id"]
        told: Chunk = {"toolName": payload["tool"], "providerExecuted": True}
        if payload.get("purpose"):
            told["title"] = payload["purpose"]
        name = payload["call_id"]
        if by := self._by(event):
            told["toolMetadata"] = by
            name = f"{run_id}/{name}"
        key, given = (run_id, payload["call_id"]), payload.get("parameters")
        yield from self._message.call(key, name, given, **told)

    def executed(self, event: Event) -> Iterator[Chunk]:
        """``tool_completed``: its result or its error."""
        payload = event["payload"]
        key = event["run_id"], payload["call_id"]
        if payload["success"]:
            yield from self._message.output(key, payload["result"])
        else:
            error = payload.get("error") or {"message": "The tool failed."}
            yield from self._message.output_error(key, error["message"])

    def asked(self, event: Event) -> Iterator[Chunk]:
        """``input_required``: its client is the one that answers."""
        payload = event["payload"]
        key = event["run_id"], payload["request_id"]
        if key not in self._questions:  # or it is asked again, as the same
            self._questions[key] = _epoch_ms(payload["expires_at"])
            by = self._by(event)
            told = {"toolMetadata": by} if by else {}
            given = {name: value for name, value in payload.items() if name != "request_id"}
            yield from self._message.ask(key, QUESTION, given, **told)

    def answered(self, event: Event) -> Iterator[Chunk]:
        """``user_input``: from whichever client; what follows is another step."""
        payload = event["payload"]
        key = event["run_id"], payload["request_id"]
        if self._questions.pop(key, None) is not None:
            yield from self._message.output(key, payload["content"])
            yield from self._message.end_step()

    def stopping(self, event: Event) -> Iterator[Chunk]:
        """``stop_requested``: by whichever client."""
        if self._is_own(event):
            yield from self._message.tell({"stop_requested": True})

    def completed(self, event: Event) -> Iterator[Chunk]:
        """``agent_completed``: a sub-agent's, or the message's end."""
        payload, message = event["payload"], self._message
        told = {"status": payload["status"]}
        if not self._is_own(event):
            run_id = event["run_id"]
            for key in [key for key in self._questions if key[0] == run_id]:
                del self._questions[key]
            yield from message.abandon("The sub-agent has ended.", run_id)
            ends = {name: payload[name] for name in ("response", "error") if payload.get(name)}
            told = {"agent": event["agent_name"], **told, **ends}
            yield from message.subagent(run_id, **told)
            return
        self.ended = True
        yield from message.respond(payload["response"])
        yield from message.close("The run has ended.")
        if payload.get("usage"):
            told["usage"] = payload["usage"]
        if payload["status"] == events.SUCCEEDED:
            yield from message.finish("stop", {**told, **self._place()})
        elif payload["status"] == events.CANCELLED:
            yield from message.abort("stopped", {**told, **self._place()})
        else:
            error = payload.get("error") or {"code": payload["status"], "message": "It failed."}
            yield from self._fail(error["code"], error["message"], told)


TELL: Final[Mapping[str, Callable[[AiSdk, Event], Iterator[Chunk]]]] = {
    events.AGENT_STARTED: AiSdk.started,
    events.AGENT_THINKING: AiSdk.thinking,
    events.TOOL_EXECUTING: AiSdk.executing,
    events.TOOL_COMPLETED: AiSdk.executed,
    events.AGENT_COMPLETED: AiSdk.completed,
    events.INPUT_REQUIRED: AiSdk.asked,
    events.USER_INPUT: AiSdk.answered,
    events.STOP_REQUESTED: AiSdk.stopping,
}
"""Event → what it becomes; of all others the message tells nothing."""


def _said(chunks: Iterable[Chunk]) -> list[Said]:
    return [(orjson.dumps(chunk), b"") for chunk in chunks]


def _epoch_ms(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)
