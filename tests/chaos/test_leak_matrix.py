"""G4: every mode, user and thread at the same time on one Redis, and every pair of them judged."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

import aiohttp
import pytest

from agents_sdk import Publisher
from broker.config import load_settings
from tests.support.chaos import Scene, chaos
from tests.support.chaos_report import Report, Row
from tests.support.clients import FIVE, Client, Frame, payload_of
from tests.support.matrix import SHAPES, THREADS, USERS, Origin, Person, reads

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@asynccontextmanager
async def everybody(report: Report, people: int) -> AsyncIterator[tuple[Scene, list[Person]]]:
    # One partition: nothing but the checks themselves keeps users apart.
    async with (
        chaos(report, gateways=2, workers=2, RUNCAST_PARTITIONS="1") as scene,
        AsyncExitStack() as stack,
    ):
        bases = [gateway.base for gateway in scene.gateways]
        persons = [Person(number) for number in range(people)]
        for person in persons:
            await person.connect(bases, stack)
        yield scene, persons


async def publish(scene: Scene, persons: list[Person]) -> dict[str, Origin]:
    """Each person's backend publishes to the user, to both threads, and to a run."""
    origins: dict[str, Origin] = {}
    settings = load_settings(redis_url=scene.redis.url, partitions=1)
    async with Publisher(settings=settings) as publisher:

        async def one(person: Person, scope: str, thread: str) -> None:
            async with publisher.run(
                user_id=person.user,
                tenant=person.tenant or "",
                agent_name="backend",
                thread_id=thread,
                scope=scope,  # type: ignore[arg-type]  # one of its literals
            ) as run:
                origins[run.id] = Origin(person.number, scope, thread)
                await run.think(f"of {person.number}")
                async with run.tool("lookup") as call:
                    call.result = person.number

        async with asyncio.TaskGroup() as group:
            for person in persons:
                for thread in THREADS:
                    for scope in ("user", "thread", "run"):
                        group.create_task(one(person, scope, thread))
    return origins


async def begin(persons: list[Person]) -> tuple[dict[str, Origin], dict[str, Client]]:
    """A run from every connection, all at the same time."""
    origins: dict[str, Origin] = {}
    by: dict[str, Client] = {}

    async def one(person: Person, shape: str) -> None:
        run_id, origin = await person.begin(shape)
        origins[run_id], by[run_id] = origin, person.clients[shape]

    async with asyncio.TaskGroup() as group:
        for person in persons:
            for shape in SHAPES:
                group.create_task(one(person, shape))
    return origins, by


async def test_every_run_reaches_exactly_those_whom_the_protocol_names(report: Report) -> None:
    async with everybody(report, len(USERS)) as (scene, persons):
        (begun, by), published = await asyncio.gather(begin(persons), publish(scene, persons))
        origins = begun | published
        connections = [(person, shape) for person in persons for shape in SHAPES]
        lost, delivered = 0, 0
        leaked, doubled = list[object](), list[object]()
        wanted = [
            {
                run_id
                for run_id, origin in origins.items()
                if reads(shape, person.number, origin, own=by.get(run_id) is person.clients[shape])
            }
            for person, shape in connections
        ]
        for (person, shape), runs in zip(connections, wanted, strict=True):
            lost += len(await lacking(person, shape, runs))
        # Whatever went astray would have come before these answers.
        for person, shape in connections:
            await person.clients[shape].send("ping", ref="the end")
            await person.clients[shape].reply("the end")
        for (person, shape), runs in zip(connections, wanted, strict=True):
            for run_id, types in person.got(shape).items():
                five = [kind for kind in types if kind in FIVE]
                delivered += len(five)
                origin = origins.get(run_id)
                if run_id not in runs or person.owners(shape, run_id) != {person.user}:
                    leaked.append((person.user, shape, origin))
                elif five != list(FIVE):
                    doubled.append((person.user, shape, origin, five))
        report(
            Row(
                fault=f"leak matrix: {len(origins)} runs x {len(connections)} connections",
                published=5 * len(origins),
                delivered=delivered,
                lost=lost,
                doubled=len(doubled),
                leaked=len(leaked),
            )
        )
        assert not leaked, f"{len(leaked)} times to who must not see it: {leaked[:3]}"
        assert not lost, f"{lost} runs did not reach everybody whom the protocol names"
        assert not doubled, f"not the five, once, in order: {doubled[:3]}"
        everyone = sum(map(len, wanted))
        assert everyone > 1.5 * len(origins), "hardly anybody was to get anything"


async def lacking(person: Person, shape: str, runs: set[str]) -> set[str]:
    """The runs whose end this connection should have got and, after a while, has not."""

    def lacks() -> set[str]:
        return runs - {run for run, types in person.got(shape).items() if FIVE[-1] in types}

    with suppress(AssertionError):
        await person.clients[shape].until(lambda _: not lacks())
    return lacks()


@dataclass
class Target:
    """Somebody with three runs under way, and what the others know of them."""

    person: Person
    runs: dict[str, str]
    """Shape of the connection that began it → run id."""
    event: str
    hello: Frame

    @classmethod
    async def of(cls, person: Person) -> Self:
        runs = {}
        for shape in ("strict", "main", "isolated"):
            client = person.clients[shape]
            runs[shape] = await client.ask("x", agent="waits", ref=f"begin {shape}")
            await client.first("tool_executing")
        event = person.clients["main"].events(runs["main"])[0]["id"]
        hello = payload_of(await person.clients["isolated"].first("connection_established"))
        return cls(person, runs, event, hello)

    def taking_up(self, secret: str) -> dict[str, str]:
        return {"mode": "isolated", "connection": self.hello["connection_id"], "secret": secret}


async def refused(client: Client, kind: str, run_id: str) -> None:
    ref = f"{kind} {run_id}"
    await client.send(kind, {"run_id": run_id, "content": "x", "request_id": "r"}, ref=ref)
    reply = await client.reply(ref)
    assert reply["type"] == "error", f"{client.user}: {kind} gave {reply}"
    code = payload_of(reply)["code"]
    assert code in ("run_not_found", "not_allowed"), f"{client.user}: {kind} gave {reply}"


async def attack(target: Target, other: Person, bases: list[str]) -> int:
    """By frames and at the door; how many tries that were."""
    tries = 0
    for run_id in target.runs.values():
        for shape in ("strict", "main", "factory", "isolated", "legacy"):
            for kind in ("stop_agent", "user_input", "attach", "detach"):
                await refused(other.clients[shape], kind, run_id)
                tries += 1
    secret = target.hello["secret"]
    strict = {"mode": "factory", "isolation_level": "strict", "run_id": target.runs["strict"]}
    for base in bases:
        for asked in (strict, *map(target.taking_up, (secret, "wrong", secret[:-1]))):
            assert await status(base, other, asked) == 403, f"{other.user} got in with {asked}"
            tries += 1
        async with Client(base, other.user, token=other.token, after=target.event) as client:
            await client.first("live")
            seen = [f for f in client.frames if f.get("run_id") in target.runs.values()]
            assert not seen, f"{other.user} resumed into {seen}"
            told = payload_of(await client.first("resync"))["reason"]
            assert told in ("expired", "forked"), f"{other.user} was told {told}"
            tries += 1
    return tries


async def test_nobody_gets_at_what_is_not_his_by_asking(report: Report) -> None:
    """Attach, stop, resume and take up: with another's ids, each one true."""
    async with everybody(report, 6) as (scene, persons):
        bases = [gateway.base for gateway in scene.gateways]
        target, others = await Target.of(persons[0]), persons[1:]
        tries = sum([await attack(target, other, bases) for other in others])
        # He himself: with a wrong secret, and from another tab with runs that are not strict.
        for secret in ("wrong", target.hello["secret"].swapcase()):
            assert await status(bases[0], target.person, target.taking_up(secret)) == 403
        tab = target.person.clients["strict, another tab"]
        await refused(tab, "attach", target.runs["main"])
        await refused(tab, "attach", target.runs["isolated"])
        await tab.send("attach", {"run_id": target.runs["strict"], "after": "0-0"}, ref="mine")
        assert (await tab.reply("mine"))["type"] == "ok", "his own run is his"
        # None of it stopped, moved or closed anything.
        for shape, run_id in target.runs.items():
            client = target.person.clients[shape]
            assert not ended(client.frames, run_id), f"{shape} was ended by somebody else"
            assert client.close_code is None, f"{shape} was closed with {client.close_code}"
            await client.send("stop_agent", {"run_id": run_id}, ref="stop")
            assert (await client.reply("stop"))["type"] == "ok"
            end = payload_of(await client.completed(run_id))
            assert end["status"] == "cancelled", end
        await tab.completed(target.runs["strict"])
        astray = [
            (other.user, shape, run_id)
            for other in others
            for shape in SHAPES
            for run_id in other.got(shape)
            if run_id in target.runs.values()
        ]
        report(Row(fault=f"{tries} tries to get at another's run", lost=0, leaked=len(astray)))
        assert not astray, astray


def ended(frames: list[Frame], run_id: str) -> bool:
    return any(f["type"] == FIVE[-1] and f.get("run_id") == run_id for f in frames)


async def status(base: str, person: Person, query: dict[str, str]) -> int:
    """With which status a connection is refused; 101 when it is not."""
    headers = {"Authorization": f"Bearer {person.token}"}
    async with aiohttp.ClientSession() as http:
        try:
            async with http.ws_connect(f"{base}/ws", params=query, headers=headers):
                return 101
        except aiohttp.WSServerHandshakeError as refusal:
            return refusal.status
