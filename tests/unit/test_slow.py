"""Slow clients: found, measured, and told to others in a bounded report."""

from collections.abc import Collection
from typing import Any, ClassVar

import orjson
import pytest

from broker.channels import Mode, Owner
from gateway.claims import Identity
from gateway.handshake import Opening, parse
from gateway.outbox import Outbox
from gateway.slow import AT_ONCE, LEAST_BYTES, MOST_TOLD, SlowClients, slow_of


def identity(user: str) -> Identity:
    return Identity(
        owner=Owner("acme", user), subject=user, expires_at=1.0, issued_at=None, jti=None,
        modes=None, operator=False, token_hash="", limits={},
    )  # fmt: skip


class Socket:
    """As much of a connection as is looked at."""

    transport: ClassVar[str] = "websocket"

    def __init__(self, name: str, unsent: int, *, queued: int = 0, stalled: bool = False) -> None:
        self.connection_id, self.unsent = name, unsent
        self.identity: Identity = identity("alice")
        self.opening: Opening = parse("/ws", {})
        self.outbox = Outbox()
        self.outbox.push(b"x" * queued)
        self.outbox.stalled = stalled


class All:
    """Sockets in groups."""

    def __init__(self, *groups: list[Socket]) -> None:
        self.groups = groups
        self.turns = len(groups)

    def turn(self, at: int) -> Collection[Socket]:
        return self.groups[at]


def looked(slow: SlowClients, sockets: All, now: float = 1.0) -> dict[str, Any]:
    for _ in slow.look(sockets, now):
        pass
    return slow.figures


def test_those_that_do_not_take_what_they_are_sent_are_told_the_worst_first() -> None:
    sockets = All(
        [Socket("reads", 10), Socket("slow", LEAST_BYTES)],
        [Socket("stuck", 5, stalled=True), Socket("worst", LEAST_BYTES, queued=7)],
    )
    told = looked(SlowClients(), sockets)
    assert [each["connection_id"] for each in told["connections"]] == ["worst", "slow", "stuck"]
    assert told["total"] == 3
    assert told["unsent_bytes"] == 10 + 5 + 2 * LEAST_BYTES + 7
    worst = told["connections"][0]
    assert (worst["unsent_bytes"], worst["lagging"]) == (LEAST_BYTES + 7, False)
    assert (worst["tenant"], worst["user_id"], worst["mode"], worst["transport"]) == (
        "acme", "alice", Mode.MAIN.value, "websocket",
    )  # fmt: skip
    assert told["connections"][2]["lagging"]


def test_since_when_is_remembered_while_it_lasts() -> None:
    slow, sockets = SlowClients(), All([Socket("a", LEAST_BYTES)])
    assert looked(slow, sockets, 1.0)["connections"][0]["since"] == 1.0
    assert looked(slow, sockets, 6.0)["connections"][0]["since"] == 1.0
    assert looked(slow, All([Socket("a", 0)]), 11.0)["connections"] == []
    assert looked(slow, sockets, 16.0)["connections"][0]["since"] == 16.0


def test_a_report_is_bounded_and_the_count_is_not() -> None:
    crowd = All([Socket(str(at), LEAST_BYTES + at) for at in range(MOST_TOLD + 5)])
    told = looked(SlowClients(), crowd)
    assert (len(told["connections"]), told["total"]) == (MOST_TOLD, MOST_TOLD + 5)
    assert told["connections"][0]["unsent_bytes"] == LEAST_BYTES + MOST_TOLD + 4


def test_others_have_their_turn_in_between() -> None:
    one, many = Socket("a", 0), [Socket("b", 0)] * AT_ONCE
    assert len(list(SlowClients().look(All([one]), 0))) == 0
    assert len(list(SlowClients().look(All(many, [one], many), 0))) == 2


def test_what_is_reported_is_read() -> None:
    told = looked(SlowClients(), All([Socket("a", LEAST_BYTES)]))
    assert slow_of(orjson.loads(orjson.dumps(told))) == told
    assert slow_of({}) == {"total": 0, "unsent_bytes": 0, "connections": []}


@pytest.mark.parametrize(
    "stored",
    [
        {"total": "1"},
        {"connections": [{}]},
        {"connections": [5]},
        {"connections": {"a": 1}},
        {"connections": 5},
        [],
    ],
)
def test_what_is_no_report_is_refused(stored: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        slow_of(stored)


def test_a_row_of_wrong_types_is_refused() -> None:
    told = looked(SlowClients(), All([Socket("a", LEAST_BYTES)]))
    told["connections"][0]["unsent_bytes"] = "many"
    with pytest.raises(TypeError):
        slow_of(told)
