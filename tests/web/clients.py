"""The browser client in Node, and what it received, asked for and told its page, for the judge."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.support.clients import PATIENCE_SECONDS
from tests.support.history import Epoch, Frame, Place, Reader

DRIVER = Path(__file__).parent / "support" / "drive.js"


class NodeClient:
    """Everything that the program said, in order."""

    def __init__(self, user: str, mode: str, thread: str | None) -> None:
        self.user, self.mode, self.thread = user, mode, thread
        self.said: list[tuple[str, Any]] = []
        self.state = "idle"
        self._changed = asyncio.Condition()

    def all(self, what: str) -> list[Any]:
        """The values of one kind."""
        return [value for kind, value in self.said if kind == what]

    @property
    def place(self) -> Place:
        """The channel that it reads."""
        if self.mode == "main":
            return Place("user", self.user)
        if self.mode == "factory":
            return Place("thread", self.user, self.thread or "")
        welcomes = [f for f in self.all("in") if f["type"] == "connection_established"]
        return Place("connection", self.user, welcomes[-1]["payload"]["connection_id"])

    def readers(self) -> list[Reader]:
        """What came over the wire, connection by connection; and what the page was told, as one."""
        epochs: list[tuple[str | None, list[Frame], set[str]]] = []
        for kind, value in self.said:
            if kind == "connection":
                epochs.append((value["after"], [], set()))
            elif kind == "in":
                epochs[-1][1].append(value)
            elif kind == "out" and value.get("id"):
                epochs[-1][2].add(value["id"])
        wire = [Epoch(after, tuple(frames), frozenset(sent)) for after, frames, sent in epochs]
        first = next(after for after, _, _ in epochs)
        told = [Epoch(first or "0-0", tuple(self.all("told")))]
        thread = self.thread if self.mode == "main" else None
        return [
            Reader(f"{self.mode} on the wire", self.place, wire, thread, connected=True),
            Reader(f"{self.mode} as told", self.place, told, thread, connected=True),
        ]

    async def until(
        self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Wait until it is so."""
        async with asyncio.timeout(seconds), self._changed:
            try:
                await self._changed.wait_for(condition)
            except TimeoutError:
                raise TimeoutError(f"{what} within {seconds:g} s; last: {self.said[-5:]}") from None

    async def read(self, output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            kind, value = json.loads(line)
            async with self._changed:
                self.said.append((kind, value))
                if kind == "state":
                    self.state = value
                self._changed.notify_all()

    def stop(self) -> None:
        """No more messages once the run under way has ended."""
        self._stdin.write(b"stop\n")

    _stdin: asyncio.StreamWriter


@contextlib.asynccontextmanager
async def node_client(
    base: str,
    token: str,
    user: str,
    mode: str,
    *,
    thread: str | None = None,
    asks: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[NodeClient]:
    """``asks``: what it sends again and again. It is gone when this is left."""
    node = shutil.which("node")
    assert node, "Node.js is needed"
    given = {"url": f"{base}/ws", "token": token, "mode": mode, "asks": asks, **options}
    if thread:
        given["threadId"] = thread
    process = await asyncio.create_subprocess_exec(
        node, str(DRIVER), json.dumps(given),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    client = NodeClient(user, mode, thread)
    client._stdin = process.stdin
    reading = asyncio.create_task(client.read(process.stdout))
    try:
        yield client
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        await reading
