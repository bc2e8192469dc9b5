"""A run as the AI SDK's message."""

from collections.abc import Iterable
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cursor import Cursor
from gateway.dialects.ai_sdk import AiSdk
from gateway.dialects.dialect import Frame, Run, Said
from tests.support.ui_message import UiMessage

RUN = Run("r", "t", "a")
Event = dict[str, Any]
EXPIRES = "2026-11-23T01:45:49.123Z"


def frame(fields: Event) -> Frame:
    return Frame(orjson.dumps(fields), fields.get("id", "").encode(), fields)


class Log:
    """A run's events as they come about, and its text beside them."""

    def __init__(self) -> None:
        self._at = count(1)
        self.told: list[Event] = []
        self.text = ""

    def add(self, kind: str, run_id: str = "r", **payload: Any) -> None:
        fields: Event = {"id": f"{next(self._at)}-0", "type": kind, "run_id": run_id}
        of = {} if run_id == "r" else {"parent_run_id": "r"}
        name = "a" if run_id == "r" else "helper"
        self.told.append({**fields, **of, "agent_name": name, "payload": payload})

    def start(self, attempt: int = 1, run_id: str = "r") -> None:
        if run_id == "r":
            self.text = ""
        self.add("agent_started", run_id, message="begins")
        if attempt > 1:
            self.told[-1]["attempt"] = attempt

    def write(self, text: str) -> None:
        self.told.append(delta(len(self.text.encode()), text))
        self.text += text

    def complete(self, status: str = "succeeded", run_id: str = "r", **payload: Any) -> None:
        whole = {"response": None, "complete": True, "status": status, "duration_ms": 1}
        self.add("agent_completed", run_id, **{**whole, "missing": [], **payload})

    def execute(self, call_id: str, run_id: str = "r") -> None:
        given = {"tool": "look", "call_id": call_id, "status": "running", "parameters": {"n": 1}}
        self.add("tool_executing", run_id, **given)

    def executed(self, call_id: str, run_id: str = "r", *, success: bool = True) -> None:
        error = {} if success else {"error": {"code": "x", "message": "broke"}}
        result = 7 if success else None
        done = {"tool": "look", "call_id": call_id, "success": success, "result": result}
        self.add("tool_completed", run_id, **done, duration_ms=1, **error)

    def ask(self, request_id: str = "q", run_id: str = "r") -> None:
        self.add("input_required", run_id, request_id=request_id, prompt="?", expires_at=EXPIRES)

    def answer(self, request_id: str = "q", run_id: str = "r") -> None:
        self.add("user_input", run_id, request_id=request_id, content="yes")


def delta(offset: int, text: str) -> Event:
    following = offset + len(text.encode())
    said = {"offset": offset, "next": following, "text": text}
    return {"type": "agent_delta", "run_id": "r", "agent_name": "a", "payload": said}


def read(
    events: Iterable[Event], message: UiMessage | None = None, after: str | None = None
) -> tuple[UiMessage, AiSdk]:
    """One response; whoever goes on has a part of the message."""
    message, dialect = message or UiMessage(), AiSdk(RUN, after)
    told: list[Said] = list(dialect.control(Frame(b"", b"", {"type": "run_accepted"})))
    for event in events:
        told += dialect.event(frame(event))
    for text, position in told:
        assert position == b""
        message.take(orjson.loads(text))
    return message, dialect


def leave(message: UiMessage, dialect: AiSdk) -> None:
    for text, _ in dialect.leave():
        message.take(orjson.loads(text))


def parts(log: Log) -> list[Event]:
    return read(log.told)[0].parts


def test_a_message_has_the_runs_id_before_it_begins() -> None:
    message, dialect = read([])
    assert message.metadata == {"run_id": "r", "thread_id": "t", "agent": "a"}
    assert message.parts == []
    assert not dialect.ended


def test_a_whole_run() -> None:
    log = Log()
    log.start()
    log.add("agent_thinking", thoughts="hm", progress=0.5, step=2)
    log.execute("c")
    log.executed("c")
    log.write("hel")
    log.write("lo")
    log.complete(response="hello", usage={"tokens": 3})
    message, dialect = read(log.told)
    assert dialect.ended
    assert message.ended == "finish"
    assert message.parts == [
        {"type": "step-start"},
        {"type": "reasoning", "text": "hm", "state": "done"},
        {"type": "data-progress", "id": "r", "data": {"progress": 0.5, "step": 2}},
        {"type": "tool", "id": "c", "state": "output-available", "tool": "look",
         "input": {"n": 1}, "output": 7},
        {"type": "text", "text": "hello", "state": "done"},
    ]  # fmt: skip
    told = {"status": "succeeded", "usage": {"tokens": 3}, "message": "begins", "attempt": 1}
    assert message.metadata.items() >= told.items()
    assert AiSdk.position(message.metadata["cursor"]) == Cursor(5, 0)


@pytest.mark.parametrize(
    ("streamed", "response", "shown"),
    [
        ("", "all of it", ["all of it"]),
        ("all ", "all of it", ["all of it"]),
        ("one", "another", ["one", "another"]),
        ("one", None, ["one"]),
        ("", "", []),
    ],
)
def test_a_response_is_shown_once(streamed: str, response: str | None, shown: list[str]) -> None:
    log = Log()
    log.start()
    if streamed:
        log.write(streamed)
    log.complete(response=response)
    assert [part["text"] for part in parts(log) if part["type"] == "text"] == shown


def test_a_response_that_is_no_text_is_data() -> None:
    log = Log()
    log.complete(response={"rows": 3})
    assert parts(log)[1:] == [{"type": "data-response", "id": "r", "data": {"rows": 3}}]


@pytest.mark.parametrize(
    ("status", "error", "ended"),
    [
        ("failed", {"code": "agent_error", "message": "broke"}, "error"),
        ("abandoned", {"code": "worker_lost", "message": "lost"}, "error"),
        ("failed", None, "error"),
        ("cancelled", {"code": "stopped", "message": "was stopped"}, "abort"),
    ],
)
def test_how_it_ends_is_told(status: str, error: Event | None, ended: str) -> None:
    log = Log()
    log.start()
    log.write("half")
    log.complete(status, error=error)
    message, _ = read(log.told)
    assert message.ended == ended
    assert message.metadata["status"] == status
    if ended == "error":
        assert message.metadata["error"]["code"] == (error["code"] if error else status)
    assert message.parts[-1] == {"type": "text", "text": "half", "state": "done"}


def test_what_is_open_is_closed_before_the_end() -> None:
    log = Log()
    log.start()
    log.start(run_id="child")
    log.execute("c", "child")
    log.ask()
    log.complete("abandoned")
    message, _ = read(log.told)
    states: Event = {part["id"]: part.get("state", part.get("data")) for part in message.others}
    assert states["child/c"] == states["r/q"] == "output-error"
    assert states["child"]["status"] == "unknown"


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        ("closing", {"code": 1001, "reason": "going away"}, "closed_1001"),
        ("resync", {"reason": "expired"}, "resync_expired"),
    ],
)
def test_an_end_that_is_none_of_the_runs_is_an_error(kind: str, payload: Event, code: str) -> None:
    log = Log()
    log.start()
    log.write("half")
    message, dialect = read(log.told)
    for text, _ in dialect.control(Frame(b"", b"", {"type": kind, "payload": payload})):
        message.take(orjson.loads(text))
    assert dialect.ended
    assert message.ended == "error"
    assert message.metadata["error"]["code"] == code
    assert "status" not in message.metadata
    assert list(dialect.control(Frame(b"", b"", {"type": "pong"}))) == []


def test_an_attempt_that_is_lost_leaves_nothing() -> None:
    log = Log()
    log.start()
    log.write("void")
    log.execute("c")
    log.ask()
    log.start(2)
    log.executed("c")  # nobody's any more
    log.write("again")
    log.complete(response="again")
    message, _ = read(log.told)
    assert message.parts == [
        {"type": "step-start"}, {"type": "text", "text": "again", "state": "done"},
    ]  # fmt: skip
    assert message.metadata["attempt"] == 2


def test_calls_of_one_name_are_told_apart() -> None:
    log = Log()
    log.start(run_id="child")
    for run_id in ("r", "child", "r"):
        log.execute("c", run_id)
        log.executed("c", run_id, success=run_id == "r")
    tools = [part for part in parts(log) if part["type"] == "tool"]
    assert [tool["id"] for tool in tools] == ["c", "child/c", "c#2"]
    assert [tool["output"] for tool in tools] == [7, "broke", 7]


def test_a_sub_agents_state_is_one_part() -> None:
    log = Log()
    log.start(run_id="child")
    log.add("agent_thinking", "child", thoughts="deep")
    log.ask(run_id="child")
    log.complete(run_id="child", response="found")
    message, dialect = read(log.told)
    assert message.ended is None
    assert not dialect.ended
    state, thought, asked = message.others
    assert state["data"] == {
        "run_id": "child", "agent": "helper", "parent_run_id": "r", "status": "succeeded",
        "message": "begins", "response": "found",
    }  # fmt: skip
    assert thought["text"] == "deep"
    assert asked["state"] == "output-error"
    assert dialect.waits_until_ms == 0


def test_a_stop_that_was_asked_for_is_told() -> None:
    log = Log()
    log.add("stop_requested")
    log.add("stop_requested", "child")
    log.add("something_new")
    assert read(log.told)[0].metadata["stop_requested"] is True


def test_a_question_lets_its_reader_go_and_its_answer_goes_on() -> None:
    log = Log()
    log.start()
    log.write("before ")
    log.ask()
    message, dialect = read(log.told)
    assert dialect.waits_until_ms == 1795398349123
    leave(message, dialect)
    assert message.ended == "finish"
    log.ask()  # the same, once more
    log.answer()
    log.write("after")
    log.complete(response="before after")
    place = message.metadata["cursor"]
    snapshot = [event for event in log.told if event["type"] != "agent_delta"]
    _, dialect = read(snapshot, message, place)
    assert dialect.waits_until_ms == 0
    assert message.text == "before after"
    (question,) = message.others
    assert (question["id"], question["output"]) == ("r/q", "yes")
    assert sum(part["type"] == "step-start" for part in message.parts) == 2


def test_who_goes_on_in_a_later_attempt_has_its_text_from_its_beginning() -> None:
    log = Log()
    log.start()
    log.write("void")
    log.ask()
    message, dialect = read(log.told)
    leave(message, dialect)
    place = message.metadata["cursor"]
    log.start(2)
    log.complete(response="voided or not")
    read([event for event in log.told if event["type"] != "agent_delta"], message, place)
    assert message.text == "void" + "voided or not"  # what stands before an answer cannot go


def test_who_goes_on_in_an_attempt_keeps_what_he_has_of_its_text() -> None:
    log = Log()
    log.start()
    log.start(2)
    log.write("before ")
    log.ask()
    message, dialect = read(log.told)
    leave(message, dialect)
    log.answer()
    log.write("after")
    read(snapshot(log, len(log.told)), message, message.metadata["cursor"])
    assert message.text == "before after"


@pytest.mark.parametrize("place", ["yesterday", "5-0/x", "/1-0", "5-0/1"])
def test_a_position_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        AiSdk(RUN, place)


STEPS = st.sampled_from(
    ["think", "progress", "execute", "executed", "write", "ask", "answer", "child", "child_ends",
     "retry", "stop"]
)  # fmt: skip


class Author:
    """Makes a lawful run of what is drawn, with whatever interleaving."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.log, self._draw = Log(), draw
        self._names = count(1)
        self._attempt = 0
        self.retry()

    def retry(self) -> None:
        self._attempt += 1
        self.calls: list[tuple[str, str]] = []
        self._asked: list[str] = []
        self._children: list[str] = []
        self.log.start(self._attempt)

    def think(self) -> None:
        self.log.add("agent_thinking", thoughts=f"thought {next(self._names)}")

    def progress(self) -> None:
        self.log.add("agent_thinking", thoughts="", progress=next(self._names) / 100)

    def execute(self) -> None:
        run_id = self._draw(st.sampled_from(["r", *self._children]))
        self.calls.append((f"c{next(self._names)}", run_id))
        self.log.execute(*self.calls[-1])

    def executed(self) -> None:
        if self.calls:
            call = self.calls.pop(self._draw(st.integers(0, len(self.calls) - 1)))
            self.log.executed(*call, success=self._draw(st.booleans()))

    def write(self) -> None:
        self.log.write(self._draw(st.text(min_size=1, max_size=4)))

    def ask(self) -> None:
        self._asked.append(f"q{next(self._names)}")
        self.log.ask(self._asked[-1])

    def answer(self) -> None:
        if self._asked:
            self.log.answer(self._asked.pop())

    def child(self) -> None:
        self._children.append(f"child{next(self._names)}")
        self.log.start(run_id=self._children[-1])

    def child_ends(self) -> None:
        if self._children:
            found = f"found {next(self._names)}"
            self.log.complete(run_id=self._children.pop(), response=found)

    def stop(self) -> None:
        self.log.add("stop_requested")


@st.composite
def runs(draw: st.DrawFn) -> Log:
    author = Author(draw)
    log = author.log
    for step in draw(st.lists(STEPS, max_size=25)):
        getattr(author, step)()
    status = draw(st.sampled_from(["succeeded", "failed", "cancelled", "abandoned"]))
    for call in author.calls:
        log.executed(*call, success=False)
    log.complete(status, response=log.text if status == "succeeded" else None)
    return log


def snapshot(log: Log, upto: int) -> list[Event]:
    """What is read of a log that reaches so far: its events, then the text as it is then."""
    told, text = log.told[:upto], ""
    for event in told:
        if event["type"] == "agent_started" and event["run_id"] == "r":
            text = ""
        elif event["type"] == "agent_delta":
            text += event["payload"]["text"]
    retained = [event for event in told if event["type"] != "agent_delta"]
    ended = any(e["type"] == "agent_completed" and e["run_id"] == "r" for e in retained)
    return retained if ended or not text else [*retained, delta(0, text)]


@given(runs(), st.data())
def test_read_anew_anywhere_it_is_the_same_message(log: Log, data: st.DataObject) -> None:
    """Nothing is open in its end, and whoever joins late has what the first one has."""
    live, _ = read(log.told)
    assert live.ended is not None
    assert all(part.get("state", "done") in CLOSED for part in live.parts)
    cut = data.draw(st.integers(0, len(log.told)))
    late, _ = read([*snapshot(log, cut), *log.told[cut:]])
    assert late.ended == live.ended
    assert late.others == live.others
    succeeded = live.metadata["status"] == "succeeded"
    if succeeded or cut < len(log.told):  # the text of a run that has failed is not kept
        if lost_after_an_answer(log):  # what stands before an answer cannot go, later it can
            assert live.text.endswith(late.text)
        else:
            assert late.text == live.text
        assert late.metadata == live.metadata


def lost_after_an_answer(log: Log) -> bool:
    """An attempt in which a question was answered was not the last one."""
    kinds = [event["type"] for event in log.told if event["run_id"] == "r"]
    return "user_input" in kinds and "agent_started" in kinds[kinds.index("user_input") :]


CLOSED = ("done", "output-available", "output-error")


@given(runs(), st.data())
def test_left_at_questions_it_goes_on_to_the_same_message(log: Log, data: st.DataObject) -> None:
    """Response by response, each until the run waits, it is the one that is read in one go."""
    in_one, _ = read(log.told)
    message, place, upto = UiMessage(), None, 0
    while upto < len(log.told):
        upto = data.draw(st.integers(upto, len(log.told)), label="what is retained by then")
        message, dialect = read(snapshot(log, upto), message, place)
        while upto < len(log.told) and not (dialect.waits_until_ms and data.draw(st.booleans())):
            for text, _ in dialect.event(frame(log.told[upto])):
                message.take(orjson.loads(text))
            upto += 1
        if not dialect.ended:
            leave(message, dialect)
            place = message.metadata["cursor"]
    assert all(part.get("state", "done") in CLOSED for part in message.parts)
    # Steps before an answer stay, also those of an attempt that is lost.
    if message.metadata["attempt"] == 1:
        assert message.others == in_one.others
        if in_one.metadata["status"] == "succeeded":
            assert message.text == in_one.text
