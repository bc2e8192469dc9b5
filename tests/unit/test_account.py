"""The bench's books: what was lost, doubled, out of order or somebody else's is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bench.account import Account, Faults, Mark, read_mark


def after(*numbers: int, published: int) -> Faults:
    account = Account()
    for number in numbers:
        account.heard(number)
    return account.close(published)


@pytest.mark.parametrize(
    ("numbers", "published", "faults"),
    [
        ((), 0, Faults()),
        ((1, 2, 3), 3, Faults()),
        ((1, 3), 3, Faults(lost=1)),
        ((1, 2), 3, Faults(lost=1)),
        ((), 3, Faults(lost=3)),
        ((1, 2, 2, 3), 3, Faults(doubled=1)),
        ((1, 2, 1, 1, 3), 3, Faults(doubled=2)),
        ((2, 1), 2, Faults(disordered=1)),
        ((3, 1, 2), 3, Faults(disordered=2)),
        ((1, 4, 2), 4, Faults(disordered=1, lost=1)),
        ((1, 1, 3), 4, Faults(doubled=1, lost=2)),
    ],
)
def test_faults_are_told_apart(numbers: tuple[int, ...], published: int, faults: Faults) -> None:
    assert after(*numbers, published=published) == faults


def test_what_is_owed_is_not_yet_lost() -> None:
    account = Account()
    account.heard(2)
    assert account.owed(3) == 2
    account.heard(1)
    account.heard(3)
    assert account.owed(3) == 0


def test_a_loss_is_counted_once_and_its_late_arrival_is_no_double() -> None:
    account = Account()
    account.heard(1)
    assert account.close(3) == Faults(lost=2)
    assert account.close(3) == Faults()
    account.heard(2)
    account.heard(4)
    assert account.close(4) == Faults(disordered=1)
    account.heard(2)
    assert account.close(4) == Faults(doubled=1)


def test_what_is_not_the_users_and_what_the_gateway_admits() -> None:
    account = Account()
    account.misdelivered()
    account.resynced()
    faults = account.close(0)
    assert faults == Faults(misdelivered=1, resyncs=1)
    assert str(faults) == "1 misdelivered, 1 told as lost (resync)"


@given(st.permutations(range(1, 9)), st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))
def test_nothing_is_overlooked(order: list[int], dropped: set[int], again: set[int]) -> None:
    """Whatever is dropped, repeated or mixed up: the counts are those of what was done."""
    kept = [number for at, number in enumerate(order) if at not in dropped]
    repeated = [number for at, number in enumerate(kept) if at in again]
    faults = after(*kept, *repeated, published=8)
    assert faults.lost == 8 - len(kept)
    assert faults.doubled == len(repeated)
    assert bool(faults.disordered) == (kept != sorted(kept))


def test_faults_add_up_and_are_false_without_any() -> None:
    assert Faults(lost=1) + Faults(lost=2, closed=1) == Faults(lost=3, closed=1)
    assert not Faults()
    assert str(Faults()) == ""
    assert Faults(closed=1)


def test_a_mark_comes_back_out_of_an_event() -> None:
    mark = Mark(17, 3, 123456789)
    event = b'{"id":"1-0","agent_name":"bench","payload":{"thoughts":"%bxxx"}}' % str(mark).encode()
    assert read_mark(event) == mark


@pytest.mark.parametrize(
    "event",
    [
        b'{"id":"1-0","user_id":"bench-1","payload":{}}',
        b'{"id":"1-0","payload":{"thoughts":"bench:1:2"}}',
        b'{"id":"1-0","payload":{"thoughts":"bench:a:2:3:"}}',
        b'{"id":"1-0","payload":{"thoughts":"a bench:1:2:3:"}}',
    ],
)
def test_what_is_no_mark_is_none(event: bytes) -> None:
    assert read_mark(event) is None
