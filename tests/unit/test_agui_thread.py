"""A thread after a reload, as an AG-UI client takes it up."""

from typing import Any

from ag_ui.core import Message
from pydantic import TypeAdapter

from gateway.dialects.agui_position import Position, Span, parse
from gateway.dialects.agui_request import interrupt_of
from gateway.dialects.agui_thread import conversation, hydration

NOW = 1_795_398_349_000
LATER, EARLIER = "2026-11-23T02:00:00.000Z", "2026-11-23T01:00:00.000Z"


def said(role: str, run_id: str, content: Any) -> dict[str, Any]:
    told = {"role": role, "run_id": run_id, "content": content, "timestamp": LATER, "id": "5-0"}
    return {**told, "message_id": f"m-{run_id}"} if role == "user" else told


def run(run_id: str, *events: dict[str, Any], text: str = "") -> dict[str, Any]:
    return {"run_id": run_id, "events": list(events), "text": text, "started_at": EARLIER}


def event(kind: str, parent: str | None = None, **payload: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"type": kind, "payload": payload}
    return told if parent is None else {**told, "parent_run_id": parent}


def asks(request_id: str, expires_at: str = LATER, parent: str | None = None) -> dict[str, Any]:
    return event("input_required", parent, request_id=request_id, prompt="?", expires_at=expires_at)


def told(messages: list[Any], runs: list[Any]) -> dict[str, Any]:
    thread = {"messages": messages, "runs": runs, "cursor": "9-1"}
    found = hydration(thread, NOW)
    TypeAdapter(list[Message]).validate_python(found["messages"])
    return found


def test_what_was_said() -> None:
    found = told(
        [
            said("user", "one", "hi"), said("agent", "one", "hello"),
            said("user", "two", {"parts": [{"type": "text", "text": "look"}]}),
            said("agent", "two", {"rows": 3}), said("agent", "three", None),
        ],
        [],
    )  # fmt: skip
    assert [(m["id"], m["role"], m["content"]) for m in found["messages"]] == [
        ("m-one", "user", "hi"),
        ("one:text-0", "assistant", "hello"),
        ("m-two", "user", [{"type": "text", "text": "look"}]),
        ("two:text-0", "assistant", '{"rows":3}'),
    ]
    assert found["messages"][1]["parts"] == [{"type": "text", "content": "hello"}]
    assert (found["activeRun"], found["interrupts"]) == (None, None)


def test_a_conversation_is_the_same_without_what_agui_does_not_know() -> None:
    messages = [said("user", "one", "hi"), said("agent", "one", None), said("agent", "two", "yo")]
    assert conversation({"messages": messages}) == [
        {"id": "m-one", "role": "user", "content": "hi"},
        {"id": "two:text-0", "role": "assistant", "content": "yo"},
    ]


def test_a_run_that_is_under_way_is_to_be_joined() -> None:
    runs = [run("one", event("agent_started")), run("kid", event("agent_started", "one"))]
    assert told([said("user", "one", "hi")], runs)["activeRun"] == {"runId": "m-one"}
    assert told([], runs)["activeRun"] == {"runId": "one"}  # no message began it
    assert told([], runs[1:])["activeRun"] is None


def test_a_run_that_waits_tells_what_it_has_said_and_asks() -> None:
    runs = [
        run("one", asks("q"), asks("old", EARLIER), asks("done"),
            event("user_input", request_id="done"), text="Grüße"),
        run("kid", event("agent_started", "one"), asks("k", LATER, "one"), text="k"),
    ]  # fmt: skip
    found = told([said("user", "one", "hi")], runs)
    assert found["activeRun"] is None
    assert found["interrupts"]["runId"] == "m-one"
    asked = [interrupt_of(each["id"]) for each in found["interrupts"]["pending"]]
    assert [(each.run_id, each.asker, each.request_id) for each in asked] == [
        ("one", "one", "q"), ("one", "kid", "k"),
    ]  # fmt: skip
    place = parse(asked[0].position)
    assert {name: span.next for name, span in place.texts.items()} == {"": 7, "kid": 1}
    assert place.texts[""].rest("Grüße, you".encode()) == b", you"
    assert not place.texts[""].open
    assert place == Position(place.cursor, None, place.texts)
    assert isinstance(place.texts["kid"], Span)
    assert found["messages"][-1]["content"] == "Grüße"


def test_a_run_that_waits_and_has_said_nothing() -> None:
    assert told([], [run("one", asks("q"))])["messages"] == []
