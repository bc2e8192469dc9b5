"""One client's frames: a command, or an error that says what is wrong (protocol section 6)."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.channels import Mode
from broker.cursor import Cursor
from gateway.session import (
    LEGACY_TEXT_FIELDS,
    MAX_BAD_FRAMES,
    MAX_NESTING,
    MISUSE_SECONDS,
    Attach,
    AuthRefresh,
    Command,
    Detach,
    FrameError,
    Ping,
    SendMessage,
    Session,
    StopAgent,
    UserInput,
)

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

MAX = 4096
CODES = {"bad_json", "bad_frame", "unknown_type", "message_too_large"}
TYPES = [
    "user_message", "stop_agent", "user_input", "attach", "detach", "auth_refresh", "ping", "chat",
    "start_agent", "agent_request",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4)
    | st.sampled_from(["5-1", "r1", "x" * 257, "\x00", "agent_started"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)  # fmt: skip
FIELDS = st.sampled_from([
    "content", "thread_id", "agent", "metadata", "run_id", "request_id", "after", "token", "query",
    "message", "text",
])  # fmt: skip


def receive(frame: object, mode: Mode = Mode.MAIN) -> Command:
    text = frame if isinstance(frame, bytes) else orjson.dumps(frame)
    return Session(mode, max_message_bytes=MAX).receive(text)


def refused(frame: object, mode: Mode = Mode.MAIN) -> FrameError:
    with pytest.raises(FrameError) as caught:
        receive(frame, mode)
    assert caught.value.bad
    assert not caught.value.retryable
    return caught.value


def framed(kind: str, ident: str | None = "m1", **payload: Any) -> dict[str, Any]:
    return {"type": kind, "id": ident, "payload": payload}


@pytest.mark.parametrize(
    ("frame", "command"),
    [
        (framed("user_message", content="hi"), SendMessage("m1", "hi", None, None, {})),
        (
            framed("user_message", None, content={"a": 1}, thread_id="t", agent="x",
                   metadata={"k": 1}),
            SendMessage(None, {"a": 1}, "t", "x", {"k": 1}),
        ),
        (framed("user_message", content="hi", thread_id=None, metadata=None),
         SendMessage("m1", "hi", None, None, {})),
        (framed("stop_agent", run_id="r"), StopAgent("m1", "r")),
        (framed("detach", run_id="r"), Detach("m1", "r")),
        (framed("attach", run_id="r"), Attach("m1", "r", None, bad_cursor=False)),
        (framed("attach", run_id="r", after="5-1"),
         Attach("m1", "r", Cursor(5, 1), bad_cursor=False)),
        (framed("attach", run_id="r", after="x"), Attach("m1", "r", None, bad_cursor=True)),
        (framed("attach", run_id="r", after=5), Attach("m1", "r", None, bad_cursor=True)),
        (framed("user_input", run_id="r", request_id="q", content=None),
         UserInput("m1", "r", "q", None)),
        (framed("auth_refresh", token="abc"), AuthRefresh("m1", "abc")),
        (framed("ping", n=1), Ping("m1", {"n": 1})),
        ({"type": "ping"}, Ping(None, {})),
        ({"type": "ping", "id": None, "beyond": 1}, Ping(None, {})),
    ],
)  # fmt: skip
def test_every_frame_of_the_protocol_is_a_command(frame: dict[str, Any], command: Command) -> None:
    """The table of protocol section 6, optional fields absent, null and present."""
    assert receive(frame) == command


@pytest.mark.parametrize(
    ("frame", "code", "ref"),
    [
        (b"", "bad_json", None),
        (b"{", "bad_json", None),
        (b'{"type": "ping"} x', "bad_json", None),
        (b'"\xff"', "bad_json", None),
        (b'{"type": "\\ud800"}', "bad_json", None),
        (b"[" * 3000, "bad_json", None),
        (b"NaN", "bad_json", None),
        ([1], "bad_frame", None),
        (None, "bad_frame", None),
        ({}, "bad_frame", None),
        ({"id": "m1"}, "bad_frame", "m1"),
        ({"id": 5, "type": "ping"}, "bad_frame", None),
        ({"id": "", "type": "ping"}, "bad_frame", None),
        ({"id": "x" * 257, "type": "ping"}, "bad_frame", None),
        ({"id": "m1", "type": 5}, "bad_frame", "m1"),
        ({"id": "m1", "type": "ping", "payload": []}, "bad_frame", "m1"),
        ({"id": "m1", "type": "ping", "payload": None}, "bad_frame", "m1"),
        (framed("agent_started"), "unknown_type", "m1"),
        (framed("chat", content="hi"), "unknown_type", "m1"),
        (framed("user_message"), "bad_frame", "m1"),
        (framed("user_message", content=""), "bad_frame", "m1"),
        (framed("user_message", content={}), "bad_frame", "m1"),
        (framed("user_message", content=["hi"]), "bad_frame", "m1"),
        (framed("user_message", content=5), "bad_frame", "m1"),
        (framed("user_message", content="hi", thread_id=5), "bad_frame", "m1"),
        (framed("user_message", content="hi", thread_id=""), "bad_frame", "m1"),
        (framed("user_message", content="hi", agent="a\n"), "bad_frame", "m1"),
        (framed("user_message", content="hi", metadata="x"), "bad_frame", "m1"),
        (framed("stop_agent"), "bad_frame", "m1"),
        (framed("stop_agent", run_id=5), "bad_frame", "m1"),
        (framed("attach", run_id=""), "bad_frame", "m1"),
        (framed("detach"), "bad_frame", "m1"),
        (framed("user_input", run_id="r", request_id="q"), "bad_frame", "m1"),
        (framed("user_input", run_id="r", content=1), "bad_frame", "m1"),
        (framed("auth_refresh"), "bad_frame", "m1"),
        (framed("auth_refresh", token=5), "bad_frame", "m1"),
    ],
)  # fmt: skip
def test_a_frame_that_is_none_is_refused_with_its_ref(
    frame: object, code: str, ref: str | None
) -> None:
    """The error names the field, and answers the frame's own ``id`` when it has a valid one."""
    error = refused(frame)
    assert (error.code, error.ref) == (code, ref)
    assert str(error) == f"{code}: {error.message}"


@pytest.mark.parametrize("metadata", [[], "", 0, False])
def test_metadata_that_is_no_object_is_refused_also_when_it_is_empty(metadata: object) -> None:
    """Bug: what counts as false in Python was taken for absent."""
    error = refused(framed("user_message", content="hi", metadata=metadata))
    assert "metadata" in error.message


@pytest.mark.parametrize("name", ["content", "metadata"])
def test_what_could_not_be_written_again_inside_an_event_is_refused(name: str) -> None:
    """Bug: deep content was read, could not be written, and was answered with ``internal``."""
    fields: dict[str, Any] = {"content": "hi", name: nested(MAX_NESTING + 1)}
    assert "nested" in refused(framed("user_message", **fields)).message
    fields[name] = nested(MAX_NESTING)
    assert isinstance(receive(framed("user_message", **fields)), SendMessage)


def nested(levels: int) -> dict[str, Any]:
    """That many objects and lists, one in the other, the outermost an object."""
    value: Any = "x"
    for number in range(levels):
        value = {"x": value} if (levels - number) % 2 else [value]
    found: dict[str, Any] = value
    return found


def test_a_frame_may_have_as_many_bytes_as_said_and_not_one_more() -> None:
    """Counted in bytes, before it is parsed."""
    body = orjson.dumps(framed("ping", x=""))
    fits = body.replace(b'""', b'"' + b"y" * (MAX - len(body)) + b'"')
    assert len(fits) == MAX
    assert isinstance(receive(fits), Ping)
    error = refused(fits + b" ")
    assert error.code == "message_too_large"
    assert str(MAX) in error.message


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        (orjson.dumps({"id": "m1", "payload": {"content": "x" * MAX}}), "m1"),
        (orjson.dumps({"id": 5, "payload": {"content": "x" * MAX}}), None),
        (orjson.dumps(["m1", "x" * MAX]), None),
        (b"{" * (MAX + 1), None),
    ],
)
def test_a_frame_that_is_too_large_is_answered_under_its_id(text: bytes, ref: str | None) -> None:
    """Defect: the error named no frame, so that a client waited for its reply for ever."""
    error = refused(text)
    assert (error.code, error.ref) == ("message_too_large", ref)


@pytest.mark.parametrize(("kind", "fields"), LEGACY_TEXT_FIELDS.items())
def test_an_old_clients_words_are_a_user_message(kind: str, fields: tuple[str, ...]) -> None:
    """Whatever V2 called the text, in payload or at the top; the first one given counts."""
    for name in fields:
        at_top = {"type": kind, name: "hi", "thread_id": "t"}
        within = {"type": kind, "payload": {name: "hi", "agent": "a", "metadata": {"k": 1}}}
        assert receive(at_top, Mode.LEGACY) == SendMessage(None, "hi", "t", None, {})
        assert receive(within, Mode.LEGACY) == SendMessage(None, "hi", None, "a", {"k": 1})
    every = {"type": kind, "id": "m1", **{name: name for name in reversed(fields)}}
    assert receive(every, Mode.LEGACY) == SendMessage("m1", fields[0], None, None, {})
    assert refused({"type": kind, "id": "m1"}, Mode.LEGACY).code == "bad_frame"
    assert refused({"type": kind, fields[0]: 5}, Mode.LEGACY).code == "bad_frame"


@pytest.mark.parametrize("mode", [Mode.MAIN, Mode.FACTORY, Mode.ISOLATED])
def test_top_level_text_is_taken_in_legacy_mode_only(mode: Mode) -> None:
    """Protocol 3 has one shape."""
    assert refused({"type": "user_message", "content": "hi"}, mode).code == "bad_frame"
    assert refused({"type": "start_agent", "query": "hi"}, mode).code == "unknown_type"


@settings(relaxed, max_examples=250)
@given(
    st.sampled_from([Mode.MAIN, Mode.LEGACY]),
    st.binary(max_size=40)
    | JSON.map(orjson.dumps)
    | st.fixed_dictionaries(
        {"type": st.sampled_from(TYPES) | JSON},
        optional={"id": JSON, "payload": st.dictionaries(FIELDS, JSON, max_size=4) | JSON,
                  "content": JSON, "query": JSON},
    ).map(orjson.dumps),
)  # fmt: skip
def test_any_bytes_are_a_command_or_a_frame_error(mode: Mode, text: bytes) -> None:
    """No client brings its connection down with an exception that nobody expects."""
    try:
        command = receive(text, mode)
    except FrameError as error:
        said = (error.code in CODES, bool(error.message), error.bad)
        assert said == (True, True, True)
    else:
        frame = orjson.loads(text)
        assert command.ref == frame.get("id")
        if isinstance(command, SendMessage):
            assert command.content
            assert isinstance(command.content, str | dict)
            assert isinstance(command.metadata, dict)


@relaxed
@given(st.lists(st.floats(0, 30), max_size=60))
def test_twenty_bad_frames_within_a_minute_are_misuse(pauses: list[float]) -> None:
    """Exactly those: the twentieth within 60 s of the first of them."""
    session = Session(Mode.MAIN, max_message_bytes=MAX)
    now, moments = 0.0, []
    for pause in pauses:
        now += pause
        moments.append(now)
        recent = [each for each in moments if now - each < MISUSE_SECONDS]
        assert session.misused(now) == (len(recent) >= MAX_BAD_FRAMES)


def test_the_limit_is_the_protocols() -> None:
    """20 bad frames in a minute (protocol section 6)."""
    session = Session(Mode.MAIN, max_message_bytes=MAX)
    assert [session.misused(0.0) for _ in range(20)] == [False] * 19 + [True]
    assert not session.misused(60.0)
