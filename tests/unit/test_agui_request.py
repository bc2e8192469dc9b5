"""What a client asks for with a ``RunAgentInput``."""

from typing import Any

import orjson
import pytest

from gateway.dialects.agui_request import MOST_ANSWERS, Asked, Interrupt, interrupt_of, read
from gateway.handshake import BadRequest

HI = {"id": "u", "role": "user", "content": "hi"}
BODY: dict[str, Any] = {"threadId": "t", "runId": "m", "messages": [HI]}


def asked(**fields: Any) -> Asked:
    return read({**BODY, **fields}, resumes=False, resumed=False)


def test_what_the_official_client_sends() -> None:
    more = {"state": {}, "tools": [], "context": [{"description": "d", "value": "v"}]}
    wanted = asked(**more, forwardedProps={"a": 1}, protocolVersion="1.0", parentRunId="p")
    assert (wanted.thread_id, wanted.run_id, wanted.parent_run_id) == ("t", "m", "p")
    assert wanted.passed_on == {"context": more["context"], "forwardedProps": {"a": 1}}
    assert wanted.content == "hi"


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        ("hi", "hi"),
        ([text("a"), text("b")], "ab"),
        ([text("a"), {"type": "image"}], {"parts": [text("a"), {"type": "image"}]}),
        ([3], {"parts": [3]}),
    ],
)
def test_the_agent_gets_what_the_user_said_last(content: Any, taken: Any) -> None:
    old = {"id": "o", "role": "user", "content": "before"}
    reply = {"id": "x", "role": "assistant", "content": "well"}
    assert asked(messages=[old, reply, {**HI, "content": content}, reply]).content == taken


@pytest.mark.parametrize("messages", [[], [{"role": "assistant"}], [{**HI, "content": ""}],
                                      [{**HI, "content": []}], [{**HI, "content": 5}]])  # fmt: skip
def test_who_says_nothing_is_refused(messages: Any) -> None:
    with pytest.raises(BadRequest, match="last"):
        _ = asked(messages=messages).content


DEEP = orjson.loads("[" * 300 + "]" * 300)
"""Can be read, and not written again."""
NAMED = Interrupt("r", "ch/ild", "q ü", "5-0;=0-3-1f")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"threadId": None}, "threadId"),
        ({"threadId": ""}, "threadId"),
        ({"runId": 5}, "runId"),
        ({"parentRunId": "\n"}, "parentRunId"),
        ({"messages": None}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"messages": [{"content": "hi"}]}, "role"),
        ({"resume": {}}, "resume"),
        ({"resume": 5}, "resume"),
        ({"resume": [{"interruptId": NAMED.id, "status": "maybe"}]}, "status"),
        ({"resume": [{"interruptId": "q", "status": "resolved"}]}, "interruptId"),
        ({"resume": [{"interruptId": "r//q/5-0", "status": "resolved"}]}, "interruptId"),
        ({"resume": [{"interruptId": 5, "status": "resolved"}]}, "interruptId"),
        ({"resume": [{}] * (MOST_ANSWERS + 1)}, "most"),
        ({"state": DEEP}, "nested deeper than 128"),
        ({"messages": [{"role": "user", "content": DEEP}]}, "nested deeper than 128"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(fields: dict[str, Any], why: str) -> None:
    if fields == {"resume": {}}:
        fields = {"resume": {"a": 1}}
    with pytest.raises(BadRequest, match=why):
        asked(**fields)


def test_answers() -> None:
    entry = {"interruptId": NAMED.id, "status": "resolved", "payload": {"go": True}}
    no = {"interruptId": NAMED.id, "status": "cancelled", "payload": "ignored"}
    given, declined = asked(resume=[entry, no]).answers
    assert given.interrupt == NAMED
    assert (given.content, given.cancelled) == ({"go": True}, False)
    assert (declined.content, declined.cancelled) == (None, True)


def test_an_interrupt_names_all_that_is_needed_to_go_on() -> None:
    assert interrupt_of(NAMED.id) == NAMED
    question = {"prompt": "?", "expires_at": "then"}
    told = {"id": NAMED.id, "reason": "input_required", "message": "?", "expiresAt": "then"}
    assert NAMED.told(question) == {**told, "subagentRunId": "ch/ild"}
    own = Interrupt("r", "r", "q", "5-0")
    schema = {"type": "boolean"}
    assert own.told({**question, "schema": schema}) == {
        **told, "id": own.id, "responseSchema": schema,
    }  # fmt: skip
