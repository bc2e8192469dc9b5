"""What a chat of the Vercel AI SDK asks for: the bodies and frames of its transports, read. Pure.

``DefaultChatTransport`` posts what the ``send`` frame of ``WebSocketChatTransport`` has too: the
chat's messages, of which only the last one says something new. It is the user's, or an assistant's
in which he has answered what the run asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from broker.channels import check_id
from gateway import session
from gateway.dialects.ai_sdk import QUESTION
from gateway.dialects.ai_sdk_message import METADATA
from gateway.session import Command, FrameError, SendMessage, Session, UserInput

TRIGGERS: Final = ("submit-message", "regenerate-message")

OWN: Final = frozenset({
    "type", "requestId", "id", "messages", "trigger", "messageId", "body", "headers", "metadata",
})  # fmt: skip
"""Fields that the transports have themselves; others are the application's."""


@dataclass(frozen=True, slots=True)
class Send(Command):
    """A message of the user's for the chat's agent; ``message.ref`` is None for a new run."""

    message: SendMessage
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Answer(Command):
    """What the user answers to a run of the chat's, and from where he goes on reading it."""

    run_id: str
    position: str
    answers: tuple[UserInput, ...]
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Resume(Command):
    """The chat's open run, or the one that is named, from its beginning on."""

    chat: str
    run_id: str | None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Abort(Command):
    """The request with that id is not read any more."""


def send(
    ref: str | None, agent: str, fields: Mapping[str, Any], *, most_bytes: int
) -> Send | Answer:
    """What is posted or sent; :class:`FrameError` when it is nothing that can be answered.

    ``most_bytes``: of what reaches the agent.
    """
    chat, message = _id(fields, "id"), _last(fields.get("messages"))
    if fields.get("trigger", TRIGGERS[0]) not in TRIGGERS:
        raise _bad(f"trigger: valid are {', '.join(TRIGGERS)}")
    if message.get("role") == "assistant":
        return _answer(ref, message)
    payload = {
        "content": _content(message["parts"]),
        "thread_id": chat,
        "agent": agent,
        "metadata": _metadata(fields, message),
    }
    try:
        message_id, size = _message_id(agent, fields, message), len(orjson.dumps(payload))
    except TypeError:  # orjson reads deeper nesting than it writes
        raise _bad("nested too deeply") from None
    if size > most_bytes:
        raise FrameError("message_too_large", f"a message has at most {most_bytes} bytes")
    return Send(ref, session.message(message_id, payload))


class ChatSession(Session):
    """Reads the frames of one ``WebSocketChatTransport``."""

    ref_field = "requestId"
    __slots__ = ("_agent", "_most_bytes")

    def __init__(self, agent: str, *, max_message_bytes: int, max_frame_bytes: int) -> None:
        super().__init__(max_message_bytes=max_frame_bytes)
        self._agent, self._most_bytes = agent, max_message_bytes

    def receive(self, text: bytes) -> Command:
        """The command in a text message, or :class:`FrameError`."""
        frame = self.read(text)
        ref = frame.get(self.ref_field)
        if not isinstance(ref, str):
            raise _bad(f"{self.ref_field} must be a string")
        try:
            return self._command(ref, frame)
        except FrameError as error:
            error.ref = ref
            raise

    def _command(self, ref: str, frame: Mapping[str, Any]) -> Command:
        body, token = _object(frame, "body"), _token(_object(frame, "headers"))
        match frame.get("type"):
            case "send":
                asked = send(ref, self._agent, frame, most_bytes=self._most_bytes)
                if isinstance(asked, Send):
                    return Send(ref, asked.message, token)
                return Answer(ref, asked.run_id, asked.position, asked.answers, token)
            case "resume":
                run_id = _id(body, "run_id") if body.get("run_id") is not None else None
                return Resume(ref, _id(frame, "id"), run_id, token)
            case "abort":
                return Abort(ref)
        raise FrameError("unknown_type", "valid are send, resume, abort")


def _last(messages: object) -> Mapping[str, Any]:
    message = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
        raise _bad("messages: the last one is a user's or an assistant's")
    parts = message.get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise _bad("parts: the last message's are a list of objects")
    return message


def _content(parts: list[dict[str, Any]]) -> str | dict[str, Any]:
    """Its text; all of its parts where it has none."""
    texts = [part["text"] for part in parts if _is_text(part)]
    return "\n".join(texts) or {"parts": parts}


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _metadata(fields: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    """The message's own, and under ``ai_sdk`` what else the application has sent with it."""
    given, body = message.get("metadata"), _object(fields, "body")
    others = {name: value for name, value in fields.items() if name not in OWN}
    told = {
        "message_id": message.get("id"),
        "trigger": fields.get("trigger"),
        "parts": [part for part in message["parts"] if not _is_text(part)],
        "body": {**others, **body},
        "metadata": fields.get("metadata"),
    }
    shown = {name: value for name, value in told.items() if value}
    return {**(given if isinstance(given, dict) else {}), "ai_sdk": shown}


def _message_id(agent: str, fields: Mapping[str, Any], message: Mapping[str, Any]) -> str | None:
    """The same for the same message, sent again; None = always another one.

    A message that replaces one has its id, so what it says makes the difference; and an answer that
    is asked for anew replaces the one that is named, if it is.
    """
    named, replaces = message.get("id"), fields.get("messageId")
    if not isinstance(named, str) or not isinstance(replaces, str | None):
        raise _bad("a message's id is a string")
    again = fields.get("trigger") == TRIGGERS[1]
    if again and replaces is None:
        return None
    what = [agent, fields["id"], named, again, replaces]
    if replaces is not None:
        what.append(message["parts"])
    return f"ai-sdk-{sha256(orjson.dumps(what)).hexdigest()[:40]}"


def _answer(ref: str | None, message: Mapping[str, Any]) -> Answer:
    told = _object(_object(message, "metadata"), METADATA)
    run_id, position = told.get("run_id"), told.get("cursor")
    if not isinstance(run_id, str) or not isinstance(position, str):
        raise _bad(f"an assistant's message has metadata.{METADATA} as it came")
    answers = tuple(_answers(message["parts"]))
    if not answers:
        raise _bad(f"the last message answers nothing: give the output of a call of {QUESTION}")
    return Answer(ref, run_id, position, answers)


def _answers(parts: list[dict[str, Any]]) -> list[UserInput]:
    """What was answered in the last step: before it are those that have been sent."""
    answers: list[UserInput] = []
    for part in parts:
        if part.get("type") == "step-start":
            answers.clear()
        elif part.get("toolName") == QUESTION and part.get("state") == "output-available":
            run_id, _, request_id = str(part.get("toolCallId")).rpartition("/")
            payload = {"request_id": request_id, "content": part.get("output")}
            answers.append(session.user_input(run_id, payload))
    return answers


def _id(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _bad(f"{name} must be a string")
    try:
        return check_id(value)
    except ValueError as error:
        raise _bad(f"{name} {error}") from None


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad(f"{name} must be an object")
    return value


def _token(headers: Mapping[str, Any]) -> str | None:
    """The token that an application's frame bears, as a request would (RFC 6750)."""
    for name, value in headers.items():
        scheme, _, credential = str(value).partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "bearer":
            return credential.strip()
    return None


def _bad(text: str) -> FrameError:
    return FrameError("bad_frame", text)
