"""The judge of the chaos tests: it finds each kind of breach, and nothing in a clean history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.history import (
    Emission,
    Entry,
    Epoch,
    Excuses,
    Frame,
    History,
    Kind,
    Outcome,
    Place,
    Reader,
    RunRecord,
    Violation,
    check,
    cursor,
    describe,
)

ALICE = Place("user", "alice")
BOB = Place("user", "bob")
NOBODY = Place("user", "nobody")
THREAD = Place("thread", "alice", "t")

Step = tuple[str, str]
"""(run, what): ``start``, ``end``, ``message``, or the marker of a thought."""


def entries(place: Place, steps: Sequence[Step], *, first: int = 1) -> list[Entry]:
    """A log that holds these steps, with ids of numbers that a string comparison would disorder."""
    seqs: dict[str, int] = {}
    log = []
    kinds = {"start": "agent_started", "end": "agent_completed", "message": "user_message"}
    for number, (run, what) in enumerate(steps, first):
        seq = None
        if what != "message":
            seq = seqs[run] = seqs.get(run, 0) + 1
        kind = kinds.get(what, "agent_thinking")
        marker = what if kind == "agent_thinking" else None
        log.append(Entry(f"{number}-{number % 3}", run, seq, kind, thread_of(run), marker))
    return log


def thread_of(run: str) -> str:
    return f"t{len(run)}"


def event(place: Place, entry: Entry) -> dict[str, Any]:
    """As a client gets it."""
    frame: dict[str, Any] = {
        "type": entry.type,
        "id": entry.id,
        "user_id": place.user,
        "thread_id": entry.thread,
        "run_id": entry.run_id,
        "payload": {} if entry.marker is None else {"thoughts": entry.marker},
    }
    return frame if entry.seq is None else {**frame, "seq": entry.seq}


def hello(at: str = "0-0") -> Frame:
    return {"type": "connection_established", "payload": {"cursor": at}}


def resync(reason: str, start: str, now: str = "0-0") -> Frame:
    payload = {"reason": reason, "from": start, "channel_cursor": now}
    return {"type": "resync", "payload": payload}


LIVE: Frame = {"type": "live", "payload": {"cursor": "0-0"}}

STEPS: list[Step] = [
    ("a", "message"), ("a", "start"), ("a", "a1"), ("bb", "start"), ("a", "a2"), ("bb", "b1"),
    ("bb", "b2"), ("bb", "end"), ("a", "a3"), ("a", "end"),
]  # fmt: skip


def whole(
    steps: Sequence[Step] = STEPS,
    *,
    place: Place = ALICE,
    outcomes: dict[str, Outcome] | None = None,
) -> History:
    """One client that was there all the time and got everything."""
    log = entries(place, steps)
    epoch = Epoch(None, [hello(), LIVE, *(event(place, entry) for entry in log)], frozenset({"r"}))
    emissions: list[Emission] = []
    for entry in log:
        outcome = (outcomes or {}).get(entry.marker or "", Outcome.OK)
        if entry.marker is not None and entry.marker not in {each.marker for each in emissions}:
            told = entry.id if outcome is Outcome.OK else None
            emissions.append(Emission(entry.run_id, entry.marker, outcome, told))
    return History(
        runs={run: RunRecord(run, place, thread_of(run)) for run, _ in steps},
        emissions=emissions,
        readers=[Reader("one", place, [epoch])],
        logs={place: log},
    )


def received(history: History, change: Callable[[list[Frame]], object]) -> History:
    """The same, with the one client's frames changed."""
    reader = history.readers[0]
    frames = list(reader.epochs[0].frames)
    change(frames)
    epoch = replace(reader.epochs[0], frames=frames)
    return replace(history, readers=[replace(reader, epochs=[epoch])])


def at(number: int) -> int:
    """Where the frame of the log's ``number``-th entry (from 0) stands."""
    return number + 2


def kinds(history: History) -> set[Kind]:
    return {violation.kind for violation in check(history)}


# --- clean histories


def test_a_clean_history_has_no_violation() -> None:
    assert check(whole()) == []


@st.composite
def interleaved(draw: st.DrawFn) -> list[Step]:
    """Runs of one channel, each whole, in any interleaving."""
    waiting = [
        [(run, "message")] * draw(st.integers(0, 1))
        + [
            (run, "start"),
            *((run, f"{run}{n}") for n in range(draw(st.integers(0, 3)))),
            (run, "end"),
        ]
        for run in ("a", "bb", "ccc")[: draw(st.integers(1, 3))]
    ]
    steps = []
    while waiting:
        chosen = draw(st.sampled_from(waiting))
        steps.append(chosen.pop(0))
        waiting = [run for run in waiting if run]
    return steps


@given(interleaved(), st.data())
def test_reconnects_resumes_and_resyncs_are_clean(steps: list[Step], data: st.DataObject) -> None:
    """A client comes and goes as it likes: with its cursor, an earlier one, none, a bad one, or one
    that is too old; filtered to a thread or not."""
    history = whole(steps)
    log = list(history.logs[ALICE])
    thread = data.draw(st.sampled_from([None, thread_of("a"), "another"]))
    position, epochs = 0, []
    for last in (False, False, True):
        how = data.draw(st.sampled_from(["resume", "earlier", "none", "bad", "old", "zero"]))
        ahead = data.draw(st.integers(position, len(log)))
        to = len(log) if last else data.draw(st.integers(ahead, len(log)))
        start, after = position, log[position - 1].id if position else "0-0"
        frames = [hello()]
        match how:
            case "earlier":
                start = data.draw(st.integers(0, position))
                after = log[start - 1].id if start else "0-0"
            case "zero":
                start, after = 0, "0-0"
            case "none":
                start = ahead
                frames = [hello(log[start - 1].id if start else "0-0")]
            case "bad":
                start, after = ahead, "rubbish"
                frames += [resync("unknown_cursor", log[start - 1].id if start else "0-0")]
            case "old":
                start = 0
                frames += [resync("expired", "0-0")]
        given_after = None if how == "none" else after
        shown = [entry for entry in log[start:to] if thread in (None, entry.thread)]
        frames += [*(event(ALICE, entry) for entry in shown), LIVE]
        epochs.append(Epoch(given_after, frames))
        position = to
    reader = Reader("wanderer", ALICE, epochs, thread)
    assert check(replace(history, readers=[*history.readers, reader])) == []


def test_what_was_trimmed_from_a_full_log_is_no_breach() -> None:
    history = whole()
    log = history.logs[ALICE]
    kept = replace(history, logs={ALICE: log[4:]}, excuses=Excuses(retention=len(log) - 4))
    assert check(kept) == []
    assert kinds(replace(kept, excuses=Excuses())) == {Kind.NOT_IN_LOG, Kind.UNTOLD}


def test_a_client_that_left_need_not_have_everything() -> None:
    history = received(whole(), lambda frames: frames.__delitem__(slice(at(4), None)))
    assert kinds(history) == {Kind.LOST}
    gone = replace(history, readers=[replace(history.readers[0], connected=False)])
    assert check(gone) == []


def test_a_promoted_log_without_its_tail_is_excused_when_it_was_told() -> None:
    """The client had a3 and the end; the log takes both back, the run goes on, a resync says so."""
    before = whole()
    shared = before.logs[ALICE][:8]
    rest = entries(ALICE, [("a", "a3"), ("a", "end")], first=50)
    new = [*shared, *(replace(entry, seq=n) for n, entry in enumerate(rest, 4))]
    told = [resync("forked", shared[-1].id), *(event(ALICE, entry) for entry in new[8:])]
    after = replace(
        received(before, lambda frames: frames.extend(told)),
        logs={ALICE: new},
        excuses=Excuses(rolled_back=True),
    )
    assert check(after) == []
    assert kinds(replace(after, excuses=Excuses())) == {Kind.NOT_IN_LOG}
    untold = received(after, lambda frames: frames.remove(told[0]))
    assert kinds(untold) == {Kind.DOUBLED, Kind.UNTOLD}


def test_a_run_that_vanished_with_all_data_is_excused() -> None:
    history = whole([("a", "start"), ("a", "a1")])
    lost = received(history, lambda frames: frames.append(resync("expired", "0-0")))
    lost = replace(lost, logs={}, excuses=Excuses(rolled_back=True))
    assert check(lost) == []
    assert kinds(replace(lost, excuses=Excuses())) == {Kind.NOT_IN_LOG, Kind.NO_TERMINAL}


@pytest.mark.parametrize(
    ("reason", "start", "covered"),
    [("expired", "0-0", True), ("forked", "2-2", True), ("forked", "6-0", False)],
)
def test_a_resync_covers_what_the_log_no_longer_has(
    reason: str, start: str, *, covered: bool
) -> None:
    """Acknowledged, trimmed since, and never delivered to this client."""
    history = whole()
    log = history.logs[ALICE]
    frames = [hello(), resync(reason, start), *(event(ALICE, entry) for entry in log[6:]), LIVE]
    reader = Reader("late", ALICE, [Epoch("1-1", frames)])
    trimmed = replace(
        history, readers=[reader], logs={ALICE: log[6:]}, excuses=Excuses(retention=4)
    )
    assert kinds(trimmed) == (set() if covered else {Kind.LOST})
    untold = replace(
        reader, epochs=[Epoch("1-1", [frame for frame in frames if frame != frames[1]])]
    )
    assert kinds(replace(trimmed, readers=[untold])) == {Kind.LOST}


def test_who_asks_for_everything_gets_what_is_retained() -> None:
    history = whole()
    log = history.logs[ALICE]
    frames = [hello(), *(event(ALICE, entry) for entry in log[6:]), LIVE]
    reader = Reader("all", ALICE, [Epoch("0-0", frames)])
    trimmed = replace(
        history, readers=[reader], logs={ALICE: log[6:]}, excuses=Excuses(retention=4)
    )
    assert check(trimmed) == []


# --- planted breaches: exactly the kind that was planted is found


def delta(offset: int, text: str) -> Frame:
    payload = {"offset": offset, "next": offset + len(text.encode()), "text": text}
    return {"type": "agent_delta", "run_id": "a", "thread_id": "t1", "payload": payload}


BAD_DELTA = {"offset": 0, "next": 2, "text": "x"}


def replied(ref: str | None, kind: str = "run_accepted") -> Frame:
    return {"type": kind, "ref": ref, "payload": {"run_id": "a", "thread_id": "t1"}}


PLANTED_IN_FRAMES: list[tuple[Kind, Callable[[list[Frame]], object]]] = [
    (Kind.LOST, lambda frames: frames.pop(at(2))),
    (Kind.LOST, lambda frames: frames.pop()),
    (Kind.DOUBLED, lambda frames: frames.insert(at(3), frames[at(2)])),
    (Kind.DOUBLED, lambda frames: frames.append(frames[at(2)])),
    (Kind.DOUBLED, lambda frames: frames.append(frames[at(0)])),
    (Kind.OUT_OF_ORDER, lambda frames: frames.insert(at(2), frames.pop(at(3)))),
    (Kind.OUT_OF_ORDER, lambda frames: frames.insert(at(1), frames.pop(at(2)))),
    (Kind.LEAKED, lambda frames: frames.append(event(BOB, entries(BOB, [("bobs", "start")])[0]))),
    (Kind.LEAKED, lambda frames: frames.append(event(BOB, entries(BOB, [("none", "start")])[0]))),
    (Kind.LEAKED, lambda frames: frames.append({**frames[at(1)], "user_id": "bob"})),
    (Kind.LEAKED, lambda frames: frames.append({**frames[at(1)], "thread_id": "another"})),
    (Kind.LEAKED, lambda frames: frames.append(replied("not mine"))),
    (Kind.LEAKED, lambda frames: frames.append(replied(None))),
    (Kind.LEAKED, lambda frames: frames.append(replied("not mine", "error"))),
    (Kind.AFTER_TERMINAL, lambda frames: frames.append(delta(0, "x"))),
    (Kind.TORN, lambda frames: frames.insert(at(4), delta(1, "x"))),
    (Kind.TORN, lambda frames: frames.insert(at(4), {**delta(0, "x"), "payload": BAD_DELTA})),
]


@pytest.mark.parametrize(("kind", "plant"), PLANTED_IN_FRAMES)
def test_what_is_planted_into_a_clients_frames_is_found(
    kind: Kind, plant: Callable[[list[Frame]], object]
) -> None:
    history = whole()
    bobs = {"bobs": RunRecord("bobs", BOB, thread_of("bobs"), accepted=False)}
    history = replace(history, runs={**history.runs, **bobs})
    assert kinds(received(history, plant)) == {kind}


@pytest.mark.parametrize("ref", ["r", None])
def test_ones_own_replies_and_errors_without_an_id_are_no_leak(ref: str | None) -> None:
    frames = [replied(ref, "error"), *([replied(ref)] if ref else [])]
    history = received(whole(), lambda old: old.__setitem__(slice(2, 2), frames))
    assert check(history) == []


@pytest.mark.parametrize(
    ("response", "torn"), [("häh", False), ("hähä", False), (None, False), ("h", True), ("x", True)]
)
def test_streamed_text_is_continuous_and_begins_the_response(
    response: str | None, *, torn: bool
) -> None:
    """It may begin anew at 0, and a lost end of it is in the response."""
    deltas = [delta(0, "x"), delta(0, "hä"), delta(3, "h")]

    def stream(frames: list[Frame]) -> None:
        frames[at(9)] = {**frames[at(9)], "payload": {"response": response}}
        frames[at(3) : at(3)] = deltas

    assert kinds(received(whole(), stream)) == ({Kind.TORN} if torn else set())


def test_streamed_text_begins_anew_on_each_connection() -> None:
    """What a client had of it on the connection before does not count."""
    log = entries(ALICE, STEPS)
    first = Epoch(None, [hello(), LIVE, *(event(ALICE, e) for e in log[:3]), delta(0, "ab")])
    rest = [event(ALICE, entry) for entry in log[3:]]
    whole_again = Epoch(log[2].id, [hello(), LIVE, delta(0, "abc"), *rest])
    goes_on = Epoch(log[2].id, [hello(), LIVE, delta(2, "c"), *rest])
    reader = Reader("one", ALICE, [first, whole_again])
    assert check(replace(whole(), readers=[reader])) == []
    torn = replace(reader, epochs=[first, goes_on])
    assert kinds(replace(whole(), readers=[torn])) == {Kind.TORN}


def test_an_event_of_another_thread_is_a_leak_to_who_asked_for_one_thread() -> None:
    history = whole()
    reader = replace(history.readers[0], thread=thread_of("a"))
    assert kinds(replace(history, readers=[reader])) == {Kind.LEAKED}


@pytest.mark.parametrize(
    ("kind", "steps", "outcomes"),
    [
        (Kind.AFTER_TERMINAL, [("a", "start"), ("a", "end"), ("a", "a1")], {}),
        (Kind.TWO_TERMINALS, [("a", "start"), ("a", "end"), ("a", "end")], {}),
        (Kind.NO_TERMINAL, [("a", "start"), ("a", "a1")], {}),
        (
            Kind.UNKNOWN_TWICE,
            [("a", "start"), ("a", "a1"), ("a", "a1"), ("a", "end")],
            {"a1": Outcome.UNKNOWN},
        ),
        (Kind.DOUBLED, [("a", "start"), ("a", "a1"), ("a", "a1"), ("a", "end")], {}),
        (Kind.PHANTOM, [("a", "start"), ("a", "a1"), ("a", "end")], {"a1": Outcome.FAILED}),
    ],
)
def test_what_is_planted_into_the_log_is_found(
    kind: Kind, steps: list[Step], outcomes: dict[str, Outcome]
) -> None:
    """Log and client agree, and both are wrong."""
    history = whole(steps, outcomes=outcomes)
    assert kinds(history) == {kind}
    assert kinds(replace(history, readers=[])) == {kind}


def test_an_unknown_outcome_may_have_happened_once_or_never() -> None:
    assert check(whole(outcomes={"a1": Outcome.UNKNOWN})) == []
    never = Emission("a", "nowhere", Outcome.UNKNOWN)
    refused = Emission("a", "refused", Outcome.FAILED)
    history = whole()
    assert check(replace(history, emissions=[*history.emissions, never, refused])) == []


def test_an_acknowledged_event_that_the_log_does_not_have_is_found() -> None:
    history = whole(place=NOBODY)
    lost = Emission("a", "a0", Outcome.OK, "3-9")
    history = replace(history, readers=[], emissions=[*history.emissions, lost])
    assert kinds(history) == {Kind.NOT_IN_LOG}
    assert check(replace(history, excuses=Excuses(rolled_back=True))) == []


def test_a_publisher_that_was_told_of_somebody_elses_event_is_found() -> None:
    """The id is in the log, of the same run; it is not what this publisher said."""
    history = whole(place=NOBODY)
    mistaken = Emission("a", "zombie", Outcome.OK, history.logs[NOBODY][2].id)
    history = replace(history, readers=[], emissions=[*history.emissions, mistaken])
    assert kinds(history) == {Kind.NOT_IN_LOG}


def test_a_retry_whose_event_is_trimmed_has_no_id() -> None:
    history = whole(place=NOBODY)
    retried = Emission("a", "trimmed", Outcome.OK, None)
    history = replace(history, readers=[], emissions=[*history.emissions, retried])
    assert check(history) == []


def test_a_log_whose_seq_does_not_increase_is_found() -> None:
    log = entries(THREAD, STEPS)
    again = [*log[:3], replace(log[2], id="3-9", marker=None), *log[3:]]
    swapped = [*log[:2], replace(log[4], id="2-8"), replace(log[2], id="2-9"), *log[5:]]
    history = replace(whole(place=THREAD), readers=[])
    assert kinds(replace(history, logs={THREAD: again})) == {Kind.DOUBLED}
    ids = {entry.marker: entry.id for entry in swapped}
    emissions = [
        replace(each, id=ids[each.marker]) for each in history.emissions if each.marker in ids
    ]
    assert kinds(replace(history, logs={THREAD: swapped}, emissions=emissions)) == {
        Kind.OUT_OF_ORDER
    }


def test_the_same_thought_under_two_seqs_is_found_at_the_client() -> None:
    """The second is in the client's stream only."""
    history = whole([("a", "start"), ("a", "a1"), ("a", "a2"), ("a", "end")])

    def plant(frames: list[Frame]) -> None:
        frames[at(2)] = {**frames[at(2)], "payload": {"thoughts": "a1"}}

    assert kinds(received(history, plant)) == {Kind.DOUBLED, Kind.UNTOLD}


def test_what_the_log_took_back_must_be_told() -> None:
    history = whole(outcomes={"a2": Outcome.UNKNOWN})
    log = [entry for entry in history.logs[ALICE] if entry.marker != "a2"]
    assert kinds(replace(history, logs={ALICE: log})) == {Kind.UNTOLD}


def test_an_event_under_the_id_of_another_is_found() -> None:
    """Both ids came, in order, each run's seq increases, and the client has the one for the other.

    It would resume from a cursor that stands for what it does not have.
    """

    def swap(frames: list[Frame]) -> None:
        one, other = frames[at(3)], frames[at(4)]
        assert one["run_id"] != other["run_id"]
        frames[at(3)], frames[at(4)] = {**other, "id": one["id"]}, {**one, "id": other["id"]}

    assert kinds(received(whole(), swap)) == {Kind.UNTOLD}


@pytest.mark.parametrize("changed", [{"type": "tool_executing"}, {"payload": {"thoughts": "a0"}}])
def test_an_event_that_is_not_what_the_log_has_is_found(changed: Frame) -> None:
    def change(frames: list[Frame]) -> None:
        frames[at(2)] = {**frames[at(2)], **changed}

    assert kinds(received(whole(), change)) == {Kind.UNTOLD}


def test_an_end_that_only_a_client_has_is_one() -> None:
    """The log was idle beyond its time to live."""
    gone = replace(whole(), logs={}, emissions=[], excuses=Excuses(retention=0))
    assert kinds(replace(gone, readers=[])) == {Kind.NO_TERMINAL}
    left = replace(gone.readers[0], connected=False)
    assert check(replace(gone, readers=[left])) == []


def test_a_resync_covers_nothing_after_the_first_event_that_followed_it() -> None:
    """The log was trimmed once more later: it does not show what is missing."""
    history = whole()
    log = history.logs[ALICE]
    came = [*log[4:5], *log[6:]]  # b1 did not, and it was there then
    frames = [hello(), resync("expired", "0-0"), *(event(ALICE, entry) for entry in came)]
    reader = Reader("late", ALICE, [Epoch("1-1", frames)])
    trimmed = replace(
        history, readers=[reader], logs={ALICE: log[6:]}, excuses=Excuses(retention=4)
    )
    assert kinds(trimmed) == {Kind.LOST}


@given(st.data())
def test_any_one_missing_frame_is_found(data: st.DataObject) -> None:
    history = whole()
    lost = data.draw(st.integers(0, len(STEPS) - 1))
    assert kinds(received(history, lambda frames: frames.pop(at(lost)))) == {Kind.LOST}


@given(st.data())
def test_any_repeated_frame_is_found(data: st.DataObject) -> None:
    history = whole()
    which = data.draw(st.integers(0, len(STEPS) - 1))
    where = data.draw(st.integers(which + 1, len(STEPS)))
    doubled = received(history, lambda frames: frames.insert(at(where), frames[at(which)]))
    assert kinds(doubled) == {Kind.DOUBLED}


def test_cursors_are_compared_as_numbers() -> None:
    assert cursor("10-2") > cursor("9-11") > cursor("9-9")


def test_a_violation_says_what_and_whose() -> None:
    text = str(Violation(Kind.LOST, "client one", "Entry"))
    assert text == "lost: client one: Entry"


def test_the_description_counts_kinds_and_shows_the_first_of_each() -> None:
    found = [Violation(Kind.LOST, "one", str(n)) for n in range(5)]
    text = describe([*found, Violation(Kind.LEAKED, "two", "x")])
    assert text.splitlines() == [
        "5 x lost, 1 x leaked", "lost: one: 0", "lost: one: 1", "lost: one: 2", "leaked: two: x",
    ]  # fmt: skip
