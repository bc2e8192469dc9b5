"""The documents for tools are valid, say what the code does, and refuse what the code refuses."""

import copy
import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from broker.channels import Mode
from broker.config import load_settings
from broker.errors import InvalidEvent
from broker.events import (
    AGENT_DELTA,
    LIFECYCLE,
    PAYLOADS,
    STATUSES,
    USER_MESSAGE,
    check_payload,
    encode,
    encode_delta,
)
from docs import generate_schemas, schema_frames, schema_openapi
from gateway.app import create_app
from gateway.problems import FRAME_ERRORS
from gateway.requests import CONTROL
from gateway.session import COMMANDS, LEGACY_TEXT_FIELDS, FrameError, Session
from tests.support.schemas import REFERENCE, problems, published, undescribed, validator
from tests.support.servers import SECRET

FRAMES, ASYNCAPI, OPENAPI = "frames.schema.json", "asyncapi.json", "openapi.json"

# --- the documents themselves


def test_the_three_are_generated() -> None:
    assert {file.name for file in generate_schemas.FILES} == {FRAMES, ASYNCAPI, OPENAPI}


def test_the_json_schema_is_one() -> None:
    document = published(FRAMES)
    assert document["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(document)


def test_the_openapi_document_is_one() -> None:
    document = published(OPENAPI)
    assert document["openapi"].startswith("3.1.")
    assert [str(each) for each in OpenAPIV31SpecValidator(document).iter_errors()] == []


def pointers(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [each for value in part.values() for each in pointers(value)]
    return [each for value in part for each in pointers(value)] if isinstance(part, list) else []


@pytest.mark.parametrize("name", [FRAMES, ASYNCAPI, OPENAPI])
def test_every_reference_leads_somewhere(name: str) -> None:
    found = set(pointers(published(name)))
    assert len(found) > 10
    for pointer in found:
        file, _, path = pointer.partition("#")
        part = published((REFERENCE / file).name if file else name)
        for step in path.strip("/").split("/"):
            part = part[step.replace("~1", "/").replace("~0", "~")]


# --- against the code's tables


def test_no_frame_is_missing() -> None:
    assert set(schema_frames.CLIENT) == set(COMMANDS)
    assert {*schema_frames.CONTROL, *schema_frames.REPLIES} == CONTROL | {"closing"}
    assert set(schema_frames.ERROR_CODES) >= set(FRAME_ERRORS)
    legacy = published(FRAMES)["$defs"]["legacy_client_frame"]["oneOf"]
    assert {each["$ref"].partition("legacy_client_")[2] for each in legacy} >= set(
        LEGACY_TEXT_FIELDS
    )


def test_error_codes_are_those_of_the_protocol() -> None:
    page = (REFERENCE / "protocol.md").read_text("utf-8")
    table = page.partition("\nError codes. *Bad* ones count")[2].partition("\n\nHeartbeat")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(schema_frames.ERROR_CODES)


def test_paths_are_those_of_the_application() -> None:
    app = create_app(load_settings(redis_url="redis://127.0.0.1:1", jwt_secret=SECRET))
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {
        (method.upper(), path)
        for path, methods in published(OPENAPI)["paths"].items()
        for method in methods
    }
    assert described == served
    assert len(schema_openapi.routes()) == len(described)


def test_a_stream_may_be_refused_as_every_connection_is() -> None:
    """It takes a seat, and chunks: also where it is one of two answers, as for a message."""
    paths = published(OPENAPI)["paths"]
    streams = {
        (path, method): operation
        for path, methods in paths.items()
        for method, operation in methods.items()
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", ())
    }
    assert ("/api/v1/messages", "post") in streams
    for named, operation in streams.items():
        codes = {
            code
            for answer in operation["responses"].values()
            for content in answer.get("content", {}).values()
            for part in content["schema"].get("allOf", ())
            for code in part.get("properties", {}).get("code", {}).get("enum", ())
        }
        refused = {
            "http_1_1_required", "gone", "too_many_connects", "too_many_connections", "draining",
        } | ({"not_allowed"} if named[1] == "post" else set())  # fmt: skip
        assert refused - codes == set(), named
    message = paths["/api/v1/messages"]["post"]
    assert [each["name"] for each in message["parameters"]] == ["Last-Event-ID"]


def test_channels_are_those_of_the_handshake() -> None:
    channels = published(ASYNCAPI)["channels"]
    assert {each["address"] for each in channels.values()} == {
        "/ws", "/websocket", "/api/v1/websocket", "/ws/factory", "/ws/isolated", "/sse",
    }  # fmt: skip
    query = channels["ws_isolated"]["bindings"]["ws"]["query"]["properties"]
    assert query["mode"]["enum"] == [Mode.ISOLATED]
    assert {"connection", "secret", "after", "ticket"} <= query.keys()
    assert "isolation_level" not in query


# --- the same judgement as the code's, on whatever differs from what is good in one thing

VALUES: tuple[Any, ...] = (
    None, True, False, -2, 0, 1, 2, -0.5, 0.5, 1.5, "", "a", "a b", "é", "running", *STATUSES,
    "x" * 256, "x" * 257, "x" * 512, "x" * 513, "a\nb", "\x85", {}, {"a": 1},
    {"code": "c", "message": "m"}, {"code": 1, "message": "m"}, {"code": "c"}, [],
    [LIFECYCLE[0]], list(LIFECYCLE),
)  # fmt: skip
"""No whole number as a float: Python tells them apart, JSON does not."""


def changed(fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same without each of its fields, and with every value in the place of each."""
    yield fields
    for name in (*fields, "further"):
        yield {key: value for key, value in fields.items() if key != name}
        for value in VALUES:
            yield {**fields, name: value}


GOOD: dict[str, dict[str, Any]] = {
    "agent_started": {"message": "m", "input": [1], "metadata": {}},
    "agent_thinking": {"thoughts": "t", "step": 1, "progress": 0.5},
    "tool_executing": {"tool": "t", "call_id": "c", "status": "running", "purpose": "p"},
    "tool_completed": {"tool": "t", "call_id": "c", "success": False, "result": None,
                       "duration_ms": 1, "error": {"code": "c", "message": "m"}},
    "agent_completed": {"response": 1, "complete": True, "status": "succeeded", "duration_ms": 0,
                        "missing": [], "error": None, "usage": {}},
    "input_required": {"request_id": "r", "prompt": "p", "expires_at": "later", "schema": {}},
}  # fmt: skip


EXAMPLES = [
    *GOOD.items(),
    ("tool_completed", {**GOOD["tool_completed"], "success": True, "result": 1}),
    ("agent_completed", {**GOOD["agent_completed"], "status": "failed", "response": None}),
]


@pytest.mark.parametrize(("kind", "example"), EXAMPLES)
def test_payloads_are_judged_as_the_sdk_does(kind: str, example: dict[str, Any]) -> None:
    for fields in changed(example):
        try:
            check_payload(kind, fields)
        except InvalidEvent:
            good = False
        else:
            good = True
        found = problems(fields, f"{kind}_payload")
        assert (found == []) is good, (fields, found)


def test_the_examples_are_good() -> None:
    assert set(GOOD) == set(PAYLOADS)
    assert set(ASKED) == set(COMMANDS)
    for kind, fields in EXAMPLES:
        assert problems(fields, f"{kind}_payload", closed=True) == []


ASKED: dict[str, dict[str, Any]] = {
    "user_message": {"content": "c", "thread_id": "t", "agent": None, "metadata": {}},
    "stop_agent": {"run_id": "r"},
    "user_input": {"run_id": "r", "request_id": "q", "content": None},
    "attach": {"run_id": "r", "after": "0-0"},
    "detach": {"run_id": "r"},
    "auth_refresh": {"token": "t"},
    "ping": {"n": 1},
}


def frames(kind: str) -> Iterator[dict[str, Any]]:
    """A client's good frame of a type, and all that is like it but for one thing."""
    yield from changed({"type": kind, "id": "i", "payload": ASKED[kind]})
    for payload in changed(ASKED[kind]):
        # An ``after`` that is no cursor is answered by resync, but nobody should send it.
        if payload.get("after", "0-0") in ("0-0", None):
            yield {"type": kind, "payload": payload}


@pytest.mark.parametrize("kind", ASKED)
def test_a_clients_frames_are_judged_as_the_gateway_does(kind: str) -> None:
    session = Session(Mode.MAIN, max_message_bytes=100_000)
    for frame in frames(kind):
        try:
            session.receive(json.dumps(frame).encode())
        except FrameError:
            good = False
        else:
            good = True
        assert validator("client_frame").is_valid(frame) is good, frame


@pytest.mark.parametrize("kind", LEGACY_TEXT_FIELDS)
def test_old_frames_are_judged_as_the_gateway_does(kind: str) -> None:
    session = Session(Mode.LEGACY, max_message_bytes=1000)
    names = LEGACY_TEXT_FIELDS[kind]
    for name in names:
        for frame in ({"type": kind, name: "x"}, {"type": kind, "payload": {name: "x"}}):
            session.receive(json.dumps(frame).encode())
            assert validator("legacy_client_frame").is_valid(frame), frame
    for wrong in ({"type": kind}, {"type": kind, "payload": {"other": "x"}}):
        with pytest.raises(FrameError):
            session.receive(json.dumps(wrong).encode())
        assert not validator("legacy_client_frame").is_valid(wrong), wrong


@pytest.mark.parametrize("kind", LEGACY_TEXT_FIELDS)
def test_an_old_frame_that_the_schema_allows_is_accepted(kind: str) -> None:
    """It said nothing of a field but of the one that has the text."""
    session = Session(Mode.LEGACY, max_message_bytes=1000)
    fields = {*LEGACY_TEXT_FIELDS[kind], "thread_id", "agent", "metadata", "id"}
    for text, name, value in product(LEGACY_TEXT_FIELDS[kind], fields, VALUES):
        frame = {"type": kind, text: "x"}
        for each in ({**frame, name: value}, {**frame, "payload": {name: value}}):
            if validator("legacy_client_frame").is_valid(each):
                session.receive(json.dumps(each).encode())


# --- a server's frames, and what is none


def event(kind: str, **named: Any) -> dict[str, Any]:
    fields = GOOD.get(kind) or {"content": "c", "message_id": "m", "metadata": {}}
    made = encode(
        event_type=kind, user_id="u", thread_id="t", run_id="r", agent_name="a",
        epoch_ms=1, payload=fields, **named,
    )  # fmt: skip
    return {"id": "1-0", **json.loads(made)}


SENT: list[dict[str, Any]] = [
    *(event(kind, seq=1, attempt=2, parent_run_id="p") for kind in PAYLOADS),
    event(USER_MESSAGE),
    json.loads(encode_delta(run_id="r", thread_id="t", agent_name="a", offset=0, text="é")[0]),
    {"type": "resync", "payload": {"reason": "overrun", "from": "0-0", "channel_cursor": "1-0"}},
    {"type": "error", "ref": None,
     "payload": {"code": "queue_full", "message": "m", "retryable": True, "retry_after_ms": 1}},
    {"type": "ok", "ref": "x", "payload": {}},
]  # fmt: skip


def test_what_the_codecs_make_is_described() -> None:
    assert undescribed(SENT) == []
    root = jsonschema.Draft202012Validator(published(FRAMES))
    assert [frame for frame in SENT if not root.is_valid(frame)] == []


@pytest.mark.parametrize("frame", SENT, ids=lambda frame: frame["type"])
def test_without_a_field_or_with_another_kind_of_value_it_is_wrong(frame: dict[str, Any]) -> None:
    schema = published(FRAMES)["$defs"][frame["type"]]
    judge = validator("server_frame")
    for name in schema["required"]:
        without = {key: value for key, value in frame.items() if key != name}
        assert not judge.is_valid(without), without
        if name != "payload" or schema["properties"][name] != {"type": "object"}:
            assert not judge.is_valid({**frame, name: [1]}), name


WRONG: dict[str, tuple[str, Any]] = {
    "an unknown type": ("/type", "agent_finished"),
    "an unknown status": ("/payload/status", "done"),
    "an answer of a run that failed": ("/payload/status", "failed"),
    "an error without a message": ("/payload/error", {"code": "c"}),
    "an unknown event in missing": ("/payload/missing", ["agent_delta"]),
    "not complete": ("/payload/complete", False),
    "seq from 0": ("/seq", 0),
    "the first attempt": ("/attempt", 1),
    "no cursor": ("/id", "1"),
    "another clock": ("/timestamp", "2026-11-23T01:45:49Z"),
    "an id with a line end": ("/thread_id", "a\nb"),
    "an id too long": ("/run_id", "x" * 257),
    "a negative duration": ("/payload/duration_ms", -1),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_refuses(what: str) -> None:
    frame = event("agent_completed", seq=5)
    assert validator("server_frame").is_valid(frame)
    pointer, value = WRONG[what]
    *steps, last = pointer.strip("/").split("/")
    wrong = copy.deepcopy(frame)
    at = wrong
    for step in steps:
        at = at[step]
    at[last] = value
    assert not validator("server_frame").is_valid(wrong)


def test_text_and_control_frames_have_no_id() -> None:
    for frame in SENT:
        if frame["type"] in (AGENT_DELTA, *CONTROL):
            assert not validator("server_frame").is_valid({**frame, "id": "1-0"})
            assert not validator("server_frame").is_valid({**frame, "seq": 1})


def test_fields_may_be_added_and_are_noticed() -> None:
    frame = event("agent_started", seq=1)
    frame["payload"] = {**frame["payload"], "new": 1}
    assert validator("server_frame").is_valid({**frame, "newer": 2})
    assert len(undescribed([frame])) == 1
