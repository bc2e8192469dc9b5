"""G4: every mode, user and thread at the same time on one Redis, and every pair of them judged."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from agents_sdk import Publisher
from broker.config import load_settings
from tests.support.chaos import Scene, chaos
from tests.support.chaos_report import Report, Row
from tests.support.clients import FIVE, Client, Frame, payload_of
from tests.support.matrix import SHAPES, THREADS, USERS, Origin, Person, reads

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(60)]


@asynccontextmanager
async def everybody(report: Report, people: int) -> AsyncIterator[tuple[Scene, list[Person]]]:
    async with chaos(report, gateways=2, workers=2) as scene, AsyncExitStack() as stack:
        bases = [gateway.base for gateway in scene.gateways]
        persons = [Person(number) for number in range(people)]
        for person in persons:
            await person.connect(bases, stack)
        yield scene, persons


async def publish(scene: Scene, persons: list[Person]) -> dict[str, Origin]:
    """Each person's backend publishes to the user, to both threads, and to a run."""
    origins: dict[str, Origin] = {}
    async with Publisher(settings=load_settings(redis_url=scene.redis.url)) as publisher:

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
        wanted: dict[tuple[int, str], set[str]] = {}
        for person in persons:
            for shape, client in person.clients.items():
                wanted[person.number, shape] = {
                    run_id
                    for run_id, origin in origins.items()
                    if reads(shape, person.number, origin, own=by.get(run_id) is client)
                }

        def lacks(person: Person, shape: str) -> set[str]:
            ended = {run for run, types in person.got(shape).items() if FIVE[-1] in types}
            return wanted[person.number, shape] - ended

        lost = 0
        for person in persons:
            for shape, client in person.clients.items():
                try:
                    await client.until(lambda _: not lacks(person, shape), seconds=20)  # noqa: B023 - awaited here
                except AssertionError:
                    lost += len(lacks(person, shape))
        # Whatever went astray would have come before this answer.
        for person in persons:
            for client in person.clients.values():
                await client.send("ping", ref="the end")
                await client.reply("the end")
        leaked, doubled, delivered, pairs = [], [], 0, 0
        for person in persons:
            for shape in SHAPES:
                pairs += len(origins)
                for run_id, types in person.got(shape).items():
                    five = [kind for kind in types if kind in FIVE]
                    delivered += len(five)
                    if run_id not in wanted[person.number, shape]:
                        leaked.append((person.user, shape, origins.get(run_id, run_id)))
                    elif five != list(FIVE):
                        doubled.append((person.user, shape, origins[run_id], five))
                    owners = {
                        frame.get("user_id", person.user)
                        for frame in person.clients[shape].frames
                        if frame.get("run_id") == run_id
                    }
                    assert owners == {person.user}, f"{person.user} was shown events of {owners}"
        report(
            Row(
                fault=f"leak matrix: {pairs} pairs of {len(wanted)} connections",
                published=5 * len(origins),
                delivered=delivered,
                lost=lost,
                doubled=len(doubled),
                leaked=len(leaked),
            )
        )
        assert not leaked, f"{len(leaked)} runs reached who must not see them: {leaked[:3]}"
        assert not lost, f"{lost} runs did not reach everybody whom the protocol names"
        assert not doubled, f"not the five, once, in order: {doubled[:3]}"
        everyone = sum(map(len, wanted.values()))
        assert everyone > 1.5 * len(origins), "hardly anybody was to get anything"


async def test_nobody_gets_at_what_is_not_his_by_asking(report: Report) -> None:
    """Attach, stop, resume and take up: with another's ids, each one true."""
    async with everybody(report, 6) as (scene, persons):
        victim, others = persons[0], persons[1:]
        bases = [gateway.base for gateway in scene.gateways]
        mine = victim.clients
        strict = await mine["strict"].ask("x", agent="waits", ref="v1")
        user = await mine["main"].ask("x", agent="waits", ref="v2")
        isolated = await mine["isolated"].ask("x", agent="waits", ref="v3")
        for shape, run_id in (("strict", strict), ("main", user), ("isolated", isolated)):
            await mine[shape].until(lambda frames, run=run_id: any(
                f["type"] == "tool_executing" and f["run_id"] == run for f in frames))  # fmt: skip
        event = mine["main"].events(user)[0]["id"]
        hello = payload_of(await mine["isolated"].first("connection_established"))
        tries = 0

        async def refused(client: Client, kind: str, run_id: str) -> None:
            nonlocal tries
            tries += 1
            ref = f"{kind} {run_id} {tries}"
            await client.send(kind, {"run_id": run_id, "content": "x", "request_id": "r"}, ref=ref)
            reply = await client.reply(ref)
            assert reply["type"] == "error", f"{client.user}: {kind} gave {reply}"
            code = payload_of(reply)["code"]
            assert code in ("run_not_found", "not_allowed"), f"{client.user}: {kind} gave {reply}"

        for other in others:
            for run_id in (strict, user, isolated):
                for shape in ("strict", "main", "factory", "isolated", "legacy"):
                    await refused(other.clients[shape], "stop_agent", run_id)
                    await refused(other.clients[shape], "user_input", run_id)
                    await refused(other.clients[shape], "attach", run_id)
                    await refused(other.clients[shape], "detach", run_id)
            # At the door: a foreign run, a foreign cursor, a foreign isolated connection.
            for base in bases:
                tries += 1
                asked = {"mode": "factory", "isolation_level": "strict", "run_id": strict}
                assert await status(base, other, asked) == 403
                for secret in (hello["secret"], "wrong", hello["secret"][:-1]):
                    tries += 1
                    asked = {
                        "mode": "isolated", "connection": hello["connection_id"], "secret": secret,
                    }  # fmt: skip
                    assert await status(base, other, asked) == 403
                tries += 1
                async with Client(base, other.user, token=other.token, after=event) as client:
                    await client.first("live")
                    seen = [f for f in client.frames if f.get("run_id") in (strict, user, isolated)]
                    assert not seen, f"{other.user} resumed into {seen}"
                    told = await client.first("resync")
                    assert payload_of(told)["reason"] in ("expired", "forked"), told
        # He himself, with a wrong secret, with a run that is not strict, and from another tab.
        for secret in ("wrong", "", hello["secret"].swapcase()):
            tries += 1
            asked = {"mode": "isolated", "connection": hello["connection_id"], "secret": secret}
            assert await status(bases[0], victim, asked) in (400, 403)
        for run_id in (user, isolated):
            await refused(mine["strict, another tab"], "attach", run_id)
        await mine["strict, another tab"].send(
            "attach", {"run_id": strict, "after": "0-0"}, ref="a"
        )
        assert (await mine["strict, another tab"].reply("a"))["type"] == "ok"
        # None of it stopped, moved or closed anything.
        for shape, run_id in (("strict", strict), ("main", user), ("isolated", isolated)):
            assert not ended(mine[shape].frames, run_id), f"{shape} was ended by somebody else"
            assert mine[shape].close_code is None, f"{shape} was closed"
            await mine[shape].send("stop_agent", {"run_id": run_id}, ref=f"stop {shape}")
            assert (await mine[shape].reply(f"stop {shape}"))["type"] == "ok"
            end = await mine[shape].completed(run_id)
            assert payload_of(end)["status"] == "cancelled", end
        await mine["strict, another tab"].completed(strict)
        astray = [
            (other.user, shape, run_id)
            for other in others
            for shape in SHAPES
            for run_id in other.got(shape)
            if run_id in (strict, user, isolated)
        ]
        report(Row(fault=f"{tries} tries to get at another's run", published=3, leaked=len(astray)))
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
