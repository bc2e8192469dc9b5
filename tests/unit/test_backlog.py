"""Whose turn it is: the order of each thread, and room for the others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.backlog import Backlog, Place, Thread

A, B, C, D, E = ((b":alice", name) for name in (b"a", b"b", b"c", b"d", b"e"))
LATER = 1_000.0


def backlog(most: int = 8, *, delay: float = 1.0) -> Backlog:
    return Backlog(most=most, delays=lambda: repeat(delay))


def place(number: int) -> Place:
    return (0, b"%d-0" % number)


def filled(*threads: Thread, most: int = 8) -> Backlog:
    """The n-th of these events is in place n."""
    made = backlog(most)
    for number, thread in enumerate(threads):
        made.add(thread, place(number))
    return made


def numbers(turn: list[tuple[Thread, Place]]) -> list[int]:
    return [int(entry_id.partition(b"-")[0]) for _, (_, entry_id) in turn]


def test_of_each_thread_only_the_oldest_has_its_turn() -> None:
    made = filled(A, A, B, A)
    assert numbers(made.take(0)) == [0, 2]
    assert numbers(made.take(LATER)) == []
    made.done(A, place(0))
    assert numbers(made.take(0)) == [1]
    assert len(made) == 3


def test_a_thread_that_is_not_taken_holds_up_itself_only() -> None:
    made = filled(A, A, B, B)
    made.take(0)
    assert made.again(A, place(0), 0) == 1.0
    made.done(B, place(2))
    assert numbers(made.take(0.9)) == [3], "its own next one waits behind it"
    assert numbers(made.take(1.0)) == [0], "the same again, when its time has come"


def test_a_receiver_can_ask_for_a_longer_wait() -> None:
    made = filled(A)
    made.take(0)
    assert made.again(A, place(0), 0, at_least=7.0) == 7.0
    assert numbers(made.take(6.9)) == []
    assert numbers(made.take(7.0)) == [0]


def test_waits_begin_anew_after_progress() -> None:
    made = Backlog(most=1, delays=lambda: iter((1.0, 2.0)))
    made.add(A, place(0))
    made.add(A, place(1))
    made.take(0)
    assert made.again(A, place(0), 0) == 1.0
    made.take(LATER)
    assert made.again(A, place(0), 0) == 2.0
    made.take(LATER)
    made.done(A, place(0))
    made.take(LATER)
    assert made.again(A, place(1), 0) == 1.0


def test_no_more_than_so_many_are_under_way() -> None:
    made = filled(A, B, C, most=2)
    assert numbers(made.take(0)) == [0, 1]
    assert made.flying == 2
    made.done(A, place(0))
    assert numbers(made.take(0)) == [2]


def test_repeats_have_half_of_the_places_so_that_there_is_room_for_others() -> None:
    made = filled(A, B, C, D, most=4)
    for thread, at in made.take(0):
        made.again(thread, at, 0)
    made.add(E, place(9))
    assert numbers(made.take(LATER)) == [0, 1, 9]
    made.done(A, place(0))
    assert numbers(made.take(LATER)) == [2]


def test_with_one_place_repeats_have_it_too() -> None:
    made = filled(A, most=1)
    made.take(0)
    made.again(A, place(0), 0)
    assert numbers(made.take(LATER)) == [0]


def test_to_be_told_of_an_event_again_changes_nothing() -> None:
    made = filled(A, B)
    made.add(A, place(0))
    assert numbers(made.take(0)) == [0, 1]
    made.add(A, place(0))
    made.again(B, place(1), 0)
    made.add(B, place(1))
    assert numbers(made.take(0)) == []
    assert len(made) == 2


def test_what_is_under_way_when_all_is_forgotten_is_not_posted_a_second_time_meanwhile() -> None:
    made = filled(A, A, B)
    made.take(0)
    made.clear()
    assert len(made) == 0
    made.add(A, place(0))
    made.add(A, place(1))
    assert numbers(made.take(LATER)) == []
    made.done(A, place(0))
    assert numbers(made.take(LATER)) == [1]
    made.done(B, place(2))
    assert made.again(B, place(2), 0) == 0.0
    assert made.flying == 1


class Taking:
    """A receiver that takes or refuses, as the example says, whatever is under way."""

    def __init__(self, most: int, threads: list[int]) -> None:
        self.most = most
        self.backlog = Backlog(most=most, delays=self._delays)
        self.threads = [b"%d" % each for each in threads]
        self.posted: list[tuple[Thread, Place]] = []
        self.taken: list[tuple[Thread, Place]] = []
        self.flying: list[tuple[Thread, Place]] = []

    def _delays(self) -> Iterator[float]:
        return repeat(0.0)

    def go_on(self) -> None:
        turn = self.backlog.take(0.0)
        self.posted += turn
        self.flying += turn
        assert len(self.flying) <= self.most
        assert len({thread for thread, _ in self.flying}) == len(self.flying)


@given(st.data(), st.integers(1, 4), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_whatever_is_refused_everything_is_taken_once_and_in_order(
    data: st.DataObject, most: int, threads: list[int]
) -> None:
    receiver = Taking(most, threads)
    fed = refused = 0
    while len(receiver.taken) < len(threads):
        if fed < len(threads) and (not receiver.flying or data.draw(st.booleans())):
            receiver.backlog.add((b"o", receiver.threads[fed]), place(fed))
            fed += 1
        elif receiver.flying:
            at = data.draw(st.integers(0, len(receiver.flying) - 1))
            thread, where = receiver.flying.pop(at)
            if refused < 20 and data.draw(st.booleans()):
                refused += 1
                receiver.backlog.again(thread, where, 0.0)
            else:
                receiver.taken.append((thread, where))
                receiver.backlog.done(thread, where)
        receiver.go_on()
    assert sorted(numbers(receiver.taken)) == list(range(len(threads)))
    for thread in {thread for thread, _ in receiver.taken}:
        mine = numbers([each for each in receiver.taken if each[0] == thread])
        assert mine == sorted(mine)
    assert len(receiver.backlog) == receiver.backlog.flying == 0
