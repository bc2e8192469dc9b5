"""Whether what happened may have: the judge of the chaos tests. Pure.

:func:`check` names every breach of the promises G1 to G5 in a history. It knows the protocol
(sections 2, 4 and 6), and nothing of the program.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from tests.support.history_values import (
    TERMINAL,
    ZERO,
    Cursor,
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
    cursor,
    full,
    is_cursor,
    marker_of,
)

__all__ = [
    "Emission", "Entry", "Epoch", "Excuses", "Frame", "History", "Kind", "Outcome", "Place",
    "Reader", "RunRecord", "Violation", "check", "cursor", "describe", "marker_of",
]  # fmt: skip

REPLIES: Final = frozenset({"run_accepted", "ok", "pong", "error"})


def check(history: History) -> list[Violation]:
    """Every breach; empty when all promises were kept."""
    emitted = Emitted(history)
    return [
        *_check_logs(history),
        *_check_emissions(history),
        *_check_ends(history),
        *(
            found
            for reader in history.readers
            for found in Walk(history, reader, emitted).violations()
        ),
    ]


def describe(violations: Sequence[Violation]) -> str:
    """How many of each kind, and the first three of each."""
    counts = Counter(violation.kind for violation in violations)
    lines = [", ".join(f"{count} x {kind}" for kind, count in counts.items())]
    for kind in counts:
        lines += [str(each)[:600] for each in violations if each.kind is kind][:3]
    return "\n".join(lines)


def _check_logs(history: History) -> Iterator[Violation]:
    for place, log in history.logs.items():
        who = f"the log of {place}"
        seqs: dict[str, int] = {}
        ended: set[str] = set()
        for entry in log:
            if entry.run_id in ended:
                kind = Kind.TWO_TERMINALS if entry.type == TERMINAL else Kind.AFTER_TERMINAL
                yield Violation(kind, who, str(entry))
            if entry.type == TERMINAL:
                ended.add(entry.run_id)
            if entry.seq is None:
                continue
            last = seqs.get(entry.run_id, 0)
            if entry.seq == last:
                yield Violation(Kind.DOUBLED, who, str(entry))
            elif entry.seq < last:
                yield Violation(Kind.OUT_OF_ORDER, who, str(entry))
            seqs[entry.run_id] = max(last, entry.seq)


def _check_emissions(history: History) -> Iterator[Violation]:
    """What publishers were told, against the logs."""
    logged = [entry for log in history.logs.values() for entry in log]
    markers = {(entry.run_id, entry.id): entry.marker for entry in logged}
    happened = Counter(entry.marker for entry in logged)
    for emission in history.emissions:
        who, times = f"run {emission.run_id}", happened[emission.marker]
        match emission.outcome:
            case Outcome.UNKNOWN if times > 1:
                yield Violation(Kind.UNKNOWN_TWICE, who, f"{emission} {times} times")
            case Outcome.FAILED if times:
                yield Violation(Kind.PHANTOM, who, str(emission))
            case Outcome.OK if times > 1:
                yield Violation(Kind.DOUBLED, who, f"{emission} {times} times in the log")
            case Outcome.OK if markers.get((emission.run_id, emission.id or "")) != emission.marker:
                if not (history.excuses.rolled_back or _trimmed(history, emission)):
                    yield Violation(Kind.NOT_IN_LOG, who, str(emission))


def _trimmed(history: History, emission: Emission) -> bool:
    """Whether it is older than what a full log keeps."""
    place = history.runs[emission.run_id].place
    oldest = history.logs[place][0].id if full(history, place) else "0-0"
    return emission.id is None or cursor(emission.id) < cursor(oldest)


def _check_ends(history: History) -> Iterator[Violation]:
    ended = {e.run_id for log in history.logs.values() for e in log if e.type == TERMINAL}
    ended |= {
        frame["run_id"]
        for reader in history.readers
        for epoch in reader.epochs
        for frame in epoch.frames
        if frame["type"] == TERMINAL
    }
    known = {entry.run_id for log in history.logs.values() for entry in log}
    for run in history.runs.values():
        vanished = history.excuses.rolled_back and run.run_id not in known
        if run.accepted and run.run_id not in ended and not vanished:
            yield Violation(Kind.NO_TERMINAL, f"run {run.run_id}", str(run.place))


class Emitted:
    """The emissions, found once for all readers: of a channel, and by their markers."""

    def __init__(self, history: History) -> None:
        self.outcomes = {each.marker: each.outcome for each in history.emissions}
        self.to: defaultdict[Place, list[Emission]] = defaultdict(list)
        for emission in history.emissions:
            self.to[history.runs[emission.run_id].place].append(emission)


class Walk:
    """Goes through what one client received, as the client did."""

    def __init__(self, history: History, reader: Reader, emitted: Emitted) -> None:
        self._history, self._reader, self._emitted = history, reader, emitted
        self._who = f"client {reader.name}"
        self._position = ZERO
        self._skipped: list[tuple[Cursor, Cursor]] = []
        """Stretches (after, up to) that it did not ask for or was told that it misses."""
        self._told: list[tuple[bool, Cursor, Cursor | None]] = []
        """Replays from elsewhere: forked or not, where they began, the first id that came."""
        self._ever: set[Cursor] = set()
        self._ever_marked: set[str | None] = {None}
        self._has: dict[Cursor, Frame] = {}
        self._texts: dict[str, bytes] = {}
        self._rewind(ZERO)

    def violations(self) -> Iterator[Violation]:
        for number, epoch in enumerate(self._reader.epochs):
            self._texts = {}
            if epoch.after is not None and is_cursor(epoch.after):
                start = cursor(epoch.after)
                if number == 0:
                    self._skipped.append((ZERO, start))
                if start == ZERO:
                    self._told.append((False, ZERO, None))
                self._rewind(start)
            for frame in epoch.frames:
                leak = self._leak(frame, epoch)
                if leak is not None:
                    yield leak
                else:
                    yield from self._take(frame, epoch)
        if self._reader.connected:
            yield from self._lost()
            yield from self._untold()

    def _take(self, frame: Frame, epoch: Epoch) -> Iterator[Violation]:
        if "id" in frame:
            yield from self._event(frame)
        elif frame["type"] == "agent_delta":
            yield from self._delta(frame)
        elif frame["type"] == "connection_established" and epoch.after is None:
            now = cursor(frame["payload"]["cursor"])
            self._skipped.append((self._position, now))
            self._rewind(now)
        elif frame["type"] == "resync":
            start, reason = cursor(frame["payload"]["from"]), frame["payload"]["reason"]
            if reason == "unknown_cursor":
                self._skipped.append((self._position, start))
            self._told.append((reason == "forked", start, None))
            self._rewind(start)

    def _rewind(self, start: Cursor) -> None:
        """What comes next comes after ``start``; what it has beyond that is void."""
        self._position = start
        self._has = {at: frame for at, frame in self._has.items() if at <= start}
        self._seqs: dict[str, set[int]] = {}
        self._ended: set[str] = set()
        self._marked: set[str | None] = set()
        for frame in self._has.values():
            self._keep(frame)

    def _keep(self, frame: Frame) -> None:
        if "seq" in frame:
            self._seqs.setdefault(frame["run_id"], set()).add(frame["seq"])
        if frame["type"] == TERMINAL:
            self._ended.add(frame["run_id"])
        if (marker := marker_of(frame)) is not None:
            self._marked.add(marker)

    def _delta(self, frame: Frame) -> Iterator[Violation]:
        run_id, payload = frame["run_id"], frame["payload"]
        text = payload["text"].encode()
        before = b"" if payload["offset"] == 0 else self._texts.get(run_id, b"")
        if run_id in self._ended:
            yield Violation(Kind.AFTER_TERMINAL, self._who, str(frame))
        elif (payload["offset"], payload["next"]) != (len(before), len(before) + len(text)):
            yield Violation(Kind.TORN, self._who, f"{frame} after {len(before)} bytes")
        self._texts[run_id] = before + text

    def _response(self, frame: Frame) -> Iterator[Violation]:
        """What was streamed, as far as it was, begins the response."""
        text = self._texts.pop(frame["run_id"], b"").decode()
        response = frame["payload"].get("response")
        if response is not None and not response.startswith(text):
            yield Violation(Kind.TORN, self._who, f"{frame} after {text!r}")

    def _event(self, frame: Frame) -> Iterator[Violation]:
        at = cursor(frame["id"])
        if self._told and self._told[-1][2] is None:
            self._told[-1] = (*self._told[-1][:2], at)
        marker, seq = marker_of(frame), frame.get("seq")
        seqs = self._seqs.get(frame["run_id"], set())
        if at in self._has or seq in seqs:
            yield Violation(Kind.DOUBLED, self._who, str(frame))
        elif at <= self._position or (seqs and seq is not None and seq < max(seqs)):
            yield Violation(Kind.OUT_OF_ORDER, self._who, str(frame))
        elif frame["run_id"] in self._ended:
            kind = Kind.TWO_TERMINALS if frame["type"] == TERMINAL else Kind.AFTER_TERMINAL
            yield Violation(kind, self._who, str(frame))
        elif marker in self._marked:
            unknown = self._emitted.outcomes.get(str(marker)) is Outcome.UNKNOWN
            kind = Kind.UNKNOWN_TWICE if unknown else Kind.DOUBLED
            yield Violation(kind, self._who, str(frame))
        if frame["type"] == TERMINAL:
            yield from self._response(frame)
        self._position = max(self._position, at)
        self._has[at] = frame
        self._keep(frame)
        self._ever.add(at)
        self._ever_marked.add(marker)

    def _leak(self, frame: Frame, epoch: Epoch) -> Violation | None:
        reader = self._reader
        if frame["type"] in REPLIES:
            ref = frame.get("ref")
            if ref in epoch.sent or (ref is None and frame["type"] == "error"):
                return None
            return Violation(Kind.LEAKED, self._who, f"a reply to another: {frame}")
        if "run_id" not in frame:
            return None
        run = self._history.runs.get(frame["run_id"])
        mine = (
            run is not None
            and self._reads(run)
            and frame["thread_id"] == run.thread
            and frame.get("user_id", reader.place.user) == reader.place.user
        )
        return None if mine else Violation(Kind.LEAKED, self._who, f"{frame} of {run}")

    def _reads(self, run: RunRecord) -> bool:
        return run.place == self._reader.place and self._reader.thread in (None, run.thread)

    def _lost(self) -> Iterator[Violation]:
        log = self._history.logs.get(self._reader.place, ())
        logged = {cursor(entry.id) for entry in log}
        for entry in log:
            at = cursor(entry.id)
            wanted = self._reader.thread in (None, entry.thread)
            if wanted and at not in self._ever and not self._was_skipped(at):
                yield Violation(Kind.LOST, self._who, str(entry))
        if self._history.excuses.rolled_back:
            return
        for emission in self._emitted.to[self._reader.place]:
            if emission.id is None or not self._reads(self._history.runs[emission.run_id]):
                continue
            at = cursor(emission.id)
            if at in logged or at in self._ever or emission.marker in self._ever_marked:
                continue
            if not self._was_skipped(at) and not self._was_told(at):
                yield Violation(Kind.LOST, self._who, str(emission))

    def _was_skipped(self, at: Cursor) -> bool:
        return any(after < at <= until for after, until in self._skipped)

    def _was_told(self, at: Cursor) -> bool:
        """Whether a resync covers an event that the log does not have any more."""
        return any(
            at > start if forked else first is None or at < first
            for forked, start, first in self._told
        )

    def _untold(self) -> Iterator[Violation]:
        log = self._history.logs.get(self._reader.place, ())
        logged = {cursor(entry.id): entry for entry in log}
        oldest = min(logged) if full(self._history, self._reader.place) else ZERO
        for at, frame in self._has.items():
            entry = logged.get(at)
            if at >= oldest and (entry is None or not _is(frame, entry)):
                yield Violation(Kind.UNTOLD, self._who, f"{frame}, where the log has {entry}")


def _is(frame: Frame, entry: Entry) -> bool:
    """A frame without a marker may be of a reader who does not keep what agents think."""
    told = (frame["run_id"], frame.get("seq"), frame["type"], frame["thread_id"])
    logged = (entry.run_id, entry.seq, entry.type, entry.thread)
    return told == logged and marker_of(frame) in (None, entry.marker)
