"""What is published of a batch: law above all, however it is cut up, repeated and interrupted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import events
from broker.composer import Composer, Moment
from broker.errors import Fenced, RunClosed
from broker.lifecycle import Lifecycle, State
from broker.publication import Delta, Publication
from gateway.batch_plan import REFUSALS, Bounds, Planning, refusal
from gateway.event_batch import Item
from gateway.handshake import BadRequest

AT = Moment(epoch_ms=1_763_861_234_567, seconds=1_763_861_234.567)
BOUNDS = Bounds(max_text_bytes=40, input_seconds=60, longest_input_seconds=100)
END = Item("agent_completed", None, {"complete": True, "response": "x"})


@dataclass
class Record:
    """A run's record and log, as the scripts keep them."""

    log: list[Publication] = field(default_factory=list)
    open_calls: dict[str, str] = field(default_factory=dict)
    text: str = ""
    state: State = State.QUEUED
    sent: str = ""

    def planning(self) -> Planning:
        """As the gateway reads it, each time anew."""
        run = Composer(
            events.Envelope(user_id="u", thread_id="t", run_id="r1", agent_name="a"),
            run_id="r1",
            lifecycle=Lifecycle(self.state, open_calls=self.open_calls, flags=self.sent),
            seq=len(self.log),
            began=AT.seconds,
            opened=dict.fromkeys(self.open_calls, AT.seconds),
            max_event_bytes=2000,
        )
        size = len(self.text.encode())
        return Planning(run, run_id="r1", text=self.text, text_bytes=size, bounds=BOUNDS, at=AT)

    def publish(self, said: list[Publication | Delta]) -> list[str | int]:
        """Some of it may be there already: another gateway was faster."""
        done: list[str | int] = []
        for each in said:
            if isinstance(each, Delta):
                if len(self.text.encode()) == each.offset:
                    self.text += each.text
                done.append(each.following)
                continue
            if each.seq == len(self.log) + 1:
                assert self.state is not State.COMPLETED
                self.log.append(each)
                self.state, self.sent = each.state, each.sent
                if each.call_opened is not None:
                    self.open_calls[each.call_opened[0]] = each.call_opened[1]
                if each.call_closed is not None:
                    del self.open_calls[each.call_closed]
            assert each.seq <= len(self.log)
            done.append(f"1-{each.seq}")
        return done

    def send(self, *items: Item, cut_after: int | None = None) -> list[dict[str, Any]]:
        """A request; with ``cut_after`` only so much of it arrives, and no answer is made."""
        plan = self.planning().take_all(items)
        if cut_after is not None:
            self.publish(plan.said[:cut_after])
            return []
        ids = [f"1-{seq}" for seq in plan.recalled]
        return plan.told(ids, self.publish(plan.said))


def numbered(*items: Item, first: int = 1) -> list[Item]:
    made = []
    for item in items:
        made.append(item if item.type == "agent_delta" else Item(item.type, first, item.payload))
        first += item.type != "agent_delta"
    return made


def item(kind: str, **payload: Any) -> Item:
    return Item(kind, None, payload)


STARTED = item("agent_started", message="m")
THOUGHT = item("agent_thinking", thoughts="t")


def called(call_id: str) -> Item:
    return item("tool_executing", tool="sum", call_id=call_id, status="running")


def returned(call_id: str) -> Item:
    return item("tool_completed", tool="sum", call_id=call_id, result=1)


def test_the_end_closes_what_is_open_and_is_known_by_itself() -> None:
    record = Record()
    record.send(*numbered(STARTED, called("a"), called("b")))
    told = record.send(*numbered(END, first=4))
    assert told == [{"seq": 6, "id": "1-6"}]
    assert [each.event_type for each in record.log[3:]] == [
        "tool_completed", "tool_completed", "agent_completed",
    ]  # fmt: skip
    assert record.send(*numbered(END, first=4)) == told
    with pytest.raises(BadRequest, match="RUN_CLOSED"):
        record.send(*numbered(END, first=7))


@pytest.mark.parametrize("cut_after", [0, 1, 2, 3])
def test_an_end_that_was_interrupted_is_finished_by_the_same_again(cut_after: int) -> None:
    """A gateway that dies among the calls that it closes leaves the run with other numbers."""
    record = Record()
    record.send(*numbered(STARTED, called("a"), called("b")))
    record.send(*numbered(END, first=4), cut_after=cut_after)
    assert record.send(*numbered(END, first=4)) == [{"seq": 6, "id": "1-6"}]
    assert (record.state, len(record.log), record.open_calls) == (State.COMPLETED, 6, {})


def test_streamed_text_is_the_response_that_is_left_out() -> None:
    record = Record()
    end = item("agent_completed", complete=True)
    record.send(*numbered(STARTED, item("agent_delta", offset=0, text="é")))
    record.send(*numbered(item("agent_delta", offset=2, text="!"), end, first=2))
    assert orjson.loads(record.log[-1].body)["payload"]["response"] == "é!"


@pytest.mark.parametrize(
    "payload",
    [
        {"status": "failed", "error": {"code": "c", "message": "m"}},
        {"status": "cancelled"},
        {"error": {"code": "c", "message": "m"}},
    ],
)
def test_but_not_of_a_run_that_did_not_succeed(payload: dict[str, Any]) -> None:
    record = Record()
    record.send(*numbered(STARTED, item("agent_delta", offset=0, text="é")))
    record.send(*numbered(item("agent_completed", complete=True, **payload), first=2))
    assert orjson.loads(record.log[-1].body)["payload"]["response"] is None


def test_a_question_is_open_for_as_long_as_it_says_or_as_the_settings_do() -> None:
    record = Record()
    asked = item("input_required", request_id="q", prompt="?")
    longer = item("input_required", request_id="r", prompt="?", expires_seconds=99)
    record.send(*numbered(STARTED, asked, longer))
    assert [each.asked for each in record.log[1:]] == [("q", 60_000), ("r", 99_000)]
    assert "expires_seconds" not in orjson.loads(record.log[2].body)["payload"]


def test_text_has_a_most() -> None:
    record = Record()
    record.send(*numbered(STARTED, item("agent_delta", offset=0, text="x" * 40)))
    with pytest.raises(BadRequest) as caught:
        record.send(item("agent_delta", offset=40, text="x"))
    assert (caught.value.status, caught.value.code) == (413, "too_large")


def test_every_refusal_has_a_code_of_its_own() -> None:
    assert len({code for code, _ in REFUSALS.values()}) == len(REFUSALS)
    made = refusal(Fenced(subject="r1"))
    assert (made.status, made.code) == (409, "fenced")
    assert refusal(RunClosed(subject="r1")).code == "run_closed"


MOVES = st.lists(
    st.sampled_from(
        [
            THOUGHT, THOUGHT, called("a"), returned("a"), called("b"), returned("b"),
            item("input_required", request_id="q", prompt="?"), item("agent_thinking"),
            item("agent_delta", text="é"), item("agent_delta", text="x" * 30), END, STARTED,
        ]
    ),
    max_size=14,
)  # fmt: skip


def legal(moves: list[Item]) -> list[Item]:
    """Those that the run takes, numbered; its text goes on where it ends."""
    record, taken = Record(), []
    for move in (STARTED, *moves):
        payload, seq = move.payload, None
        if move.type == "agent_delta":
            payload = {"offset": len(record.text.encode()), **payload}
        else:
            seq = len(record.log) + 1
        made = Item(move.type, seq, payload)
        before = len(record.log), record.state, record.sent, record.text, dict(record.open_calls)
        try:
            record.send(made)
        except BadRequest:
            now = len(record.log), record.state, record.sent, record.text, dict(record.open_calls)
            assert now == before
            continue
        taken.append(made)
    return taken


@given(MOVES, st.data())
def test_however_it_is_cut_repeated_and_interrupted_the_log_is_the_same(
    moves: list[Item], data: st.DataObject
) -> None:
    """Requests overlap, arrive again, and get through in part: each event is there once, in order,
    and whoever asks is told the same."""
    items = legal(moves)
    whole, record = Record(), Record()
    expected = whole.send(*items)
    reached = 0
    while reached < len(items):
        start = data.draw(st.integers(0, reached), label="start")
        stop = data.draw(st.integers(reached + 1, len(items)), label="stop")
        cut = data.draw(st.none() | st.integers(0, 3), label="cut")
        if cut is not None:
            record.send(*items[start:stop], cut_after=cut)
        assert record.send(*items[start:stop]) == expected[start:stop]
        reached = stop
    assert [each.event_type for each in record.log] == [each.event_type for each in whole.log]
    assert [each.body for each in record.log] == [each.body for each in whole.log]
    assert (record.text, record.state, record.sent) == (whole.text, whole.state, whole.sent)
    assert record.send(*items) == expected


@given(MOVES, st.integers(2, 5))
def test_a_hole_is_never_jumped(moves: list[Item], ahead: int) -> None:
    record = Record()
    items = legal(moves)
    record.send(*items)
    following = len(record.log) + 1
    with pytest.raises(BadRequest) as caught:
        record.send(Item("agent_thinking", following + ahead, {"thoughts": "t"}))
    if record.state is State.COMPLETED:
        assert caught.value.code == "run_closed"
    else:
        assert caught.value.code == "seq_gap"
        assert caught.value.more == {"expected_seq": following, "index": 0}
