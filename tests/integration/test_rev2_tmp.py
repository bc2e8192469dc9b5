import asyncio
import pytest
from broker.channels import Owner, Scope
from broker.redis.broker import Broker
from gateway.app import Gateway
from tests.support.clients import Client, eventually
from tests.integration.test_log_check import append

async def test_detach_mid_replay(gateway: Gateway, broker: Broker, base: str) -> None:
    keys = gateway.node.keys
    owner = Owner("", "alice")
    ch = keys.channel(owner, Scope.RUN, "R1")
    await broker.client.execute("HSET", keys.run(ch.partition, "R1"), "owner", owner.token, "scope", "run", "name", "R1", "thread", "t", "state", "running", "agent", "a")
    for _ in range(600):
        await append(broker, ch)
    async with Client(base, "alice", mode="factory", isolation_level="strict") as c:
        await c.first("live")
        c2 = c
        await asyncio.gather(
            c.send("attach", {"run_id": "R1", "after": "0-0"}, ref="a1"),
            c.send("detach", {"run_id": "R1"}, ref="d1"),
            c.send("attach", {"run_id": "R1", "after": "0-0"}, ref="a2"))
        await c.reply("a2")
        await asyncio.sleep(1)
        seqs = [(f.get("ref") or f.get("id")) for f in c.frames]
        d = seqs.index("d1"); a2 = seqs.index("a2")
        between = [f for f in c.frames[d+1:a2] if f["type"]=="agent_thinking"]
        after = [f["id"] for f in c.frames[a2+1:] if f["type"]=="agent_thinking"]
        print("between detach and attach", len(between), "after a2", len(after), "unique", len(set(after)), "before d", sum(f["type"]=="agent_thinking" for f in c.frames[:d]))
        assert not between
        assert len(after) == len(set(after)) == 600
