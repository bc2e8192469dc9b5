"""Connecting against publishing: a channel, what is published to it, and who reads from when.

A :class:`Lane` is one user's channel. Wherever a gateway waits for Redis about that channel (before
it asks, and after it was answered) the lane may publish: nothing, without waiting, or until Redis
has acknowledged it, and then let the event loop turn a few times. Which of these is drawn from a
seed, so that over many connections every order of the steps occurs.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import pytest

from agents_sdk import Publisher, Run
from agents_sdk.run import Scope
from broker.channels import Owner
from broker.channels import Scope as ChannelScope
from gateway.app import Gateway
from tests.support.history import (
    Emission,
    Entry,
    Epoch,
    Frame,
    History,
    Outcome,
    Place,
    Reader,
    RunRecord,
    Violation,
    check,
    cursor,
)
from tests.support.servers import token

KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "main": {},
    "main, one thread": {"thread_id": "t"},
    "factory": {"mode": "factory", "thread_id": "t"},
    "strict": {"mode": "factory", "isolation_level": "strict"},
}
"""How a lane's clients connect; a strict one names the run as well."""

SCOPES: Final = {"main": "user", "main, one thread": "user", "factory": "thread", "strict": "run"}
STARTS: Final = ("now", "newest", "somewhere", "0-0")

READ_SECONDS: Final = 30.0
UNREADY: Final = 503
UNAVAILABLE: Final = 4503
"""What a gateway answers that does not get to hear a channel in time."""
MOST_TURNS: Final = 12


@dataclass
class Reading:
    """One connection: where it began, what came, and the last id that it waited for."""

    start: str | None
    frames: list[Frame] = field(default_factory=list)
    until: str = "0-0"

    @property
    def position(self) -> str:
        """How far it is."""
        ids = (str(frame["id"]) for frame in reversed(self.frames) if "id" in frame)
        return next(ids, self.began)

    @property
    def began(self) -> str:
        """After which event it reads: what it asked for, or what it was told."""
        return self.start if self.start is not None else str(self.frames[0]["payload"]["cursor"])

    def faults(self, text: str) -> list[str]:
        """What is wrong with it, apart from its events; ``text``: all that the run streamed."""
        types = [frame["type"] for frame in self.frames]
        found = [f"{kind} {types.count(kind)} times" for kind in ("connection_established", "live")
                 if types.count(kind) != 1]  # fmt: skip
        if "resync" in types:
            found.append(f"an uncalled-for {self.frames[types.index('resync')]}")
        if self.frames[0]["payload"]["recovered"] != (self.start is not None):
            found.append(f"the wrong recovered: {self.frames[0]}")
        has: str | None = None
        for frame in self.frames:
            if frame["type"] == "agent_delta":
                offset, piece = frame["payload"]["offset"], frame["payload"]["text"]
                if offset and (has is None or offset != len(has)):
                    found.append(f"text that continues nothing: {frame} after {has!r}")
                has = (has or "") + piece if offset else piece
        if has is not None and not text.startswith(has):
            found.append(f"{has!r}, which is not how the text begins")
        return found


class Lane:
    """One channel with its publisher, one run long."""

    def __init__(self, name: str, kind: str, publisher: Publisher) -> None:
        self.user, self.kind, self.place = name, kind, Place("user", name)
        self.rng = random.Random(name)
        self.readings: list[Reading] = []
        self.emissions: list[Emission] = []
        self.runs: dict[str, RunRecord] = {}
        self.refused = 0
        """Connections that were closed with 4503 and made again."""
        self.text = ""
        self._publisher = publisher
        self._run: Run | None = None
        self._noise: Run | None = None
        self._ids: list[str] = []
        self._publishing: set[asyncio.Task[None]] = set()
        self._number = 0

    # --- publishing

    async def live(
        self, connections: int, connect: Callable[["Lane"], Coroutine[Any, Any, None]]
    ) -> None:
        """One run from its beginning to its end; the last connection is made while it ends."""
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(self._open("t"))
            names = {"user": "", "thread": "t", "run": run.id}
            scope = SCOPES[self.kind]
            self.place = Place(scope, self.user, names[scope])
            self.runs[run.id] = RunRecord(run.id, self.place, "t")
            if self.kind == "main, one thread":
                self._noise = await stack.enter_async_context(self._open("another"))
                self.runs[self._noise.id] = RunRecord(self._noise.id, self.place, "another")
            self._run = run
            await self.publish()
            for _ in range(connections - 1):
                await connect(self)
            async with asyncio.TaskGroup() as group:
                group.create_task(connect(self))
                for _ in range(self.rng.randrange(4 * MOST_TURNS)):
                    await asyncio.sleep(0)
                self._run = None
                await self.published()
                end = {"response": "raced", "complete": True}
                self._ids.append(await run.emit_event("agent_completed", end))

    def _open(self, thread: str) -> Scope:
        return self._publisher.run(
            user_id=self.user,
            agent_name="racer",
            thread_id=thread,
            scope=SCOPES[self.kind],  # type: ignore[arg-type]  # one of its literals
        )

    async def publish(self) -> None:
        """One event, if the run is still open; after some streamed text, now and then."""
        run = self._run
        if run is None:
            return
        self._number += 1
        marker = f"{self.user} {self._number}"
        if self._number % 5 == 0:
            self.text += f"{self._number} "
            await run.write(f"{self._number} ")
        if self._noise is not None and self._number % 3 == 0:
            await self._noise.think(f"noise {marker}")
        if self._run is not None:
            event = await run.emit_event("agent_thinking", {"thoughts": marker})
            self.emissions.append(Emission(run.id, marker, Outcome.OK, event))
            self._ids.append(event)

    async def published(self) -> str:
        """The newest id, once nothing is under way."""
        while self._publishing:
            await asyncio.gather(*self._publishing)
        return max(self._ids, key=cursor)

    async def step(self) -> None:
        """The gateway is about to ask Redis, or was answered: publish now, or not."""
        match self.rng.randrange(4):
            case 0:
                task = asyncio.get_running_loop().create_task(self.publish())
                self._publishing.add(task)
                task.add_done_callback(self._publishing.discard)
            case 1:
                await self.publish()
            case 2:
                await self.publish()
                await self.publish()
        for _ in range(self.rng.randrange(MOST_TURNS)):
            await asyncio.sleep(0)

    # --- reading

    async def read(self, base: str, http: aiohttp.ClientSession) -> None:
        """Connect, and read until all that was published before some later moment is here."""
        while not await self._read_once(base, http):
            self.refused += 1

    async def _read_once(self, base: str, http: aiohttp.ClientSession) -> bool:
        reading = Reading(self._start())
        query = dict(KINDS[self.kind])
        if reading.start is not None:
            query["after"] = reading.start
        if self.kind == "strict":
            query["run_id"] = self.place.name
        headers = {"Authorization": f"Bearer {token(self.user)}"}
        url = f"{base}/ws?{urlencode(query)}"
        what = "to connect"
        try:
            async with (
                asyncio.timeout(READ_SECONDS),
                http.ws_connect(url, headers=headers) as socket,
            ):
                what = "to be live"
                while not reading.frames or reading.frames[-1]["type"] != "live":
                    message = await socket.receive()
                    if message.type is aiohttp.WSMsgType.CLOSE and message.data == UNAVAILABLE:
                        return False
                    reading.frames.append(message.json())
                await self.publish()
                reading.until = await self.published()
                what = f"to have {reading.until}"
                while cursor(reading.position) < cursor(reading.until):
                    reading.frames.append(await socket.receive_json())
        except (TimeoutError, TypeError, aiohttp.ClientError) as error:  # TypeError: it was closed
            if isinstance(error, aiohttp.WSServerHandshakeError) and error.status == UNREADY:
                return False
            seen = [(frame["type"], frame.get("id")) for frame in reading.frames]
            raise AssertionError(
                f"{self.user} after {reading.start}, waiting {what}: {error!r}; got {seen}"
            ) from error
        self.readings.append(reading)
        return True

    def _start(self) -> str | None:
        match self.rng.choice(STARTS):
            case "newest":
                return max(self._ids, key=cursor)
            case "somewhere":
                return self.rng.choice(self._ids)
            case "0-0":
                return "0-0"
        return None

    # --- judging

    def violations(self, log: Sequence[Entry]) -> list[Violation]:
        """Every breach: each reading against the part of the log that it waited for."""
        found = check(History(self.runs, self.emissions, [], {self.place: log}))
        thread = "t" if self.kind == "main, one thread" else None
        for number, reading in enumerate(self.readings):
            end = max(cursor(reading.until), cursor(reading.position))
            part = [entry for entry in log if cursor(entry.id) <= end]
            epoch = Epoch(reading.start, reading.frames)
            reader = Reader(f"{self.user} #{number}", self.place, [epoch], thread)
            judged = History(self.runs, [], [reader], {self.place: part})
            found += [each for each in check(judged) if each.who.startswith("client")]
        return found

    def faults(self) -> list[str]:
        """What is wrong with the readings' frames other than events."""
        return [
            f"{self.user} #{number}: {fault}"
            for number, reading in enumerate(self.readings)
            for fault in reading.faults(self.text)
        ]


class Interleaving:
    """Lets lanes publish at every point at which a gateway waits for Redis about their channel."""

    def __init__(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lanes: dict[bytes, Lane] = {}
        """By their live channel."""
        self.points: Counter[str] = Counter()
        """Where there was a chance to publish, and how often."""
        node = gateway.node
        self._keys = node.keys
        for name in ("state", "texts", "open_texts", "resume", "read"):
            self._hook(monkeypatch, node.broker, name, lambda channel: channel.live)
        self._hook(monkeypatch, node.relay.subscriber, "subscribe", lambda channel: channel)

    def add(self, lane: Lane) -> bytes:
        """From now on; the lane's live channel."""
        owner = Owner("", lane.user)
        channel = self._keys.channel(owner, ChannelScope(lane.place.scope), lane.place.name)
        self.lanes[channel.live] = lane
        return channel.live

    def _hook(
        self,
        monkeypatch: pytest.MonkeyPatch,
        whose: object,
        name: str,
        live: Callable[[Any], bytes],
    ) -> None:
        original = getattr(whose, name)

        async def hooked(subject: Any, *args: Any, **options: Any) -> Any:
            lane = self.lanes.get(live(subject))
            if lane is not None:
                self.points[f"before {name}"] += 1
                await lane.step()
            result = await original(subject, *args, **options)
            if lane is not None:
                self.points[f"after {name}"] += 1
                await lane.step()
            return result

        monkeypatch.setattr(whose, name, hooked)
