"""G4 while identities change: 50 users in 4 modes, with revocations, refreshes and tickets."""

import random
from collections import Counter
from collections.abc import Iterable
from itertools import count, product
from typing import Final

import jwt
import pytest

from broker.channels import Owner
from tests.support.chaos import Scene, chaos
from tests.support.chaos_report import Report, Row
from tests.support.clients import FIVE, Client, Frame
from tests.support.identities import MODES, Person, Seat, closed, gathered, revoke

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

OWNERS: Final = tuple(
    Owner(tenant, user)
    for tenant, user in product(("", "acme", "a:b"), ("alice", "bob", "b:c", "a", "acme:alice"))
) + tuple(Owner("", f"user-{number}") for number in range(35))
"""Fifty; among them the same names in several tenants, and ids that meet where they are joined."""

ROUNDS: Final = 4


async def test_nobody_gets_what_is_anothers_nor_keeps_what_was_revoked(report: Report) -> None:
    assert len(set(OWNERS)) == 50
    async with chaos(report, gateways=2, workers=2, RUNCAST_PARTITIONS="1") as scene:
        bases = [gateway.base for gateway in scene.gateways]
        people = [Person(owner) for owner in OWNERS]
        seats = [Seat(person, mode, bases) for person in people for mode in MODES]
        try:
            await gathered(*(seat.join() for seat in seats))
            origins, kinds = await storm(scene, people, seats)
            await gathered(*(ended(seat, origins) for seat in seats))
        finally:
            await gathered(*(seat.leave() for seat in seats))
        judge(report, seats, origins, ", ".join(f"{kinds[kind]} {kind}" for kind in STORM))
        assert min(kinds.values()) > 10


async def storm(
    scene: Scene, people: list[Person], seats: list[Seat]
) -> tuple[dict[str, Seat], Counter[str]]:
    """Round after round: a run from every seat, and something that happens to most people."""
    origins: dict[str, Seat] = {}
    happened: Counter[str] = Counter()
    chance = random.Random(7)
    for number in range(ROUNDS):
        blows = []
        for person in people:
            kind = chance.choice((*STORM, "nothing"))
            happened[kind] += 1
            if kind in STORM:
                mine = [seat for seat in seats if seat.person is person]
                blows.append(STORM[kind](person, mine, people, scene))
        await gathered(*(begun(seat, number, origins) for seat in seats), *blows)
    return origins, happened


async def begun(seat: Seat, number: int, origins: dict[str, Seat]) -> None:
    """A run, begun once however often its connection ends meanwhile."""
    run_id = None
    while run_id is None:
        run_id = await seat.ask(number)
    origins[run_id] = seat


async def by_jti(person: Person, seats: list[Seat], _: list[Person], scene: Scene) -> None:
    """One of his tokens, of a seat that then comes back with another, by ticket."""
    seat = seats[len(person.owner.user) % len(seats)]
    jti = jwt.decode(seat.token, options={"verify_signature": False})["jti"]
    client = seat.client
    seat.void_from = await revoke(
        scene.gateways[0].base, jti=jti, tenant=person.owner.tenant or None
    )
    assert await closed(client) == 4401
    await rejoin(seat, by_ticket=True)


async def by_user(person: Person, seats: list[Seat], _: list[Person], scene: Scene) -> None:
    """All of his tokens up to now."""
    moment = person.age()
    clients = [seat.client for seat in seats]
    confirmed = await revoke(
        scene.gateways[1].base,
        user_id=person.owner.user,
        tenant=person.owner.tenant or None,
        issued_before=moment,
    )
    for seat in seats:
        seat.void_from = confirmed
    assert [await closed(client) for client in clients] == [4401] * len(clients)
    await gathered(*(rejoin(seat) for seat in seats))


async def refresh(person: Person, seats: list[Seat], _: list[Person], scene: Scene) -> None:
    """Another token of his own, in each seat."""
    del scene
    for seat in seats:
        seat.token = person.token()
        await seat.client.send("auth_refresh", {"token": seat.token}, ref=f"r {seat.token[-9:]}")
        reply = await seat.client.reply(f"r {seat.token[-9:]}")
        assert reply["type"] == "ok", reply


async def mixed_up(person: Person, seats: list[Seat], people: list[Person], scene: Scene) -> None:
    """A token of the user next to him, valid and of somebody else."""
    del scene
    other = people[(people.index(person) + 5) % len(people)]
    seat = seats[len(person.owner.user) % len(seats)]
    client = seat.client
    for number in count():
        await client.send("auth_refresh", {"token": other.token()}, ref=f"astray {number}")
        if await refused(client, f"astray {number}"):
            break
    assert client.close_code == 4403
    await rejoin(seat)


async def refused(client: Client, ref: str) -> bool:
    """Whether that closed it; an error: the other's tokens were revoked just now."""

    def told(frames: list[Frame]) -> bool:
        return client.close_code is not None or any(frame.get("ref") == ref for frame in frames)

    await client.until(told)
    return client.close_code is not None


STORM = {
    "tokens revoked": by_jti, "users revoked": by_user, "refreshed": refresh, "mixed up": mixed_up,
}  # fmt: skip


async def rejoin(seat: Seat, *, by_ticket: bool = False) -> None:
    await seat.left()
    await seat.join(by_ticket=by_ticket)


def reads(seat: Seat, origin: Seat) -> bool:
    """Whether the protocol gives this seat the runs that were begun at that one."""
    if seat.person is not origin.person:
        return False
    of_user = ("main", "legacy")
    return seat.mode == origin.mode or (seat.mode in of_user and origin.mode in of_user)


async def ended(seat: Seat, origins: dict[str, Seat]) -> None:
    """Every run that it is to see the end of, over all of its connections."""
    if seat.mode == "legacy":
        return  # no resume: what it missed between two connections is not its any more
    wanted = {run_id for run_id, origin in origins.items() if reads(seat, origin)}
    before = {run_id for run_id, types in seat.got().items() if FIVE[-1] in types}
    await seat.client.until(
        lambda frames: (
            wanted - before <= {each["run_id"] for each in frames if each["type"] == FIVE[-1]}
        ),
        what=f"the ends of {len(wanted)} runs for {seat.person.owner} {seat.mode}",
    )


def judge(report: Report, seats: list[Seat], origins: dict[str, Seat], fault: str) -> None:
    leaked, doubled, lost, delivered = list[object](), list[object](), 0, 0
    for seat in seats:
        got = seat.got()
        for run_id, types in got.items():
            delivered += len(types)
            if not reads(seat, origins[run_id]):
                leaked.append((seat.person.owner, seat.mode, origins[run_id].person.owner))
            elif not in_order(types, whole=seat.mode != "legacy"):
                doubled.append((seat.person.owner, seat.mode, types))
        strangers = {frame.get("user_id", seat.person.owner.user) for frame in seat.frames}
        if strangers != {seat.person.owner.user}:
            leaked.append((seat.person.owner, seat.mode, strangers))
        leaked += [(seat.person.owner, seat.mode, "after its revocation", f) for f in seat.late]
        if seat.mode != "legacy":
            lost += sum(run_id not in got for run_id, o in origins.items() if reads(seat, o))
    published = 5 * len(origins)
    row = Row(
        fault=f"identity storm: {len(seats)} connections, {fault}", published=published,
        delivered=delivered, lost=lost, doubled=len(doubled), leaked=len(leaked),
    )  # fmt: skip
    report(row)
    assert not leaked, f"{len(leaked)} times to who must not see it: {leaked[:3]}"
    assert not doubled, f"not the five, once, in order: {doubled[:3]}"
    assert not lost, f"{lost} runs were not seen by whom the protocol names"
    assert len(origins) == len(seats) * ROUNDS, "a message began more than one run, or none"


def in_order(types: Iterable[str], *, whole: bool) -> bool:
    """The five, once each; of who cannot resume a part of them, in their order."""
    seen = list(types)
    return seen == list(FIVE) if whole else seen == [kind for kind in FIVE if kind in seen]
