"""A gateway's sockets: each counted once, taken in turns, and nothing left of those gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.channels import Owner
from gateway import handshake
from gateway.claims import Identity
from gateway.handshake import Opening
from gateway.sockets import Sockets

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(eq=False)
class Socket:
    transport: ClassVar[str] = "websocket"

    identity: Identity
    opening: Opening
    connection_id: str = field(default_factory=lambda: uuid4().hex)


def socket(user: str = "alice", mode: str = "main", tenant: str = "") -> Socket:
    identity = Identity(
        owner=Owner(tenant, user), subject=user, expires_at=1.0, issued_at=None, jti=None,
        modes=None, operator=False, token_hash="", limits={},
    )  # fmt: skip
    return Socket(identity, handshake.parse("/ws", {"mode": mode}))


def test_they_are_counted_by_owner_and_mode() -> None:
    """What is gone does not count, and twice gone is once."""
    sockets: Sockets[Socket] = Sockets(5)
    one, two, other = socket(), socket(mode="legacy"), socket("bob")
    for each in (one, two, other):
        sockets.add(each)
    assert (len(sockets), sockets.of(Owner("", "alice")), sockets.of(Owner("", "bob"))) == (3, 2, 1)
    assert (sockets.modes["main"], sockets.modes["legacy"], sockets.modes["factory"]) == (2, 1, 0)
    sockets.discard(one)
    sockets.discard(one)
    assert (len(sockets), sockets.of(Owner("", "alice")), set(sockets)) == (2, 1, {two, other})
    sockets.discard(two)
    sockets.discard(other)
    assert (len(sockets), list(sockets), dict(sockets._owners)) == (0, [], {})


def test_those_of_a_tenant_are_counted_together_as_well() -> None:
    """Its users share them; a tenant is no user, so no user can be called like it."""
    sockets: Sockets[Socket] = Sockets(5)
    made = [socket(user, tenant="acme") for user in ("alice", "bob")]
    for each in (*made, socket()):
        sockets.add(each)
    acme = Owner("acme", "alice").group
    assert acme is not None
    assert sockets.of(acme) == 2
    assert set(sockets.owners) == {
        acme, Owner("acme", "alice"), Owner("acme", "bob"), Owner("", "alice"),
    }  # fmt: skip
    for each in made:
        sockets.discard(each)
    assert set(sockets.owners) == {Owner("", "alice")}


@relaxed
@given(st.integers(1, 40), st.integers(0, 200))
def test_every_turn_has_its_own_and_all_turns_have_everyone(turns: int, count: int) -> None:
    """So each socket has its heartbeat once a round."""
    sockets: Sockets[Socket] = Sockets(turns)
    made = [socket() for _ in range(count)]
    for each in made:
        sockets.add(each)
    taken = [each for turn in range(turns) for each in sockets.turn(turn)]
    assert len(taken) == count
    assert set(taken) == set(made)
    assert sockets.turn(turns + 1) == sockets.turn(1)


@pytest.mark.parametrize("count", [10_000])
def test_no_turn_has_many_more_than_its_share(count: int) -> None:
    """A turn is what holds up deliveries."""
    sockets: Sockets[Socket] = Sockets(250)
    for _ in range(count):
        sockets.add(socket())
    assert max(len(sockets.turn(turn)) for turn in range(250)) < 3 * count / 250
