"""Events that come again under other ids."""

from typing import Any

import pytest

from gateway.repeats import REMEMBERED, Repeats


def event(seq: int | None = 1, **more: Any) -> dict[str, Any]:
    told = {} if seq is None else {"seq": seq}
    return {"type": "agent_thinking", "id": "1-0", "run_id": "r", "payload": {}, **told, **more}


def test_the_same_under_another_id_is_a_repeat() -> None:
    repeats = Repeats()
    assert repeats.is_new(event())
    assert not repeats.is_new(event(id="9-0"))


@pytest.mark.parametrize(
    "other",
    [
        event(2), event(run_id="s"), event(type="agent_started"), event(attempt=2),
        event(timestamp="later"), event(payload={"request_id": "q"}),
    ],
)  # fmt: skip
def test_what_says_something_else_is_another(other: dict[str, Any]) -> None:
    repeats = Repeats()
    repeats.is_new(event())
    assert repeats.is_new(other)


def test_what_says_nothing_to_be_known_by_is_always_new() -> None:
    repeats = Repeats()
    assert repeats.is_new(event(None))
    assert repeats.is_new(event(None))


def test_only_the_latest_are_remembered() -> None:
    repeats = Repeats()
    for seq in range(REMEMBERED + 1):
        repeats.is_new(event(seq))
    assert not repeats.is_new(event(1))
    assert repeats.is_new(event(0))
