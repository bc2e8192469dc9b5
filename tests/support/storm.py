"""Calls on one shared Redis client, most of them cancelled somewhere on their way.

Each call knows what its own answer looks like, so an answer that belongs to another call is seen.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import aiohttp
import pytest

from broker.channels import Owner, Scope
from broker.cursor import ZERO
from broker.errors import RunNotFound
from broker.redis.records import AgentSpec, RunRequest
from gateway.app import Gateway
from gateway.commands import new_id
from tests.support.servers import OPERATOR_KEY, token
from tests.support.wire import handshake

MOST_TURNS: Final = 25
"""Of the event loop, before a call is cancelled: a whole round trip takes fewer."""


class Storm:
    """What happens to the client of one gateway."""

    def __init__(self, gateway: Gateway, seed: int) -> None:
        self.gateway, self.broker = gateway, gateway.node.broker
        self.done: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._port = gateway.port

    @property
    def calls(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Every kind of call that waits for the shared client."""
        return {
            "execute": self._execute,
            "execute_many": self._execute_many,
            "open_run and publish": self._publish,
            "register": self._register,
            "read and glance": self._read,
            "run of nobody": self._run_of_nobody,
            "stop": self._stop,
            "open": self._open,
            "stats": self._stats,
            "handshake": self._handshake,
            "attach": self._attach,
        }

    async def blow(self, calls: int, *, at_once: int = 24) -> None:
        """So many calls, of every kind; three of four are cancelled after some turns."""
        names = list(self.calls)
        remaining = iter(range(calls))

        async def keep_calling() -> None:
            for number in remaining:
                await self._call(names[number % len(names)])

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(keep_calling())

    async def _call(self, name: str) -> None:
        task = asyncio.ensure_future(self.calls[name]())
        if self._rng.random() < 0.75:
            for _ in range(self._rng.randrange(MOST_TURNS)):
                await asyncio.sleep(0)
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        (self.cancelled if task.cancelled() else self.done)[name] += 1

    # --- the calls; each asserts that it got its own answer

    async def _execute(self) -> None:
        word = new_id()
        key = f"{self.broker.keys.prefix}:storm:{word}"
        await self.broker.client.execute("SET", key, word, "EX", 60)
        got = await self.broker.client.execute("GET", key)
        assert got == word.encode(), f"GET {key} gave {got}"

    async def _execute_many(self) -> None:
        words = [new_id() for _ in range(3)]
        keys = [f"{self.broker.keys.prefix}:storm:{word}" for word in words]
        commands = [("SET", key, word, "EX", 60) for key, word in zip(keys, words, strict=True)]
        await self.broker.client.execute_many(commands)
        got = await self.broker.client.execute_many([("GET", key) for key in keys])
        assert got == [word.encode() for word in words], f"GET {keys} gave {got}"

    async def _publish(self) -> None:
        request = self._request()
        claim = await self.broker.open_run(request, AgentSpec(name="any"), worker_id="storm")
        assert claim.run_id == request.run_id, f"opened {request.run_id}, got {claim}"
        assert claim.owner == request.owner, f"opened for {request.owner}, got {claim}"

    async def _register(self) -> None:
        request = self._request()
        registered = await self.broker.register(request, epoch_ms=0)
        assert registered.run_id == request.run_id, f"registered {request}, got {registered}"
        entries, _ = await self.broker.read(request.channel, ZERO)
        wanted = [request.owner.token.encode()]
        assert [each.owner for each in entries] == wanted, f"{request.channel.log!r}: {entries}"

    async def _read(self) -> None:
        request = self._request()
        entries, end = await self.broker.read(request.channel, ZERO)
        assert (entries, end) == ([], True), f"an empty log gave {entries}"
        glance = await self.broker.glance(request.channel, ZERO)
        assert (glance.found, glance.oldest) == (False, None), f"an empty log gave {glance}"
        assert await self.broker.ends([request.channel]) == [ZERO]

    async def _run_of_nobody(self) -> None:
        run_id = new_id()
        with pytest.raises(RunNotFound, match=run_id):
            await self.broker.run_channel(Owner("", run_id), run_id)

    async def _stop(self) -> None:
        run_id = new_id()
        with pytest.raises(RunNotFound, match=run_id):
            await self.broker.stop_run(Owner("", run_id), run_id)

    async def _open(self) -> None:
        channel = self._request().channel
        feed = await self.gateway.node.relay.open(channel, timeout_seconds=30)
        assert feed.channel == channel, f"opened {channel}, got {feed.channel}"

    async def _stats(self) -> None:
        headers = f"Authorization: Bearer {OPERATOR_KEY}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            request = f"GET /ws/stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n\r\n"
            writer.write(request.encode())
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
            assert b'"fleet"' in answer, answer[:200]
        finally:
            writer.transport.abort()

    async def _handshake(self) -> None:
        """A request for a WebSocket; cut off wherever the gateway is with it."""
        user = new_id()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            mode = self._rng.choice(["main", "factory", "isolated", "legacy"])
            bearer = f"Authorization: Bearer {token(user)}"
            after = "" if mode != "main" else "&after=1-1"
            writer.write(handshake(self._port, f"/ws?mode={mode}{after}", (bearer,)))
            answer = await reader.readuntil(b"connection_established")
            assert answer.startswith(b"HTTP/1.1 101"), answer[:200]
            hello = await reader.readuntil(b'"protocol":3')
            assert user.encode() in hello or mode == "legacy", f"{user} was greeted by {hello!r}"
        finally:
            writer.transport.abort()

    async def _attach(self) -> None:
        """A strict client that attaches to what is not there, detaches, and is gone."""
        user, run_id = new_id(), new_id()
        base = f"http://127.0.0.1:{self._port}/ws?mode=factory&isolation_level=strict"
        headers = {"Authorization": f"Bearer {token(user)}"}
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(base, headers=headers) as socket,
        ):
            for kind in ("attach", "detach", "stop_agent"):
                frame = {"type": kind, "id": f"{kind} {user}", "payload": {"run_id": run_id}}
                await socket.send_json(frame)
            replies: list[Any] = []
            while len(replies) < 3:
                frame = await socket.receive_json()
                if "ref" in frame:
                    replies.append(frame)
            for kind, reply in zip(("attach", "detach", "stop_agent"), replies, strict=True):
                assert reply["ref"] == f"{kind} {user}", f"{user} got {reply}"
                assert reply["payload"]["code"] == "run_not_found", f"{user} got {reply}"

    def _request(self) -> RunRequest:
        """Of a user that nobody else is."""
        word = new_id()
        owner = Owner("", word)
        channel = self.broker.keys.channel(owner, Scope.USER)
        return RunRequest(
            run_id=new_id(), owner=owner, channel=channel, thread_id="t", agent="any", content="x"
        )
