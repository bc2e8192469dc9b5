"""What a client has, and what it asks for when it comes back."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.position import Position


def hello(**payload: Any) -> dict[str, Any]:
    return {"type": "connection_established", "payload": payload}


def event(
    cursor: str, run_id: str = "r", kind: str = "agent_thinking", **more: Any
) -> dict[str, Any]:
    return {"type": kind, "id": cursor, "run_id": run_id, "payload": {}, **more}


def test_a_first_connection_asks_for_what_its_caller_asked_for() -> None:
    assert Position(strict=False).parameters() == {}
    assert Position(strict=False, after="0-0").parameters() == {"after": "0-0"}
    assert Position(strict=False, after="rubbish").parameters() == {"after": "rubbish"}
    strict = Position(strict=True, after="5-0", run_id="r")
    assert strict.parameters() == {"after": "5-0", "run_id": "r"}


def test_without_an_event_it_resumes_from_where_the_connection_began() -> None:
    position = Position(strict=False)
    position.take(hello(cursor="7-0"))
    assert position.parameters() == {"after": "7-0"}


def test_a_cursor_that_was_asked_for_stands_until_its_events_came() -> None:
    position = Position(strict=False, after="3-0")
    position.take(hello(cursor="7-0"))
    assert position.cursor == "3-0"
    assert position.take(event("4-0"))
    assert position.cursor == "4-0"


def test_an_event_is_had_once_and_compared_number_by_number() -> None:
    position = Position(strict=False, after="0-0")
    assert position.take(event("5-9"))
    assert position.take(event("5-10"))
    assert not position.take(event("5-10"))
    assert not position.take(event("5-9"))
    assert position.take(event("10-0"))


def test_live_moves_on_over_events_that_a_filter_held_back() -> None:
    position = Position(strict=False, after="3-0")
    position.take({"type": "live", "payload": {"cursor": "9-0"}})
    assert position.cursor == "9-0"
    position.take({"type": "live", "payload": {"cursor": "8-0"}})
    assert position.cursor == "9-0"


def test_a_resync_says_where_the_log_goes_on_even_if_that_is_behind() -> None:
    position = Position(strict=False, after="9-0")
    resync = {"reason": "forked", "from": "4-0", "channel_cursor": "6-0"}
    assert position.take({"type": "resync", "payload": resync})
    assert position.take(event("5-0"))
    assert position.cursor == "5-0"


def test_it_comes_back_to_the_thread_and_the_connection_that_it_was_told() -> None:
    position = Position(strict=False)
    position.take(hello(cursor="1-0", thread_id="t9", connection_id="c1", secret="s1"))
    asked = {"after": "1-0", "thread_id": "t9", "connection": "c1", "secret": "s1"}
    assert position.parameters() == asked


def test_a_connection_without_a_secret_is_not_taken_up() -> None:
    position = Position(strict=False)
    position.take(hello(cursor="1-0", connection_id="c1", thread_id=None))
    assert position.parameters() == {"after": "1-0"}


def test_legacy_frames_carry_nothing_to_resume_from() -> None:
    position = Position(strict=False)
    assert position.take({"type": "connection_established", "data": {"mode": "legacy"}})
    assert position.take({"type": "agent_started", "data": {}, "run_id": "r"})
    assert position.parameters() == {}


class TestStrict:
    def test_it_attaches_again_to_every_run_that_has_not_ended(self) -> None:
        position = Position(strict=True)
        position.take(hello())
        for run_id in ("r1", "r2", "r3"):
            position.take({"type": "run_accepted", "ref": "m", "payload": {"run_id": run_id}})
        position.take(event("5-0", "r1"))
        position.take(event("9-0", "r2", "agent_completed"))
        assert position.attachments() == [("r1", "5-0"), ("r3", "0-0")]
        assert position.parameters() == {}
        assert position.cursor is None

    def test_each_run_has_a_cursor_of_its_own(self) -> None:
        position = Position(strict=True)
        position.attach("r1", "8-0")
        position.attach("r2", None)
        assert position.take(event("3-0", "r2"))
        assert not position.take(event("3-0", "r1"))
        assert position.take(event("9-0", "r1"))

    def test_a_run_attached_from_now_on_is_not_replayed_from_its_beginning(self) -> None:
        position = Position(strict=True)
        position.attach("r", None)
        position.attached("r", "6-0")
        assert position.attachments() == [("r", "6-0")]
        position.take(event("7-0"))
        position.attached("r", "6-0")
        assert position.attachments() == [("r", "7-0")]

    def test_the_run_in_the_address_is_attached_to_by_frame_later(self) -> None:
        position = Position(strict=True, run_id="r")
        assert position.attachments() == []
        position.take(hello(cursor="4-0"))
        assert position.parameters() == {}
        assert position.attachments() == [("r", "4-0")]

    def test_a_sub_agents_events_move_its_parents_cursor(self) -> None:
        position = Position(strict=True)
        position.attach("parent", "1-0")
        child = {"run_id": "child", "parent_run_id": "parent"}
        assert position.take(event("2-0", **child))
        assert position.take(event("3-0", "grandchild", parent_run_id="child"))
        assert position.take(event("4-0", kind="agent_completed", **child))
        assert not position.take(event("3-0", "grandchild", parent_run_id="child"))
        assert position.attachments() == [("parent", "4-0")]

    def test_a_resync_is_for_its_run(self) -> None:
        position = Position(strict=True)
        position.attach("r1", "8-0")
        position.attach("r2", "9-0")
        position.take({"type": "resync", "payload": {"run_id": "r1", "from": "0-0"}})
        assert position.attachments() == [("r1", "0-0"), ("r2", "9-0")]

    def test_nothing_is_kept_of_runs_that_ended_or_were_left(self) -> None:
        position = Position(strict=True)
        for number in range(10):
            run_id = f"r{number}"
            position.attach(run_id, None)
            position.take(event("1-0", f"{run_id}.child", parent_run_id=run_id))
            if number % 2:
                position.detach(run_id)
            else:
                position.take(event("2-0", run_id, "agent_completed"))
        assert position._runs == {}
        assert position._roots == {}


@given(st.lists(st.integers(1, 20), min_size=1), st.data())
def test_any_interleaving_of_replays_gives_each_event_once_in_order(
    numbers: list[int], data: st.DataObject
) -> None:
    """A gateway may send again anything from the client's cursor or before it, never skip."""
    log = [f"{ms}-{seq}" for ms in range(1, 4) for seq in range(10)]
    position, had, at = Position(strict=False, after="0-0"), [], 0
    for _ in numbers:
        start = data.draw(st.integers(0, at))
        at = data.draw(st.integers(max(start, at), len(log)))
        had += [cursor for cursor in log[start:at] if position.take(event(cursor))]
    assert had == log[:at]
