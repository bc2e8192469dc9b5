"""Following a log: in order, once, or with the hole named (promises G2 and G3).

``World`` is a log, its live channel and one follower, with all that may happen to them. A schedule
is a list of moves that hypothesis draws: it finds the interleavings, the world checks after each
move that what was passed on is one chain of links.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from broker.codec import Entry, from_log
from broker.cursor import ZERO, Cursor
from broker.replay import (
    MAX_HEARD,
    TRAIL,
    Follower,
    Glance,
    Page,
    Start,
    judge,
    judge_connected,
)

pytestmark = pytest.mark.timeout(300)  # seconds; a busy machine takes its time over schedules

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def entry(at: Cursor, prev: Cursor) -> Entry:
    return from_log(at.raw, prev.raw + b" t:u th r 1 agent_thinking\n{}")


def chain(*moments: int, after: int = 0) -> list[Entry]:
    """Entries at these milliseconds, each linked to the one before."""
    cursors = [Cursor(after, 0), *(Cursor(ms, 0) for ms in moments)]
    return [entry(at, prev) for prev, at in pairwise(cursors)]


def moments(page: Page) -> list[int]:
    return [each.cursor.ms for each in page.entries]


# --- judge


@relaxed
@given(
    log=st.sets(st.integers(1, 12)),
    cursor=st.builds(Cursor, st.integers(0, 13), st.integers(0, 1)),
)
def test_judge_says_exactly_what_the_protocol_says(log: set[int], cursor: Cursor) -> None:
    """Protocol section 6: resumable, older than the oldest retained, or rewritten."""
    cursors = sorted(Cursor(ms, 0) for ms in log)
    earlier = [each for each in cursors if each < cursor]
    start = judge(cursor, glance(cursors, cursor))
    if cursor in (ZERO, *cursors):
        assert start == Start(cursor, None)
    elif not cursors or not earlier:
        assert start == Start(ZERO, "expired")
    else:
        assert start == Start(max(earlier), "forked")


def test_a_log_trimmed_between_two_glances_replays_from_the_oldest() -> None:
    """The four looks are no transaction: the entry before may be gone when it is asked for."""
    torn = Glance(found=False, oldest=Cursor(3, 0), before=None, newest=Cursor(9, 0))
    assert judge(Cursor(5, 0), torn) == Start(ZERO, "forked")


TTL = 100


@pytest.mark.parametrize(
    ("what", "position", "trail", "seen", "start"),
    [
        (
            "trimmed past the position",
            Cursor(5, 0),
            [Cursor(4, 0)],
            {"oldest": Cursor(7, 0), "whole": False},
            Start(ZERO, "overrun"),
        ),
        (
            "trimmed before the first read",
            ZERO,
            [],
            {"oldest": Cursor(7, 0), "whole": False},
            Start(ZERO, "overrun"),
        ),
        (
            "begun anew too soon: somebody deleted it",
            Cursor(5, 0),
            [Cursor(4, 0)],
            {"oldest": Cursor(5 + TTL - 1, 0)},
            Start(ZERO, "expired"),
        ),
        (
            "begun anew after its time-to-live",
            Cursor(5, 0),
            [Cursor(4, 0)],
            {"oldest": Cursor(5 + TTL, 0)},
            Start(ZERO, None),
        ),
        ("gone too soon", Cursor(5, 0), [], {"now_ms": 5 + TTL - 1}, Start(ZERO, "expired")),
        ("gone after its time-to-live", Cursor(5, 0), [], {"now_ms": 5 + TTL}, Start(ZERO, None)),
        (
            "rewritten, and nothing known but the position",
            Cursor(5, 0),
            [],
            {"oldest": Cursor(1, 0), "before": Cursor(4, 0)},
            Start(Cursor(4, 0), "forked"),
        ),
        (
            "rewritten, by another master meanwhile: what lies below the position is not shared",
            Cursor(5, 0),
            [Cursor(2, 0), Cursor(3, 5)],
            {"oldest": Cursor(1, 0), "before": Cursor(4, 0), "shared": Cursor(2, 0)},
            Start(Cursor(2, 0), "forked"),
        ),
        (
            "rewritten from before everything that is remembered",
            Cursor(5, 0),
            [Cursor(2, 0), Cursor(3, 5)],
            {"oldest": Cursor(1, 0), "before": Cursor(4, 0)},
            Start(ZERO, "forked"),
        ),
        (
            "torn after the position",
            Cursor(5, 0),
            [Cursor(4, 0)],
            {"found": True, "oldest": Cursor(1, 0), "before": Cursor(4, 0)},
            Start(Cursor(5, 0), "forked"),
        ),
    ],
)
def test_while_connected_the_reason_says_what_happened_to_the_log(
    what: str, position: Cursor, trail: list[Cursor], seen: dict[str, Any], start: Start
) -> None:
    shown = Glance(**{"found": False, "oldest": None, "before": None, "newest": None, **seen})
    assert judge_connected(position, trail, shown, ttl_ms=TTL) == start, what


def glance(log: list[Cursor], cursor: Cursor) -> Glance:
    earlier = [each for each in log if each < cursor]
    return Glance(
        found=cursor in log,
        oldest=log[0] if log else None,
        before=earlier[-1] if earlier else None,
        newest=log[-1] if log else None,
    )


# --- the follower, move by move


def test_level_means_that_what_is_heard_is_passed_on_at_once() -> None:
    """No read of the log for a channel that is whole."""
    follower = Follower(ZERO, level=True)
    for each in chain(1, 2, 3):
        assert follower.hear(each)
        assert follower.level
        assert follower.position == each.cursor


def test_what_was_heard_twice_is_passed_on_once() -> None:
    """Also after it was read, and without falling behind."""
    one, two = chain(1, 2)
    follower = Follower(ZERO, level=True)
    assert follower.hear(one)
    assert not follower.hear(one)
    assert follower.hear(two)
    assert not follower.hear(one)
    assert follower.level


def test_the_trail_is_where_it_was_before_and_stays_short() -> None:
    """Whatever moved it: heard, read, joined or given back."""
    log = chain(*range(1, 4 * TRAIL))
    follower = Follower(ZERO, level=True)
    follower.hear(log[0])
    follower.hear(log[2])  # a hole
    follower.read(log[1:2], end=True)  # and what was heard behind it
    assert follower.trail == [ZERO, log[0].cursor, log[1].cursor]
    follower.give_back(log[2])
    assert follower.trail == [ZERO, log[0].cursor]
    follower.read(log[2:], end=True)
    assert follower.position == log[-1].cursor
    assert TRAIL <= len(follower.trail) < 2 * TRAIL
    assert follower.trail[-1] == log[-2].cursor
    follower.restart(log[5].cursor)
    assert follower.trail == []


def test_a_hole_is_filled_from_the_log_and_joined_with_what_was_heard() -> None:
    """Lost 2, heard 3 and 5, lost 4: the log brings what is missing, in order."""
    log = chain(1, 2, 3, 4, 5)
    follower = Follower(ZERO, level=True)
    assert follower.hear(log[0])
    assert not follower.hear(log[2])
    assert not follower.level
    assert not follower.hear(log[4])
    assert moments(follower.read(log[1:2], end=False)) == [2]
    assert not follower.level
    assert moments(follower.read(log[2:4], end=True)) == [3, 4, 5]
    assert follower.level


def test_it_reads_again_while_there_is_a_hole_between_log_and_live() -> None:
    """The log was read before 3 was appended, 3 was lost, 4 was heard."""
    log = chain(1, 2, 3, 4)
    follower = Follower(ZERO)
    assert not follower.hear(log[3])
    assert moments(follower.read(log[:2], end=True)) == [1, 2]
    assert not follower.level
    assert moments(follower.read(log[2:], end=True)) == [3, 4]
    assert follower.level


def test_a_lost_touch_is_proven_by_the_log() -> None:
    """After an interruption nothing is passed on before the log was read."""
    log = chain(1, 2)
    follower = Follower(Cursor(1, 0), level=True)
    follower.lose_touch()
    assert not follower.hear(log[1])
    assert moments(follower.read(log[1:], end=True)) == [2]
    assert follower.level


def test_what_a_page_has_from_before_the_position_is_skipped() -> None:
    """The position may have moved on while the page was under way."""
    follower = Follower(Cursor(2, 0))
    page = follower.read(chain(1, 2, 3), end=True)
    assert (moments(page), page.hole, follower.level) == ([3], False, True)


def test_a_page_that_does_not_continue_the_position_is_a_hole() -> None:
    """What came before the hole is passed on, what comes after is not."""
    follower = Follower(Cursor(1, 0))
    page = follower.read([*chain(2, after=1), *chain(5, 6, after=4)], end=True)
    assert (moments(page), page.hole, follower.level) == ([2], True, False)
    assert follower.position == Cursor(2, 0)
    follower.restart(Cursor(4, 0))
    page = follower.read(chain(5, 6, after=4), end=True)
    assert (moments(page), page.hole, follower.level) == ([5, 6], False, True)


def test_everything_retained_begins_once() -> None:
    """After the first entry, heard or read, each must continue the one before."""
    follower = Follower(ZERO)
    assert not follower.hear(chain(1)[0])
    assert not follower.hear(chain(3, after=2)[0])
    assert moments(follower.read([], end=True)) == [1]
    assert follower.read(chain(3, after=2), end=True).hole


def test_what_could_not_be_passed_on_is_read_again() -> None:
    """Given back, it is next once more, heard or read; also the first there ever was."""
    first, second = chain(1, 2)
    follower = Follower(ZERO, level=True)
    assert follower.hear(first)
    follower.give_back(first)
    assert not follower.hear(second)
    assert moments(follower.read([first], end=True)) == [1, 2]
    follower = Follower(ZERO)
    assert moments(follower.read([first], end=True)) == [1]
    follower.give_back(first)
    assert follower.read([second], end=True).hole


def test_after_a_resync_the_next_hole_is_named_too() -> None:
    """Going on from a shared entry, what follows must be linked to it."""
    follower = Follower(Cursor(9, 0))
    follower.restart(Cursor(4, 0))
    assert follower.read(chain(7, after=6), end=True).hole
    follower.restart(Cursor(4, 0))
    assert moments(follower.read(chain(7, after=4), end=True)) == [7]


def test_a_hole_in_the_log_itself_was_told_once_and_is_passed_over() -> None:
    """The position is there, what followed is not: after the ``resync`` whatever comes is next."""
    follower = Follower(Cursor(1, 0))
    log = chain(5, 6, after=4)
    assert follower.read(log, end=True).hole
    follower.restart(Cursor(1, 0), linked=False)
    assert moments(follower.read(log, end=True)) == [5, 6]
    assert follower.level


def test_everything_retained_may_begin_anywhere() -> None:
    """From ``0-0`` the oldest entry need not be the first there ever was."""
    follower = Follower(ZERO)
    page = follower.read(chain(7, 8, after=6), end=True)
    assert (moments(page), page.hole) == ([7, 8], False)


def test_a_log_known_to_be_empty_has_a_hole_when_its_first_entry_is_gone() -> None:
    """Bug: level at ``0-0``, live messages lost, the front trimmed: passed over in silence."""
    follower = Follower(ZERO)
    assert follower.read([], end=True) == Page([], hole=False)
    assert follower.level
    follower.lose_touch()
    page = follower.read(chain(7, 8, after=6), end=True)
    assert (moments(page), page.hole) == ([], True)
    follower.restart(ZERO)
    assert moments(follower.read(chain(7, 8, after=6), end=True)) == [7, 8]


def test_what_a_failover_took_back_does_not_keep_it_reading_for_ever() -> None:
    """Bug: heard 3 (after 2, lost), the promoted log ends at 1: it never became level again."""
    follower = Follower(Cursor(1, 0), level=True)
    assert not follower.hear(chain(3, after=2)[0])
    reads = 0
    while not follower.level:
        assert follower.read([], end=True) == Page([], hole=False)
        reads += 1
        assert reads < 4
    assert follower.position == Cursor(1, 0)
    assert follower.hear(chain(9, after=1)[0])


@pytest.mark.parametrize("extra", [-1, 0, 1, 2, MAX_HEARD, 2 * MAX_HEARD + 1])
def test_hearing_more_than_it_keeps_loses_nothing(extra: int) -> None:
    """Beyond the limit the heard ones are dropped and read instead."""
    count = MAX_HEARD + extra
    log = chain(*range(1, count + 2))
    follower = Follower(ZERO)
    for each in log[1:]:
        assert not follower.hear(each)
        assert len(follower._heard or []) <= MAX_HEARD
    passed = moments(follower.read(log[:1], end=True))
    while not follower.level:
        passed += moments(follower.read(log[len(passed) :], end=True))
    assert passed == list(range(1, count + 2))
    assert not follower._heard


# --- the follower, all moves in all orders


class World:
    """One log, one live channel, one follower that is asked for nothing but what a shell asks."""

    def __init__(self, begin: int, before: int) -> None:
        self.clock = 0
        self.log: list[Entry] = []
        self.wire: list[Entry] = []
        self.asked: tuple[Cursor, int] | None = None
        self.reply: tuple[list[Entry], bool] | None = None
        self.damaged = False
        for _ in range(before):
            self.append()
        self.wire.clear()
        cursors = [ZERO, *(each.cursor for each in self.log)]
        level = begin < 0
        position = cursors[-1] if level else cursors[min(begin, before)]
        self.follower = Follower(position, level=level)
        self.anchor: Cursor | None = None if position == ZERO and not level else position
        self.passed: list[Entry] = []
        self.whole: list[Cursor] = []
        self.told: list[str] = []
        self.begun_at = position

    def append(self) -> Entry:
        self.clock += 1
        prev = self.log[-1].cursor if self.log else ZERO
        new = entry(Cursor(self.clock // 3, self.clock % 3), prev)
        self.log.append(new)
        return new

    # moves

    def publish(self, fate: int) -> None:
        new = self.append()
        if fate == 1:  # lost
            return
        self.wire.append(new)
        if fate == 2:  # twice
            self.wire.append(new)

    def deliver(self, at: int) -> None:
        """Live messages arrive in order, but for the odd one that is late."""
        if self.wire:
            each = self.wire.pop(at if at < len(self.wire) else 0)
            if self.follower.hear(each):
                self.take([each])

    def lose(self) -> None:
        self.wire.clear()
        self.follower.lose_touch()

    def trim(self, count: int) -> None:
        self.damaged = self.damaged or bool(self.log and count)
        del self.log[:count]

    def fork(self, lost: int) -> None:
        """A failover: the newest are gone, and new ones take their places, with later ids."""
        if lost >= len(self.log) and self.follower.position == ZERO:
            return  # a log that begins again cannot be told from one that nobody has heard of
        self.damaged = True
        del self.log[len(self.log) - lost :]

    def expire(self) -> None:
        if self.follower.position != ZERO:
            self.damaged = True
            self.log.clear()

    def ask(self, size: int) -> None:
        """A read goes out; what the log is when Redis answers is what it brings."""
        if self.asked is None and self.reply is None and not self.follower.level:
            self.asked = (self.follower.position, size)

    def answer(self) -> None:
        if self.asked is not None:
            after, size = self.asked
            page = [each for each in self.log if each.cursor > after][:size]
            self.asked, self.reply = None, (page, len(page) < size)

    def arrive(self) -> None:
        if self.reply is None:
            return
        (page, end), self.reply = self.reply, None
        result = self.follower.read(page, end=end)
        self.take(result.entries)
        if result.hole:
            position = self.follower.position
            start = judge(position, glance([each.cursor for each in self.log], position))
            self.told.append(start.reason or "expired")
            restart = start.position if start.reason else ZERO
            self.follower.restart(restart, linked=start.reason is not None)
            self.anchor = None if restart == ZERO else restart

    def take(self, entries: list[Entry]) -> None:
        """The promise: every entry continues the one before, unless a hole was named."""
        for each in entries:
            if self.anchor is not None:
                assert each.prev == self.anchor.raw, "passed over a hole in silence"
                assert each.cursor > self.anchor
            assert each.cursor not in self.whole, "passed on twice"
            self.whole.append(each.cursor)
            self.anchor = each.cursor

    def check(self) -> None:
        if self.anchor is None and self.follower.level:
            self.anchor = self.follower.position  # it has seen that the log is empty
        assert self.anchor in (None, self.follower.position)
        assert len(self.follower._heard or []) <= MAX_HEARD

    def settle(self, size: int) -> None:
        """Everything under way arrives, the tail is checked, and reading on ends."""
        while self.wire:
            self.deliver(0)
        for _ in range(2):
            self.answer()
            self.arrive()
            self.check()
            if self.log and self.log[-1].cursor != self.follower.position:
                self.follower.lose_touch()
            rounds = 0
            while not self.follower.level:
                self.ask(size)
                self.answer()
                self.arrive()
                self.check()
                rounds += 1
                assert rounds < 3 * len(self.log) + 40, "never level again"


Move = tuple[str] | tuple[str, int]

USUAL: list[Move] = [
    *[("publish", 0)] * 5, *[("publish", 1)] * 3, ("publish", 2), *[("deliver", 0)] * 6,
    ("deliver", 1), ("deliver", 2), ("ask", 1), ("ask", 2), ("ask", 4), *[("answer",)] * 3,
    *[("arrive",)] * 3, ("lose",),
]  # fmt: skip
DAMAGED: list[Move] = [
    *USUAL, ("trim", 1), ("trim", 3), ("fork", 1), ("fork", 2), ("fork", 3), ("expire",),
]  # fmt: skip

# A byte of the schedule is a move. Without the phase that explains failures: it traces every line.
thorough = settings(
    relaxed, max_examples=800, phases=set(Phase) - {Phase.explain},
)  # fmt: skip
SCHEDULES = st.binary(max_size=60)


def played(begin: int, before: int, moves: list[Move], size: int) -> World:
    note(f"{moves=}")
    world = World(begin, before)
    for name, *arguments in moves:
        getattr(world, name)(*arguments)
        world.check()
    world.settle(size)
    return world


@thorough
@given(
    begin=st.integers(-1, 3), before=st.integers(0, 3), schedule=SCHEDULES, size=st.integers(1, 5)
)
def test_the_log_is_passed_on_in_order_once(
    begin: int, before: int, schedule: bytes, size: int
) -> None:
    """Lost, doubled, late messages and pages of any size: exactly the log from the position on."""
    world = played(begin, before, [USUAL[byte % len(USUAL)] for byte in schedule], size)
    after = [each.cursor for each in world.log if each.cursor > world.begun_at]
    assert world.whole == after
    assert world.told == []


@thorough
@given(
    begin=st.integers(-1, 3), before=st.integers(0, 4), schedule=SCHEDULES, size=st.integers(1, 5)
)
def test_a_log_that_lost_entries_is_passed_on_in_order_or_the_hole_is_named(
    begin: int, before: int, schedule: bytes, size: int
) -> None:
    """Trimmed, forked or expired meanwhile: never silent loss, never a duplicate, and an end."""
    world = played(begin, before, [DAMAGED[byte % len(DAMAGED)] for byte in schedule], size)
    retained = {each.cursor for each in world.log if each.cursor > world.begun_at}
    assert retained <= set(world.whole), "not passed on although the log has it"
    assert world.whole == sorted(world.whole)
    assert world.damaged or not world.told, "a hole was named where none was"
