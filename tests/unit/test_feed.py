"""One channel of a gateway: whether anybody reads it, and when its log has to be asked."""

from __future__ import annotations

from typing import cast

from broker.channels import Keys, Owner, Scope
from broker.cursor import ZERO
from broker.replay import Follower
from gateway.feed import Feed, Joining, Member

CHANNEL = Keys().channel(Owner("", "alice"), Scope.USER)


class Socket:
    """Somebody who reads."""


def feed() -> Feed:
    return Feed(CHANNEL, b":alice")


def member() -> Member:
    return cast("Member", Socket())


def test_a_feed_is_idle_when_nobody_is_live_or_joining() -> None:
    """Only then may its subscription end."""
    one = feed()
    seen = [one.idle]
    one.joining[member()] = Joining(Follower(ZERO))
    seen.append(one.idle)
    one.joining.clear()
    seen.append(one.idle)
    one.live[member()] = None
    seen.append(one.idle)
    assert seen == [True, False, True, False]


def test_a_feed_that_hears_is_not_quiet_and_a_quiet_one_is_asked_for_at_every_second_tick() -> None:
    """At the latest two ticks after a last message that was lost: the next would show its hole."""
    one = feed()
    one.follower.advance(b"1-0")
    assert [one.is_quiet() for _ in range(6)] == [False, True, False, True, False, True]
    one.follower.advance(b"2-0")
    assert [one.is_quiet() for _ in range(2)] == [False, True]
    for at in range(3, 9):
        one.follower.advance(b"%d-0" % at)
        assert not one.is_quiet()
    assert one.is_quiet()
