"""What a run's own stream takes from its channel."""

from collections.abc import Iterable
from typing import Any

import orjson

from gateway.dialects.dialect import Frame, Run, Said
from gateway.dialects.native import Native
from gateway.frames import sse_message
from gateway.outbox import MAX_UNSENT_BYTES
from gateway.run_outbox import RunOutbox
from gateway.wires import UNFRAMED


def reader(after: str | None = None) -> RunOutbox:
    return RunOutbox("r", Native(Run("r", "t", "a"), after), sse_message)


def event(run_id: str, *, kind: str = "agent_thinking", **fields: Any) -> bytes:
    return orjson.dumps({"type": kind, "run_id": run_id, **fields})


def push(outbox: RunOutbox, text: bytes, cursor: bytes = b"5-0") -> bool:
    return outbox.push(UNFRAMED.text(text, cursor))


def test_it_takes_the_runs_events_and_text_and_no_others() -> None:
    outbox = reader()
    assert push(outbox, event("r"))
    assert push(outbox, event("other"))
    assert push(outbox, event("other", parent_run_id="another"))
    assert push(outbox, event("r", kind="agent_delta"), b"")
    delta = sse_message(event("r", kind="agent_delta"), b"")
    assert outbox.take() == sse_message(event("r"), b"5-0") + delta


def test_sub_agents_are_known_by_their_parents_however_deep() -> None:
    outbox = reader("6-0")
    push(outbox, event("child", parent_run_id="r"), b"5-0")  # the client has it
    push(outbox, event("grandchild", parent_run_id="child"), b"6-0")
    assert outbox.take() == b""
    push(outbox, event("grandchild", kind="agent_delta"), b"")
    assert b"grandchild" in outbox.take()


def test_cursors_are_compared_as_numbers() -> None:
    outbox = reader("5-9")
    push(outbox, event("r"), b"5-9")
    assert outbox.take() == b""
    push(outbox, event("r"), b"5-10")
    assert outbox.take() != b""


def test_it_ends_with_the_runs_own_terminal_event() -> None:
    outbox = reader()
    push(outbox, event("child", parent_run_id="r", kind="agent_completed"))
    push(outbox, event("other", kind="agent_completed"))
    assert not outbox.ended
    push(outbox, event("r", kind="agent_completed"))
    assert outbox.ended


def test_it_has_ended_for_whom_has_the_end_already() -> None:
    outbox = reader("9-0")
    push(outbox, event("r", kind="agent_completed"))
    assert outbox.ended
    assert outbox.take() == b""


def test_an_end_that_had_no_room_comes_later() -> None:
    outbox = reader()
    outbox.put(b"x" * (MAX_UNSENT_BYTES + 1))
    assert not push(outbox, event("r", kind="agent_completed"))
    assert not outbox.ended
    assert push(outbox, event("other"))
    outbox.take()
    assert push(outbox, event("r", kind="agent_completed"))
    assert outbox.ended


def test_what_is_no_event_is_nobodys() -> None:
    outbox = reader()
    for text in (b"no json", b"[]", b'"r"', b"{}"):
        assert push(outbox, text)
    assert outbox.take() == b""


class Asks(Native):
    """Waits for its user from its first event on, until 5 s after 1970; a control frame ends it."""

    def event(self, frame: Frame) -> Iterable[Said]:
        self.waits_until_ms = 5000 if frame.fields["asks"] else 0
        return super().event(frame)

    def control(self, frame: Frame) -> Iterable[Said]:
        self.ended = True
        return super().control(frame)

    def leave(self) -> Iterable[Said]:
        yield b"answer me", b""


def asks() -> RunOutbox:
    return RunOutbox("r", Asks(Run("r", "t", "a"), None), sse_message)


def let_go(outbox: RunOutbox, now_ms: int) -> bool:
    outbox.let_go(now_ms)
    return outbox.ended


def test_a_reader_for_whom_the_run_waits_is_let_go_once() -> None:
    outbox = asks()
    assert not let_go(outbox, 1)
    push(outbox, event("r", asks=True))
    assert not let_go(outbox, 5000)  # nobody can answer any more
    assert let_go(outbox, 4999)
    outbox.ended = False  # its socket has seen that, and says goodbye
    assert not let_go(outbox, 4999)
    assert outbox.take() == sse_message(event("r", asks=True), b"5-0") + sse_message(
        b"answer me", b""
    )


def test_an_event_that_its_dialect_cannot_read_harms_nobody() -> None:
    outbox = asks()
    assert push(outbox, event("r"))
    assert outbox.take() == b""
    assert push(outbox, event("r", kind="agent_completed"))
    assert outbox.ended


def test_nothing_follows_what_a_dialect_says_last() -> None:
    outbox = asks()
    assert outbox.say(b'{"type": "resync"}')
    assert outbox.ended
    assert push(outbox, event("r"))
    assert outbox.say(b'{"type": "resync"}')
    assert outbox.take() == sse_message(b'{"type": "resync"}', b"")
