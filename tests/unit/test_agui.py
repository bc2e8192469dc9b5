"""A run in AG-UI 1.0: for whoever reads it as a whole, and for whoever was cut off anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.agui import ASK_AGAIN, CLOSED, Agui
from gateway.dialects.agui_position import parse
from gateway.dialects.agui_request import Answer, Asked, interrupt_of
from gateway.dialects.dialect import Frame, Run, Said
from tests.support.agui import Event, Shown, check_stream

RUN: Final = Run("r", "t", "a")
USER: Final = {"id": "u", "role": "user", "content": "hi"}
ASKED: Final = Asked(thread_id="t", run_id="m", messages=[USER])


@dataclass
class Timeline:
    """What happens to a run, in order: its log, and its text beside it."""

    items: list[Frame] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    attempt: int = 1
    response: str | None = None
    """The run's, when it is its text."""
    _ms: int = 0

    def log(self, kind: str, payload: Any, run_id: str = "r", parent: str | None = None) -> None:
        self._ms += 1
        event = {
            "type": kind, "run_id": run_id, "thread_id": "t", "agent_name": f"agent {run_id}",
            "timestamp": f"2026-11-23T01:45:49.{self._ms % 1000:03d}Z", "payload": payload,
        }  # fmt: skip
        if parent is not None:
            event["parent_run_id"] = parent
        if self.attempt > 1 and run_id == "r":
            event["attempt"] = self.attempt
        if kind == "agent_started" and run_id == "r":
            self.texts.clear()
        if kind == "agent_completed":
            self.texts.pop(run_id, None)
        self.items.append(Frame(orjson.dumps(event), b"%d-0" % (1000 + self._ms), event))

    def write(self, text: str, run_id: str = "r") -> None:
        begin = len(self.texts.get(run_id, "").encode())
        self.texts[run_id] = self.texts.get(run_id, "") + text
        self.items.append(delta(run_id, begin, text))

    def think(self, thoughts: str, run_id: str = "r", **more: Any) -> None:
        self.log("agent_thinking", {"thoughts": thoughts, **more}, run_id)

    def call(self, call_id: str, run_id: str = "r") -> None:
        payload = {"tool": "look", "call_id": call_id, "status": "running", "parameters": {"n": 1}}
        self.log("tool_executing", payload, run_id)

    def back(self, call_id: str, run_id: str = "r", *, success: bool = True) -> None:
        payload = {"tool": "look", "call_id": call_id, "success": success, "duration_ms": 1}
        payload["result"] = {"rows": 3} if success else None
        if not success:
            payload["error"] = {"code": "tool_failed", "message": "no"}
        self.log("tool_completed", payload, run_id)

    def end(self, response: Any, run_id: str = "r", status: str = "succeeded", **more: Any) -> None:
        payload = {"response": response, "complete": True, "status": status, "duration_ms": 1}
        self.log("agent_completed", {**payload, "missing": [], **more}, run_id)

    def ask(self, request_id: str, run_id: str = "r") -> None:
        payload = {"request_id": request_id, "prompt": "Go on?", "schema": {"type": "boolean"}}
        self.log("input_required", {**payload, "expires_at": "2026-11-23T02:00:00.000Z"}, run_id)


def delta(run_id: str, begin: int, text: str) -> Frame:
    end = begin + len(text.encode())
    fields = {
        "type": "agent_delta", "run_id": run_id, "thread_id": "t", "agent_name": "a",
        "payload": {"offset": begin, "next": end, "text": text},
    }  # fmt: skip
    return Frame(orjson.dumps(fields), b"", fields)


def accepted(*, duplicate: bool = False) -> Frame:
    fields = {"type": "run_accepted", "payload": {"run_id": "r", "duplicate": duplicate}}
    return Frame(orjson.dumps(fields), b"", fields)


def control(kind: str, **payload: Any) -> Frame:
    return Frame(b"", b"", {"type": kind, "payload": payload})


def started() -> Timeline:
    line = Timeline()
    line.log("user_message", {"content": "hi", "message_id": "m", "metadata": {}})
    line.log("agent_started", {"message": "begun"})
    return line


def read(
    items: Sequence[Frame],
    last: str | None = None,
    asked: Asked = ASKED,
    *,
    duplicate: bool = False,
) -> tuple[Agui, list[Said]]:
    agui = Agui(asked, RUN, last)
    told = list(agui.control(accepted(duplicate=duplicate)))
    for frame in items:
        told += agui.event(frame)
    return agui, told


def decoded(told: Sequence[Said]) -> list[Event]:
    return [orjson.loads(text) for text, _ in told]


def kinds(told: Sequence[Said]) -> list[str]:
    return [event["type"] for event in decoded(told)]


def one(told: Sequence[Said], kind: str) -> Event:
    (found,) = [event for event in decoded(told) if event["type"] == kind]
    return found


def shown(*connections: Sequence[Said]) -> Shown:
    page = Shown()
    for told in connections:
        for text, position in told:
            page.take(orjson.loads(text), position.decode())
    return page


def test_a_whole_run() -> None:
    line = started()
    line.think("hm", step=1)
    line.call("c1")
    line.call("c2")
    line.back("c2", success=False)
    line.back("c1")
    line.write("Grüße, ")
    line.write("you")
    line.end("Grüße, you", usage={"input_tokens": 3, "model": "m", "cost": 1.5})
    _, told = read(line.items)
    check_stream(decoded(told))
    assert kinds(told) == [
        "RUN_STARTED",
        "REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END", "REASONING_END",
        "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END",
        "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END",
        "TOOL_CALL_RESULT", "TOOL_CALL_RESULT",
        "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]  # fmt: skip
    first, end = decoded(told)[0], decoded(told)[-1]
    assert (first["runId"], first["threadId"], first["protocolVersion"]) == ("m", "t", "1.0")
    assert first["metadata"]["runcast"]["run_id"] == "r"
    assert end["outcome"] == {"type": "success"}
    assert end["result"] == "Grüße, you"
    assert end["usage"] == [{"inputTokens": 3, "model": "m"}]
    failed, well = [each for each in decoded(told) if each["type"] == "TOOL_CALL_RESULT"]
    assert failed["metadata"]["isError"]
    assert orjson.loads(failed["content"])["error"]["code"] == "tool_failed"
    assert orjson.loads(well["content"]) == {"rows": 3}
    assert "isError" not in well["metadata"]


def test_each_event_has_its_position_as_id_and_in_its_metadata() -> None:
    line = started()
    line.think("hm")
    line.write("text")
    line.end("text")
    _, told = read(line.items)
    positions = [raw.decode() for _, raw in told if raw]
    assert len(set(positions)) == len(positions) == len(told)
    for text, position in told:
        about = orjson.loads(text).get("metadata", {}).get("runcast", {})
        assert about.get("cursor", "") == position.decode()
    for written in positions:
        assert Agui.position(written) == parse(written).cursor


@pytest.mark.parametrize(
    ("status", "kind", "outcome"),
    [
        ("cancelled", "RUN_FINISHED", {"type": "cancelled"}),
        ("failed", "RUN_ERROR", None),
        ("abandoned", "RUN_ERROR", None),
    ],
)
def test_ends_without_success(status: str, kind: str, outcome: Any) -> None:
    line = started()
    line.write("half")
    line.end(None, status=status, error={"code": "worker_lost", "message": "gone"})
    _, told = read(line.items)
    check_stream(decoded(told))
    end = decoded(told)[-1]
    assert (end["type"], end.get("outcome")) == (kind, outcome)
    if kind == "RUN_ERROR":
        assert (end["code"], end["message"]) == ("worker_lost", "gone")


def test_thoughts_are_reasoning_and_progress_is_an_activity() -> None:
    line = started()
    line.think("", progress=0.5, step=2)
    line.think("both", progress=0.75)
    _, told = read(line.items)
    check_stream(decoded(told), whole=False)
    page = shown(told)
    assert list(page.thoughts.values()) == ["both"]
    assert page.activities == {"r:progress": {"thoughts": "both", "progress": 0.75}}


@pytest.mark.parametrize(
    ("written", "response", "said"),
    [
        ("", "all of it", {"r": "all of it"}),
        ("the be", "the beginning", {"r": "the beginning"}),
        ("the whole", "the whole", {"r": "the whole"}),
        ("draft", "fünal", {"r": "draftfünal"}),
        ("longer than that", "short", {"r": "longer than thatshort"}),
        ("written", {"rows": 3}, {"r": "written"}),
    ],
)
def test_what_was_never_streamed_is_shown_and_nothing_twice(
    written: str, response: Any, said: dict[str, str]
) -> None:
    line = started()
    if written:
        line.write(written)
    line.end(response)
    _, told = read(line.items)
    check_stream(decoded(told))
    assert shown(told).said() == said
    assert one(told, "RUN_FINISHED")["result"] == response


def test_a_tool_call_ends_the_message_and_text_after_it_is_another() -> None:
    line = started()
    line.write("Let me see.")
    line.call("c1")
    line.back("c1")
    line.write("Three.")
    line.end("Let me see.Three.")
    _, told = read(line.items)
    assert shown(told).texts == {"r:text-0": "Let me see.", "r:text-11": "Three."}


def test_text_comes_whole_again_and_is_not_told_again() -> None:
    line = started()
    line.write("one ")
    again = delta("r", 0, "one two ")
    _, told = read([*line.items, again, delta("r", 4, "two "), delta("r", 8, "three"), again])
    assert shown(told).said() == {"r": "one two three"}


def test_a_new_attempt_makes_what_was_open_and_said_void() -> None:
    line = started()
    line.write("half a sent")
    line.call("c1")
    line.log("agent_started", {"message": "x"}, "child", "r")
    line.attempt = 2
    line.log("agent_started", {"message": "again"})
    line.write("anew")
    line.end("the child's", "child")  # its parent is not there any more
    line.end("anew")
    _, told = read(line.items)
    check_stream(decoded(told))
    page = shown(told)
    assert page.said() == {"r.2": "anew"}
    assert page.calls == {}
    assert page.subagents == {"child": "SUBAGENT_ERROR"}
    assert ("runcast.new_attempt", {"attempt": 2}) in page.custom
    assert one(told, "MESSAGES_SNAPSHOT")["messages"] == [USER]


def test_what_is_open_when_the_run_ends_is_given_up() -> None:
    line = started()
    line.log("agent_started", {"message": "x"}, "child", "r")
    line.write("half", "child")
    line.call("c1", "child")
    line.end(None, status="cancelled")
    _, told = read(line.items)
    page = shown(told)
    assert page.subagents == {"child": "SUBAGENT_ERROR"}
    assert all("run_ended" in call["result"] for call in page.calls.values())
    check_stream(decoded(told))


def test_sub_agents() -> None:
    line = started()
    line.log("agent_started", {"message": "x"}, "child", "r")
    line.log("agent_started", {"message": "x"}, "grandchild", "child")
    line.think("deep", "grandchild")
    line.write("from below", "grandchild")
    line.end("from below", "grandchild")
    line.end(None, "child", status="failed", error={"code": "raised", "message": "no"})
    line.end("back")
    _, told = read(line.items)
    check_stream(decoded(told))
    page = shown(told)
    assert page.subagents == {"grandchild": "SUBAGENT_FINISHED", "child": "SUBAGENT_ERROR"}
    assert page.said() == {"r:grandchild": "from below", "r": "back"}
    nested = [e for e in decoded(told) if e.get("parentSubagentRunId")]
    assert [e["subagentRunId"] for e in nested] == ["grandchild"]
    assert all(
        event.get("subagentRunId") == "grandchild"
        for event in decoded(told)
        if "grandchild:" in str(event.get("messageId"))
    )


def test_what_others_do_to_the_run_is_told_as_custom_events() -> None:
    line = started()
    line.log("stop_requested", {})
    line.end(None, status="cancelled")
    _, told = read(line.items)
    assert shown(told).custom == [("runcast.stop_requested", {})]


# --- questions


def test_a_question_ends_the_stream_and_its_answer_begins_the_next() -> None:
    line = started()
    line.write("Before. ")
    line.log("agent_started", {"message": "x"}, "child", "r")
    line.ask("q", "child")
    agui, told = read(line.items)
    assert agui.waits_until_ms == 1795399200000
    told += agui.leave()
    check_stream(decoded(told))
    assert agui.ended
    end = decoded(told)[-1]
    (interrupt,) = end["outcome"]["interrupts"]
    assert interrupt["message"] == "Go on?"
    assert interrupt["responseSchema"] == {"type": "boolean"}
    assert interrupt["expiresAt"] == "2026-11-23T02:00:00.000Z"
    assert interrupt["subagentRunId"] == "child"
    assert one(told, "SUBAGENT_FINISHED")["outcome"]["interruptIds"] == [interrupt["id"]]

    named = interrupt_of(interrupt["id"])
    assert (named.run_id, named.asker, named.request_id) == ("r", "child", "q")
    answer = Answer(named, {"go": True}, cancelled=False)
    asked = Asked(thread_id="t", run_id="m2", parent_run_id="m", messages=[USER], answers=[answer])
    line.log("user_input", {"request_id": "q", "content": True}, "child")
    line.end("done", "child")
    line.write("After.")
    line.end("Before. After.")
    replayed = [f for f in line.items if f.cursor]
    _, more = read(replayed, named.position, asked)
    check_stream(decoded(more))
    assert decoded(more)[0]["runId"] == "m2"
    assert decoded(more)[0]["parentRunId"] == "m"
    assert one(more, "SUBAGENT_STARTED")["subagentRunId"] == "child"
    page = shown(more)
    assert page.said() == {"r": "After.", "r:child": "done"}


def test_what_was_answered_or_given_up_is_not_asked_again() -> None:
    line = started()
    line.ask("q")
    agui, told = read(line.items)
    interrupt = list(agui.leave())[-1]
    named = interrupt_of(orjson.loads(interrupt[0])["outcome"]["interrupts"][0]["id"])
    asked = Asked(
        thread_id="t", run_id="m2", messages=[USER], answers=[Answer(named, None, cancelled=True)]
    )
    late, _ = read(line.items, named.position, asked)  # nobody waits for it any more
    assert not late.waits_until_ms
    line.log("user_input", {"request_id": "q", "content": 1})
    other, told = read(line.items)
    assert not other.waits_until_ms
    assert ("runcast.user_input", {"request_id": "q", "content": 1}) in shown(told).custom


# --- being cut off


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (control("closing", code=1001, reason="going away"), ASK_AGAIN),
        (control("closing", code=4503, reason="broker unavailable"), ASK_AGAIN),
        (control("closing", code=4403, reason="forbidden"), CLOSED),
        (control("resync", reason="expired"), ASK_AGAIN),
    ],
)
def test_no_end_is_silent(frame: Frame, code: str) -> None:
    line = started()
    line.write("half")
    agui, told = read(line.items)
    told += agui.control(frame)
    check_stream(decoded(told))
    assert decoded(told)[-1]["code"] == code
    assert agui.ended
    assert list(agui.event(line.items[0])) == []
    assert list(agui.control(frame)) == []


def test_other_control_frames_are_nothing_to_the_client() -> None:
    agui, _ = read([])
    assert list(agui.control(control("draining", reconnect_after_ms=1))) == []


def test_whoever_has_parts_of_the_run_already_gets_it_anew() -> None:
    line = started()
    line.write("half")
    mine = {"id": "r:text-0", "role": "assistant", "content": "ha"}
    thought = {"id": "r:thought-5-0", "role": "reasoning", "content": "hm"}
    asked = Asked(thread_id="t", run_id="m", messages=[USER, thought, mine])
    _, told = read(line.items, None, asked, duplicate=True)
    assert kinds(told)[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    assert one(told, "MESSAGES_SNAPSHOT")["messages"] == [USER, {**thought, "content": ""}]
    _, told = read(line.items, None, ASKED, duplicate=True)
    assert "MESSAGES_SNAPSHOT" not in kinds(told)


def test_whoever_joins_gets_the_conversation_before_the_run() -> None:
    line = started()
    asked = Asked(thread_id="t", run_id="m", messages=[USER], joins=True)
    _, told = read(line.items, None, asked)
    check_stream(decoded(told), whole=False)
    assert one(told, "MESSAGES_SNAPSHOT")["messages"] == [USER]
    _, told = read(line.items, "1001-0", asked)
    assert "MESSAGES_SNAPSHOT" not in kinds(told)


def test_a_run_that_ended_tells_its_end_to_whoever_has_it_already() -> None:
    line = started()
    line.end("done")
    _, told = read(line.items)
    _, again = read(line.items, told[-1][1].decode())
    check_stream(decoded(again))
    assert kinds(again) == ["RUN_STARTED", "RUN_FINISHED"]


def test_what_somebody_else_wrote_into_the_log_is_left_out() -> None:
    line = started()
    bad: list[dict[str, Any]] = [
        {"type": "agent_thinking", "run_id": "r", "agent_name": "a", "payload": {}},
        {"type": "agent_thinking", "run_id": "r", "agent_name": "a"},
        {"type": "agent_delta", "run_id": "r", "agent_name": "a", "payload": {"offset": "0"}},
        {"run_id": "r"},
    ]
    frames = [Frame(b"", cursor, fields) for fields in bad for cursor in (b"9-0", b"")]
    _, told = read([*line.items, *frames])
    assert kinds(told) == ["RUN_STARTED"]


WORDS: Final = st.text(alphabet="aé€😀", min_size=1, max_size=4)


class Author:
    """Has a run do one lawful thing after the other, as drawn."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.line = draw, started()
        self.parents = {"r": ""}
        self.calls: list[tuple[str, str]] = []
        self.said: dict[str, str] = {}
        self.names = 0

    def some_run(self) -> str:
        return self.draw(st.sampled_from(sorted(self.parents)))

    def name(self, letter: str) -> str:
        self.names += 1
        return f"{letter}{self.names}"

    def write(self) -> None:
        run_id, text = self.some_run(), self.draw(WORDS)
        self.said[run_id] = self.said.get(run_id, "") + text
        self.line.write(text, run_id)

    def think(self) -> None:
        self.line.think(self.draw(st.sampled_from(["", "hm"])), self.some_run(), progress=0.5)

    def call(self) -> None:
        self.calls.append((self.some_run(), self.name("c")))
        self.line.call(self.calls[-1][1], self.calls[-1][0])

    def back(self) -> None:
        if self.calls:
            run_id, call_id = self.calls.pop()
            self.line.back(call_id, run_id, success=self.draw(st.booleans()))

    def delegate(self) -> None:
        parent, child = self.some_run(), self.name("s")
        self.parents[child] = parent
        self.line.log("agent_started", {"message": ""}, child, parent)

    def end_one(self) -> None:
        run_id = self.some_run()
        if run_id != "r" and run_id not in self.parents.values():
            self.finish(run_id)

    def others(self) -> None:
        kind = self.draw(st.sampled_from(["stop_requested", "agent_unknown"]))
        self.line.log(kind, {}, self.some_run())

    def begin_again(self) -> None:
        self.line.attempt += 1
        self.calls.clear()
        self.said.clear()
        self.parents = {"r": ""}
        self.line.log("agent_started", {"message": ""})

    def finish(self, run_id: str) -> None:
        for call in [call for call in self.calls if call[0] == run_id]:
            self.calls.remove(call)
            self.line.back(call[1], run_id, success=False)
        if self.draw(st.booleans()):
            whole = self.said.pop(run_id, "")
            response = self.draw(st.sampled_from([whole, whole + "é!", "another", {"rows": 1}]))
            if response in (whole, whole + "é!") and run_id == "r":
                self.line.response = response
            self.line.end(response, run_id)
        else:
            status = self.draw(st.sampled_from(["failed", "cancelled"]))
            self.line.end(None, run_id, status=status)
        del self.parents[run_id]

    def finish_all(self) -> None:
        while self.parents:
            leaves = [run for run in self.parents if run not in self.parents.values()]
            self.finish(leaves[-1])


STEPS: Final = (
    Author.write, Author.write, Author.write, Author.think, Author.call, Author.call, Author.back,
    Author.delegate, Author.end_one, Author.others, Author.begin_again,
)  # fmt: skip


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Anything that a run may do, to its end."""
    author = Author(draw)
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=14)):
        step(author)
    author.finish_all()
    return author.line


def texts_until(items: Sequence[Frame]) -> list[Frame]:
    """The kept text of each run that has not ended, as one that attaches gets it."""
    kept: dict[str, str] = {}
    for frame in items:
        kind, run_id = frame.fields["type"], frame.fields["run_id"]
        if kind == "agent_delta":
            kept[run_id] = kept.get(run_id, "") + frame.fields["payload"]["text"]
        elif kind == "agent_started":
            kept.pop(run_id, None)
            if run_id == "r":
                kept.clear()
        elif kind == "agent_completed":
            kept.pop(run_id, None)
    return [delta(run_id, 0, text) for run_id, text in kept.items()]


def come_back(page: Shown, line: Timeline, text: str) -> None:
    """The client that has this page reads the log and the kept text, from its position on."""
    log = [frame for frame in line.items if frame.cursor]
    asked = Asked(thread_id="t", run_id="m", messages=[USER], resumed=True)
    _, told = read([*log, delta("r", 0, text)], page.last, asked)
    check_stream(decoded(told), whole=False)
    for each, position in told:
        page.take(orjson.loads(each), position.decode())


def test_cut_behind_the_beginning_of_a_message_it_is_not_begun_again() -> None:
    """It was told without a position: who was cut off there was told it twice."""
    line = started()
    line.write("text")
    _, told = read(line.items)
    page = shown(told[:-1])
    assert page.texts == {"r:text-0": ""}
    come_back(page, line, "text and more")
    assert page.texts == {"r:text-0": "text and more"}


def test_text_of_a_message_that_was_begun_comes_into_it_also_after_a_call() -> None:
    """Its message was ended at the call, and begun a second time under the same id."""
    line = started()
    line.write("text")
    _, told = read(line.items)
    page = shown(told[:-1])
    line.call("c1")
    come_back(page, line, "text")
    assert page.texts == {"r:text-0": "text"}


@pytest.mark.timeout(300)  # a hundred runs, each cut up to three times
@given(timelines(), st.data())
def test_cut_anywhere_and_resumed_it_is_the_same_run(line: Timeline, data: st.DataObject) -> None:
    """Each response is lawful by itself, and together they show what one shows that was not cut."""
    _, whole = read(line.items)
    check_stream(decoded(whole))
    cuts = data.draw(st.lists(st.integers(0, len(line.items)), max_size=3).map(sorted))
    page, last, before = Shown(), None, 0
    for cut in [*cuts, len(line.items)]:
        # What a gateway reads when the client is back is not older than what the client has.
        joined, before = data.draw(st.integers(before, cut)), cut
        log = [frame for frame in line.items[:joined] if frame.cursor]
        late = [*log, *texts_until(line.items[:joined]), *line.items[joined:cut]]
        asked = Asked(thread_id="t", run_id="m", messages=[USER], resumed=last is not None)
        _, told = read(late, last, asked)
        check_stream(decoded(told), whole=False)
        if cut < len(line.items):
            told = told[: data.draw(st.integers(1, len(told)))]
        for text, position in told:
            page.take(orjson.loads(text), position.decode())
        last = page.last
    want = shown(whole)
    assert page.state() == want.state()
    for run_id, said in page.said().items():
        assert is_part(said, want.said()[run_id])  # what was kept of an ended run is its response
    if line.response is not None:
        scope = "r" if line.attempt == 1 else f"r.{line.attempt}"
        assert page.said().get(scope, "") == want.said().get(scope, "") == line.response


def is_part(text: str, whole: str) -> bool:
    """Whether nothing of the text is more than once in it, nor out of order."""
    rest = iter(whole)
    return all(character in rest for character in text)
