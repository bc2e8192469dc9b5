"""What a client asks for with AG-UI's ``RunAgentInput``, read and checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from broker.channels import check_id, decode_id, encode_id
from broker.events import INPUT_REQUIRED
from gateway.handshake import BadRequest
from gateway.session import MAX_NESTING, too_deep

PASSED_ON: Final = ("state", "tools", "context", "forwardedProps")
"""Fields that the agent finds in ``run.metadata["agui"]``."""

MOST_ANSWERS: Final = 100


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A question of a run, and where its reader was when it was told; its ``id`` says all of it.

    ``run_id`` is the run that is read, ``asker`` the one that asked: a sub-agent's, or the same.
    """

    run_id: str
    asker: str
    request_id: str
    position: str

    @property
    def id(self) -> str:
        """As a client gives it back."""
        names = (self.run_id, self.asker, self.request_id, self.position)
        return "/".join(map(encode_id, names))

    def told(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """As AG-UI tells of it; ``asked`` is the payload of the ``input_required``."""
        told = {"id": self.id, "reason": INPUT_REQUIRED, "message": asked["prompt"],
                "expiresAt": asked["expires_at"]}  # fmt: skip
        if asked.get("schema"):
            told["responseSchema"] = asked["schema"]
        return told if self.asker == self.run_id else {**told, "subagentRunId": self.asker}


@dataclass(frozen=True, slots=True)
class Answer:
    """``content``: what was answered; None when the user does not want to."""

    interrupt: Interrupt
    content: Any
    cancelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, and who makes it.

    ``run_id`` is AG-UI's: the message's id, not our run's. ``messages``: the conversation as the
    client has it, or with ``joins`` as it is to have it. ``resumes``: it comes back by itself with
    ``Last-Event-ID``. ``resumed``: it does so here, so it knows what is open.
    """

    thread_id: str
    run_id: str
    parent_run_id: str | None = None
    messages: Sequence[Mapping[str, Any]] = ()
    answers: Sequence[Answer] = ()
    passed_on: Mapping[str, Any] = field(default_factory=dict)
    joins: bool = False
    resumes: bool = False
    resumed: bool = False

    @property
    def content(self) -> str | dict[str, Any]:
        """What the user said last; :class:`BadRequest` when he said nothing.

        A text, or ``{"parts": […]}`` with AG-UI's own parts where there is more than text.
        """
        said = [each for each in self.messages if each["role"] == "user"]
        content = said[-1].get("content") if said else None
        if isinstance(content, list):
            parts = [each.get("text") if isinstance(each, dict) else None for each in content]
            texts = [text for text in parts if isinstance(text, str)]
            if len(texts) < len(content):
                return {"parts": content}
            content = "".join(texts)
        if not isinstance(content, str) or not content:
            raise _bad("messages: what the user said last is empty, or there is nothing")
        return content


def read(fields: Mapping[str, Any], *, resumes: bool, resumed: bool) -> Asked:
    """The request in a body; :class:`BadRequest` names what is wrong with it.

    Unknown fields are ignored: AG-UI leaves room for them.
    """
    if too_deep(fields):
        raise _bad(f"nested deeper than {MAX_NESTING} levels")
    messages = _objects("messages", fields.get("messages"))
    if not all(isinstance(each.get("role"), str) for each in messages):
        raise _bad("messages: each has a role")
    resume = _objects("resume", fields.get("resume") or [])
    if len(resume) > MOST_ANSWERS:
        raise _bad(f"resume has at most {MOST_ANSWERS} entries")
    parent = fields.get("parentRunId")
    return Asked(
        thread_id=_id("threadId", fields.get("threadId")),
        run_id=_id("runId", fields.get("runId")),
        parent_run_id=None if parent is None else _id("parentRunId", parent),
        messages=messages,
        answers=[_answer(entry) for entry in resume],
        passed_on={name: fields[name] for name in PASSED_ON if fields.get(name)},
        resumes=resumes,
        resumed=resumed,
    )


def interrupt_of(text: str) -> Interrupt:
    """The question that an id names; ``ValueError`` when it is none of ours."""
    words = [decode_id(word) for word in text.split("/")]
    if len(words) != 4:  # noqa: PLR2004 - the fields of an Interrupt
        raise ValueError("not the id of an interrupt that was told here")
    run_id, asker, request_id, position = words
    return Interrupt(check_id(run_id), check_id(asker), check_id(request_id), position)


def _answer(entry: Mapping[str, Any]) -> Answer:
    told, status = entry.get("interruptId"), entry.get("status")
    if status not in ("resolved", "cancelled"):
        raise _bad("resume: status is resolved or cancelled")
    try:
        interrupt = interrupt_of(told if isinstance(told, str) else "")
    except ValueError as error:
        raise _bad(f"resume: interruptId: {error}") from None
    cancelled = status == "cancelled"
    return Answer(interrupt, None if cancelled else entry.get("payload"), cancelled)


def _id(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _bad(f"{name} must be a string")
    try:
        return check_id(value)
    except ValueError as error:
        raise _bad(f"{name} {error}") from None


def _objects(name: str, value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise _bad(f"{name} is a list of objects")
    return value


def _bad(why: str) -> BadRequest:
    return BadRequest("bad_body", why)
