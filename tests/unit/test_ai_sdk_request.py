"""What a chat of the AI SDK asks for."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.ai_sdk_request import Abort, Answer, ChatSession, Resume, Send, send
from gateway.session import FrameError

Fields = dict[str, Any]

TEXT = {"type": "text", "text": "hello"}
FILE = {"type": "file", "mediaType": "text/csv", "url": "data:,x"}


def user(*parts: Fields, **others: Any) -> Fields:
    return {"id": "m", "role": "user", "parts": list(parts or (TEXT,)), **others}


def question(state: str = "output-available", name: str = "r/q", **others: Any) -> Fields:
    part = {"type": "dynamic-tool", "toolName": "input_required", "toolCallId": name}
    return {**part, "state": state, "output": True, **others}


def reply(*parts: Fields, **told: Any) -> Fields:
    metadata = {"runcast": {"run_id": "r", "cursor": "5-0/3-1f", **told}}
    return {"id": "r", "role": "assistant", "parts": list(parts), "metadata": metadata}


def body(*messages: Fields, **others: Any) -> Fields:
    return {"id": "c", "messages": list(messages), "trigger": "submit-message", **others}


def posted(fields: Fields, agent: str = "a") -> Send | Answer:
    return send(None, agent, fields, most_bytes=1000)


def sent(fields: Fields) -> Send:
    asked = posted(fields)
    assert isinstance(asked, Send)
    return asked


def test_the_last_message_is_the_runs() -> None:
    message = sent(body(user({"type": "text", "text": "old"}), reply(), user())).message
    assert (message.content, message.thread_id, message.agent) == ("hello", "c", "a")


def test_whatever_else_is_in_it_is_in_the_metadata() -> None:
    asked = body(user(TEXT, FILE, TEXT, metadata={"locale": "de"}), messageId="m", flag=1)
    message = sent(asked).message
    assert message.content == "hello\nhello"
    assert message.metadata == {
        "locale": "de",
        "ai_sdk": {
            "message_id": "m", "trigger": "submit-message", "parts": [FILE], "body": {"flag": 1},
        },
    }  # fmt: skip


def test_a_message_without_text_is_its_parts() -> None:
    assert sent(body(user(FILE))).message.content == {"parts": [FILE]}


def ref(fields: Fields, agent: str = "a") -> str | None:
    asked = posted(fields, agent)
    assert isinstance(asked, Send)
    return asked.message.ref


def test_sent_again_it_is_the_same_message() -> None:
    same = body(user())
    assert ref(same) == ref(body(reply(), user(), flag=2))
    others = [
        ref(same, "b"),
        ref({**same, "id": "d"}),
        ref(body(user(id="n"))),
        ref(body(user(), messageId="m")),
        ref(body(user(FILE), messageId="m")),
        ref({**same, "trigger": "regenerate-message", "messageId": "r"}),
        ref({**same, "trigger": "regenerate-message", "messageId": "r2"}),
    ]
    assert len({ref(same), *others}) == 8
    assert ref({**same, "trigger": "regenerate-message"}) is None


def test_an_answer_is_of_the_last_step() -> None:
    old, new = question(name="r/old"), question(name="a/b/q-1")
    asked = posted(body(reply({"type": "step-start"}, old, {"type": "step-start"}, new)))
    assert isinstance(asked, Answer)
    assert (asked.run_id, asked.position) == ("r", "5-0/3-1f")
    (answer,) = asked.answers
    assert (answer.run_id, answer.request_id, answer.content) == ("a/b", "q-1", True)


DEEP: Any = "x"
for _ in range(300):
    DEEP = [DEEP]

BAD: dict[str, Fields] = {
    "nothing": {},
    "no chat": {"messages": [user()]},
    "no message": body(),
    "no object": body("x"),  # type: ignore[arg-type]
    "another role": body(user(role="system")),
    "no parts": body({"id": "m", "role": "user"}),
    "parts that are none": body(user(parts=["x"])),
    "nothing in it": body(user(parts=[])) | {"id": ""},
    "no id": body(user(id=None)),
    "another trigger": body(user(), trigger="x"),
    "an id that is none": body(user(), messageId=5),
    "nested": body(user(TEXT, {"type": "x", "y": DEEP})),
    "a nested text": body(user({**TEXT, "y": [DEEP] * 2}), messageId="m"),
    "no answer": body(reply(TEXT)),
    "an open question": body(reply(question("input-available"))),
    "no metadata": body({**reply(question()), "metadata": None}),
    "no cursor": body(reply(question(), cursor=None)),
    "no run": body(reply(question(name="q"))),
}


@pytest.mark.parametrize("fields", BAD.values(), ids=BAD)
def test_what_cannot_be_answered_is_refused(fields: Fields) -> None:
    with pytest.raises(FrameError) as refused:
        posted(fields)
    assert refused.value.code == "bad_frame"


def test_only_what_reaches_the_agent_is_limited() -> None:
    long = user({"type": "text", "text": "x" * 2000})
    assert sent(body(long, user())).message.content == "hello"
    with pytest.raises(FrameError, match="message_too_large"):
        posted(body(long))


def session() -> ChatSession:
    return ChatSession("a", max_message_bytes=1000, max_frame_bytes=4000)


def framed(kind: str, **fields: Any) -> bytes:
    whole = {"type": kind, "requestId": "1", "id": "c", "headers": {}, "body": {}, **fields}
    return orjson.dumps(whole)


def test_the_frames_of_the_transport() -> None:
    asked = session().receive(framed("send", messages=[user()], body={"flag": 1}, metadata=2))
    assert isinstance(asked, Send)
    assert (asked.ref, asked.token) == ("1", None)
    shown = asked.message.metadata["ai_sdk"]
    assert (shown["body"], shown["metadata"]) == ({"flag": 1}, 2)
    bearer = {"authorization": "Bearer t"}
    answer = session().receive(framed("send", messages=[reply(question())], headers=bearer))
    assert isinstance(answer, Answer)
    assert (answer.ref, answer.token) == ("1", "t")
    assert session().receive(framed("resume")) == Resume("1", "c", None)
    assert session().receive(framed("resume", body={"run_id": "r"})) == Resume("1", "c", "r")
    assert session().receive(framed("abort")) == Abort("1")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (b"x", None),
        (b"[]", None),
        (b"{}", None),
        (framed("resume", requestId=5), None),
        (framed("dance"), "1"),
        (framed("resume", id=""), "1"),
        (framed("resume", id=5), "1"),
        (framed("resume", body=[]), "1"),
        (framed("resume", body={"run_id": 5}), "1"),
        (framed("send", messages=[]), "1"),
        (framed("abort", x="x" * 4000), "1"),
    ],
)
def test_a_bad_frame_is_told_to_its_request(text: bytes, known: str | None) -> None:
    with pytest.raises(FrameError) as refused:
        session().receive(text)
    assert refused.value.ref == known


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": JSON, "trigger": JSON, "messageId": JSON, "body": JSON, "metadata": JSON,
            "messages": JSON | st.lists(st.fixed_dictionaries(
                {}, optional={"id": JSON, "role": st.sampled_from(["user", "assistant"]),
                              "parts": st.lists(JSON | st.just(TEXT) | st.just(question())),
                              "metadata": JSON | st.just(reply()["metadata"])})),
        },
    )
)  # fmt: skip
def test_whatever_is_posted_is_read_or_refused(fields: Fields) -> None:
    with suppress(FrameError):
        posted(fields)
