"""The registry of runs and the request queue at their edges: long lists, and what the dead left."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from agents_sdk import Run, Worker
from agents_sdk.ids import new_id
from agents_sdk.service import ANNOUNCE_SECONDS
from broker.channels import Scope
from broker.config import Settings
from broker.errors import NotOwner, RunExists
from broker.lifecycle import State
from broker.publication import Publication
from broker.redis.broker import Broker
from broker.redis.queue import GROUP, RequestQueue
from broker.redis.records import AgentSpec, Claim, OnBusy, Registered
from tests.integration.sdk_rig import ALICE, alices, ask, ended, until

MANY = 9000
"""More than Lua takes as the arguments or results of one call (8000)."""


async def register(
    broker: Broker, thread_id: str, *, on_busy: OnBusy = "queue", run_id: str | None = None
) -> Registered:
    request = alices(broker, run_id=run_id or new_id(), thread_id=thread_id, message_id=new_id())
    spec = AgentSpec(name="a", on_busy=on_busy, retries=1)
    return await broker.register(request, spec, epoch_ms=0, echo=False)


async def forget(broker: Broker, registered: Registered) -> None:
    """The run's hash expires, or a failover loses it; its places in lists stay."""
    await broker.client.execute("DEL", broker.keys.run(registered.partition, registered.run_id))


async def waiting(broker: Broker, thread_id: str) -> list[str]:
    listed = await broker.client.execute("LRANGE", broker.keys.thread(ALICE, thread_id), 0, -1)
    return [each.decode() for each in listed]


async def claimed(broker: Broker, registered: Registered) -> Claim:
    claim = await broker.claim(registered.partition, registered.run_id, worker_id="w1")
    assert claim is not None
    return claim


async def due(broker: Broker, registered: Registered) -> tuple[Claim, str, str] | None:
    """Its deadline passes, and the sweeper decides."""
    leases = broker.keys.leases(registered.partition)
    await broker.client.execute("ZADD", leases, 1, registered.run_id)
    return await broker.take_over(registered.partition, registered.run_id, node_id="sweeper")


def end(claim: Claim) -> Publication:
    return Publication(
        seq=claim.seq + 1,
        event_type="agent_completed",
        body=b"{}",
        state=State.COMPLETED,
        sent="c",
        status="cancelled",
    )


async def queued(broker: Broker) -> list[str]:
    """Runs in the request queue, oldest first."""
    entries = await broker.client.execute("XRANGE", broker.keys.requests("a"), "-", "+")
    return [fields[1].decode().partition(" ")[2] for _, fields in entries]


@pytest.fixture
async def long_thread(broker: Broker) -> str:
    """A thread with more open runs than Lua can unpack."""
    thread = broker.keys.thread(ALICE, "long")
    partition = broker.keys.partition(ALICE)
    runs = [f"r{number}" for number in range(MANY)]
    keys = [broker.keys.run(partition, run) for run in runs]
    await broker.client.execute_many([("HSET", key, "state", "running") for key in keys])
    await broker.client.execute_many([("EXPIRE", key, 60) for key in keys])
    await broker.client.execute("RPUSH", thread, *runs)
    return "long"


async def test_a_thread_may_have_any_number_of_open_runs(broker: Broker, long_thread: str) -> None:
    """All of them are named to who interrupts them: ``unpack`` could name 8,000."""
    registered = await register(broker, long_thread, on_busy="interrupt")
    assert registered.busy == tuple(f"r{number}" for number in range(MANY))
    assert not registered.enqueue
    assert await due(broker, registered) is None, "held, and looked at, behind all of them"


async def test_a_run_may_have_any_number_of_open_calls_when_it_is_lost(broker: Broker) -> None:
    """All of them are void for the next attempt, and named to who ends the run for good."""
    registered = await register(broker, "t")
    await claimed(broker, registered)
    key = broker.keys.run(registered.partition, registered.run_id)
    calls = [word for number in range(MANY) for word in (f"call:c{number}", "1 lookup")]
    await broker.client.execute("HSET", key, *calls)
    assert await due(broker, registered) is None, "another attempt"
    assert await broker.client.execute("HLEN", key) < 40
    await claimed(broker, registered)
    await broker.client.execute("HSET", key, *calls)
    taken = await due(broker, registered)
    assert taken is not None
    claim, status, _ = taken
    assert (status, len(claim.open_calls)) == ("abandoned", MANY)


async def test_a_registration_passes_over_runs_that_are_gone(broker: Broker) -> None:
    """Wherever on the list; a run of a strange name is not taken for one that is gone."""
    first, second, third = [await register(broker, "t") for _ in range(3)]
    strange = await register(broker, "t", run_id="ü/{x}:%41 ~")
    await forget(broker, first)
    await forget(broker, third)
    fifth = await register(broker, "t")
    assert fifth.busy == (second.run_id, strange.run_id)
    assert await waiting(broker, "t") == [*fifth.busy, fifth.run_id]


async def test_a_thread_whose_runs_are_all_gone_is_free(broker: Broker) -> None:
    for registered in [await register(broker, "t") for _ in range(3)]:
        await forget(broker, registered)
    following = await register(broker, "t", on_busy="reject")
    assert (following.busy, following.enqueue) == ((), True)


async def test_the_sweeper_lets_a_run_go_that_was_held_behind_one_that_is_gone(
    broker: Broker,
) -> None:
    first, second, third = [await register(broker, "t") for _ in range(3)]
    await forget(broker, first)
    await due(broker, third)
    assert await queued(broker) == [], "the third is behind the second"
    await due(broker, second)
    assert await queued(broker) == [second.run_id]
    assert await waiting(broker, "t") == [second.run_id, third.run_id]


async def test_the_end_of_a_run_releases_the_next_that_is_there(broker: Broker) -> None:
    first, second, third = [await register(broker, "t") for _ in range(3)]
    claim = await claimed(broker, first)
    await forget(broker, second)
    await broker.publish(claim, end(claim))
    assert await queued(broker) == [third.run_id]
    await claimed(broker, third)
    assert await waiting(broker, "t") == [third.run_id]


async def test_a_release_passes_over_runs_that_are_gone(broker: Broker) -> None:
    first, second = [await register(broker, "t") for _ in range(2)]
    await broker.release(ALICE, "t", second.run_id)
    assert await queued(broker) == [], "it is not its turn"
    await forget(broker, first)
    await broker.release(ALICE, "t", second.run_id)
    assert await queued(broker) == [second.run_id]


async def test_opening_a_run_again_gives_the_same_claim_to_its_own_process_only(
    broker: Broker,
) -> None:
    """As after a lost reply. It is renewed in Redis: ``WAIT`` needs something to wait for."""
    request = alices(broker)
    spec = AgentSpec(name="a", on_busy="parallel")
    first = await broker.open_run(request, spec, worker_id="w1")
    key = broker.keys.run(first.partition, first.run_id)
    await broker.client.execute("EXPIRE", key, 50)
    assert await broker.open_run(request, spec, worker_id="w1") == first
    assert await broker.client.execute("TTL", key) > 50
    with pytest.raises(RunExists):
        await broker.open_run(request, spec, worker_id="w2")


async def test_a_run_claimed_after_it_was_stopped_is_ended_by_the_stop_deadline(
    broker: Broker,
) -> None:
    """Also when the lease is longer and its worker is lost at once."""
    broker.limits = replace(broker.limits, lease_seconds=3600)
    registered = await register(broker, "t")
    await broker.stop_run(ALICE, registered.run_id)
    claim = await claimed(broker, registered)
    assert claim.stop_requested
    run, leases = (
        broker.keys.run(registered.partition, registered.run_id),
        broker.keys.leases(registered.partition),
    )
    deadline = await broker.client.execute("HGET", run, "stop")
    assert await broker.client.execute("ZSCORE", leases, registered.run_id) == deadline


async def test_a_repeated_event_renews_its_run(broker: Broker) -> None:
    """As above; and a repeated message its own key."""
    registered = await register(broker, "t")
    claim = await claimed(broker, registered)
    said = await broker.publish(claim, end(claim))
    key = broker.keys.run(registered.partition, registered.run_id)
    await broker.client.execute("EXPIRE", key, 50)
    assert await broker.publish(claim, end(claim)) == said
    assert await broker.client.execute("TTL", key) > 50


async def test_a_repeated_message_keeps_the_run_that_it_began(broker: Broker) -> None:
    """Its key alone was renewed, and outlived the run: then the message was of no run any more."""
    request = alices(broker, message_id=new_id())
    first = await broker.register(request, epoch_ms=0)
    keys = (
        broker.keys.run(first.partition, first.run_id),
        broker.keys.message(ALICE, request.message_id or ""),
    )
    for key in keys:
        await broker.client.execute("EXPIRE", key, 50)
    again = await broker.register(replace(request, run_id=new_id()), epoch_ms=0)
    assert (again.run_id, again.duplicate) == (first.run_id, True)
    lives = [await broker.client.execute("TTL", key) for key in keys]
    assert min(lives) > broker.limits.history_ttl_seconds


# --- consumers of the request queue


async def consumers(broker: Broker, agent: str) -> dict[str, int]:
    """Name → how many requests it has pending."""
    queue = broker.keys.requests(agent)
    found = {}
    for flat in await broker.client.execute("XINFO", "CONSUMERS", queue, GROUP):
        each = dict(zip(flat[::2], flat[1::2], strict=True))
        found[each[b"name"].decode()] = each[b"pending"]
    return found


def worker(settings: Settings, *agents: str) -> Worker:
    worker = Worker(settings=settings.model_copy(update={"drain_seconds": 5}))
    for agent in agents:

        @worker.agent(agent)
        async def five(run: Run) -> str:
            await run.think("…")
            return "done"

    return worker


async def dead(broker: Broker, settings: Settings, agent: str, *, name: str, count: int) -> None:
    """A worker that read up to ``count`` requests and died."""
    assert settings.redis_url is not None
    queue = RequestQueue(settings.redis_url, keys=broker.keys, consumer=name, client=broker.client)
    await queue.start([agent])
    await queue.take(count)
    await queue.stop()


async def test_a_drained_worker_leaves_no_name_behind(settings: Settings, broker: Broker) -> None:
    async with worker(settings, "one", "two").running() as service:
        await ended(broker, await ask(broker, "one"))
        await until(lambda: service.running == 0)
        assert service.id in await consumers(broker, "one")
    assert await consumers(broker, "one") == {}
    assert await consumers(broker, "two") == {}


async def test_a_name_with_requests_pending_stays_until_they_are_taken_over(
    settings: Settings, broker: Broker
) -> None:
    """It has the key to them: without it nobody would find them."""
    async with worker(settings, "one").running():
        pass
    await ask(broker, "one")
    await dead(broker, settings, "one", name="dead", count=1)
    assert settings.redis_url is not None
    own = RequestQueue(settings.redis_url, keys=broker.keys, consumer="dead", client=broker.client)
    await own.start(["one"])
    await own.stop()
    await own.leave()
    assert await consumers(broker, "one") == {"dead": 1}


async def test_names_of_dead_workers_are_taken_off_by_the_next_start(
    settings: Settings, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are idle for long, and have nothing pending."""
    async with worker(settings, "one").running():
        pass
    await ask(broker, "one")
    await dead(broker, settings, "one", name="dead with a request", count=1)
    await ask(broker, "one")
    await dead(broker, settings, "one", name="idle", count=1)
    entry = (await broker.client.execute("XRANGE", broker.keys.requests("one"), "-", "+"))[1][0]
    await broker.client.execute("XACK", broker.keys.requests("one"), GROUP, entry)
    idle_from = time.monotonic()
    await dead(broker, settings, "one", name="looking", count=1)
    assert set(await consumers(broker, "one")) >= {"dead with a request", "idle"}
    monkeypatch.setattr("broker.redis.queue._RETIRE_IDLE_MS", 1)
    await until(lambda: time.monotonic() - idle_from > 0.01)
    await dead(broker, settings, "one", name="next", count=1)
    left = await consumers(broker, "one")
    assert "dead with a request" in left
    assert "idle" not in left


async def test_a_queue_that_is_gone_does_not_keep_a_worker_from_leaving(
    settings: Settings, broker: Broker
) -> None:
    async with worker(settings, "one").running():
        await broker.client.execute("DEL", broker.keys.requests("one"))


async def test_agents_are_known_between_announcements_however_short_the_retention_time_is(
    broker: Broker,
) -> None:
    """With three seconds they were unknown for two of every five."""
    broker.limits = replace(broker.limits, history_ttl_seconds=3)
    await broker.announce([AgentSpec(name="a")])
    assert await broker.client.execute("TTL", broker.keys.agents) > 2 * ANNOUNCE_SECONDS


async def lost(broker: Broker, registered: Registered) -> Claim:
    """What its first worker had, before it was lost and the run queued again."""
    claim = await claimed(broker, registered)
    await broker.publish_delta(claim, offset=0, text="longer than the next")
    assert await due(broker, registered) is None
    return claim


async def test_what_a_lost_attempt_wrote_is_not_taken_for_the_next_ones_text(
    broker: Broker,
) -> None:
    """A delta that the kept text covers has been published already, and is not again."""
    registered = await register(broker, "t")
    first = await lost(broker, registered)
    second = await claimed(broker, registered)
    assert await broker.publish_delta(second, offset=0, text="anew") == len("anew")
    text = await broker.text(first.channel, first.run_id)
    assert text is not None
    assert text.text == b"anew"


async def test_a_run_that_lost_its_worker_waits_for_one_as_a_new_one_does(broker: Broker) -> None:
    """Its request may be lost once more, whether or not that of the first attempt was; and while
    it waits it is among those that its owner has waiting."""
    registered = await register(broker, "t")
    assert await due(broker, registered) is None  # its request may have been lost: once more
    await lost(broker, registered)
    score = ("ZSCORE", broker.keys.runs(ALICE), registered.run_id)
    assert float(await broker.client.execute(*score)) == 0
    before = len(await queued(broker))
    assert await due(broker, registered) is None
    assert len(await queued(broker)) == before + 1
    decided = await due(broker, registered)
    assert decided is not None
    assert decided[1:] == ("abandoned", "queue_timeout")


async def test_who_goes_on_in_spite_of_a_stop_is_ended_at_its_deadline(broker: Broker) -> None:
    """However often its worker renews; the first request sets the deadline, and a lease that ends
    before it counts: its worker may be dead."""
    whole = broker.limits
    broker.limits = replace(whole, lease_seconds=600, stop_deadline_seconds=300)
    registered = await register(broker, "t")
    claim = await claimed(broker, registered)
    key = broker.keys.run(registered.partition, registered.run_id)
    leases = broker.keys.leases(registered.partition)

    async def looked_at() -> float:
        return float(await broker.client.execute("ZSCORE", leases, registered.run_id))

    await broker.stop_run(ALICE, registered.run_id)
    deadline = float(await broker.client.execute("HGET", key, "stop"))
    assert await looked_at() == deadline
    renewal = await broker.renew(claim)
    assert (renewal.held, renewal.stop) == (True, True)
    assert await looked_at() == deadline
    broker.limits = replace(whole, lease_seconds=60, stop_deadline_seconds=900)
    await broker.stop_run(ALICE, registered.run_id)
    assert await looked_at() == float(await broker.client.execute("HGET", key, "stop")) == deadline
    await broker.renew(claim)
    assert (leased := await looked_at()) < deadline
    await broker.stop_run(ALICE, registered.run_id)
    assert await looked_at() == leased
    taken = await due(broker, registered)
    assert taken is not None
    assert taken[1:] == ("cancelled", "stopped")
    assert not (await broker.renew(claim)).held, "it is the sweeper's now"

    broker.limits = replace(whole, lease_seconds=60, stop_deadline_seconds=900)
    registered = await register(broker, "another")
    await claimed(broker, registered)
    leased = await looked_at()
    await broker.stop_run(ALICE, registered.run_id)
    assert await looked_at() == leased


async def test_a_run_that_is_held_keeps_all_that_it_is_listed_in(broker: Broker) -> None:
    """Whatever it waits behind takes longer than keys live, and only the sweeper looks at it."""
    first = await register(broker, "t")
    held = await register(broker, "t")
    keys = (
        broker.keys.run(held.partition, held.run_id),
        broker.keys.channel(ALICE, Scope.USER).open,
        broker.keys.thread(ALICE, "t"),
        broker.keys.runs(ALICE),
    )
    await broker.client.execute_many([("EXPIRE", key, 50) for key in keys])
    assert await due(broker, held) is None
    kept = await broker.client.execute_many([("TTL", key) for key in keys])
    assert min(kept) > 50, kept
    assert await waiting(broker, "t") == [first.run_id, held.run_id]


async def test_a_lease_that_is_renewed_keeps_all_of_its_run(broker: Broker) -> None:
    """However long it says nothing: what it began with is there when it goes on."""
    registered = await register(broker, "t")
    claim = await claimed(broker, registered)
    await broker.publish_delta(claim, offset=0, text="so far")
    thought = Publication(
        seq=1, event_type="agent_thinking", body=b"{}", state=State.RUNNING, sent="th"
    )
    await broker.publish(claim, thought)
    keys = (
        broker.keys.run(claim.partition, claim.run_id),
        broker.keys.leases(claim.partition),
        claim.channel.log,
        broker.keys.text(claim.partition, claim.run_id),
        broker.keys.runs(ALICE),
    )
    await broker.client.execute_many([("EXPIRE", key, 50) for key in keys])
    assert (await broker.renew(claim)).held
    kept = await broker.client.execute_many([("TTL", key) for key in keys])
    assert min(kept) > 50, kept


@pytest.mark.parametrize("foreign", ["channel", "thread"])
async def test_nothing_of_a_run_goes_where_it_is_not(broker: Broker, foreign: str) -> None:
    """Neither an event nor its text: whoever holds a claim that says otherwise is refused."""
    registered = await register(broker, "t")
    claim = await claimed(broker, registered)
    elsewhere = broker.keys.channel(ALICE, Scope.THREAD, "t")
    other = {
        "channel": replace(claim, channel=elsewhere),
        "thread": replace(claim, head=claim.head.replace(b" t ", b" u ")),
    }
    with pytest.raises(NotOwner):
        await broker.publish(other[foreign], end(claim))
    with pytest.raises(NotOwner):
        await broker.publish_delta(other[foreign], offset=0, text="x")
    assert await broker.text(claim.channel, claim.run_id) is None
    assert not await broker.client.execute("EXISTS", elsewhere.log, claim.channel.log)
