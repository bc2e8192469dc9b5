"""Users whose tokens are revoked, renewed and mixed up while events flow to them."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import aiohttp

from broker.channels import Owner
from gateway.tokens import issue_token
from tests.support.chaos import QUICK_SECONDS
from tests.support.clients import FIVE, Client, Frame, payload_of
from tests.support.servers import OPERATOR_KEY, SECRET

MODES: Final = ("main", "factory", "isolated", "legacy")
PATIENCE: Final = 40.0
GENERATION_SECONDS: Final = 2
"""Between the times of issue of a user's tokens, all of them in the past."""


class Person:
    """One user, and which generation of his tokens counts."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self._first = int(time.time()) - 1000
        self._generation = 0

    @property
    def issued_at(self) -> int:
        return self._first + self._generation * GENERATION_SECONDS

    def token(self) -> str:
        return issue_token(
            secret=SECRET,
            alg="HS256",
            user=self.owner.user,
            tenant=self.owner.tenant or None,
            ttl_seconds=5000,
            now=self.issued_at,
        )

    def age(self) -> int:
        """Tokens are of the next generation from now on; the moment that parts it from the last."""
        self._generation += 1
        return self.issued_at - 1


class Seat:
    """One user's place in one mode: a connection that is made anew, where it was, when it ends."""

    def __init__(self, person: Person, mode: str, bases: Sequence[str]) -> None:
        self.person, self.mode, self._bases = person, mode, bases
        self.frames: list[Frame] = []
        self.sent = 0
        self.codes: list[int] = []
        self.late: list[Frame] = []
        self.void_from: float | None = None
        """When the revocation of the token in use was confirmed (wall clock)."""
        self.there = asyncio.Event()
        self._turn = 0
        self._client: Client | None = None
        self._query = {"mode": mode}
        if mode == "factory":
            self._query["thread_id"] = "t"

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    async def join(self, *, by_ticket: bool = False) -> None:
        """Connect at the next gateway, from where the last connection was."""
        deadline = time.monotonic() + PATIENCE
        while True:
            base = self._bases[self._turn % len(self._bases)]
            self._turn += 1
            self.token = self.person.token()
            headers, query = {"Authorization": f"Bearer {self.token}"}, dict(self._query)
            try:
                if by_ticket:
                    query["ticket"], headers = await ticket(base, headers), {}
                self._client = await Client(base, headers=headers, query=query).__aenter__()
                await self._client.first("connection_established")
                break
            except (aiohttp.ClientError, KeyError, AssertionError):
                # Its generation was revoked on the way; the next try has the next.
                assert time.monotonic() < deadline, f"{self.person.owner} {self.mode} stays outside"
        hello = payload_of(await self.client.first("connection_established"))
        assert hello["user_id"] == self.person.owner.user
        if self.mode == "isolated":
            self._query |= {"connection": hello["connection_id"]}
            self._query.setdefault("secret", hello.get("secret", ""))
        if self.mode != "legacy":
            self._query.setdefault("after", hello["cursor"])
        self.there.set()

    async def left(self) -> None:
        """Keep what the ended connection brought."""
        client, self._client = self.client, None
        self.there.clear()
        await client.__aexit__()
        self.codes.append(client.close_code or 0)
        self.frames += client.frames
        if self.void_from is not None:
            limit = self.void_from
            pairs = zip(client.frames, client.times, strict=True)
            self.late += [frame for frame, at in pairs if at > limit + QUICK_SECONDS]
            self.void_from = None
        ids = [frame["id"] for frame in client.logged() if frame["type"] != "error"]
        if ids and self.mode != "legacy":
            self._query["after"] = ids[-1]

    async def ask(self, number: int) -> str | None:
        """A run that is begun here; None when the connection ended before it was accepted."""
        await self.there.wait()
        ref, client = f"{self.mode} {number}", self.client

        def answered(frames: list[Frame]) -> Any:
            return client.close_code is not None or [f for f in frames if f.get("ref") == ref]

        try:
            await client.send("user_message", {"content": "x", "agent": "five"}, ref=ref)
        except (ConnectionError, aiohttp.ClientError):
            self._lost(client)
            return None
        await client.until(answered, seconds=PATIENCE, what=f"an answer to {ref}")
        replies = [frame for frame in client.frames if frame.get("ref") == ref]
        if not replies:
            self._lost(client)
            return None
        assert replies[0]["type"] == "run_accepted", replies
        run_id: str = payload_of(replies[0])["run_id"]
        return run_id

    def _lost(self, client: Client) -> None:
        """It ended; whoever ended it joins again, and may have done so already."""
        if self._client is client:
            self.there.clear()

    async def leave(self) -> None:
        """For good, however far it is."""
        if self._client is not None:
            await self.left()

    def got(self) -> dict[str, list[str]]:
        """Run id → the types of its lifecycle events, in the order in which they came."""
        found: dict[str, list[str]] = {}
        for frame in self.frames:
            if frame["type"] in FIVE:
                found.setdefault(frame["run_id"], []).append(frame["type"])
        return found


async def ticket(base: str, headers: dict[str, str]) -> str:
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{base}/ws/ticket") as response,
    ):
        made: str = (await response.json())["ticket"]
        return made


async def revoke(base: str, **body: Any) -> float:
    """Order it; when it was confirmed (wall clock)."""
    headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{base}/api/v1/admin/revocations", json=body) as response,
    ):
        assert response.status == 202, await response.text()
        return time.time()


async def closed(client: Client) -> int:
    """The close code, once there is one."""
    return await client.closed(seconds=PATIENCE)


async def gathered(*work: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)
