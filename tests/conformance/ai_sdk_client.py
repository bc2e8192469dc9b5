"""Official AI SDK chats in one Node process, and what their pages would show."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.servers import token

PROGRAM = Path(__file__).parent / "support" / "ai-sdk.mjs"
PATIENCE_SECONDS = 60.0

Part = dict[str, Any]


@dataclass
class Chat:
    """One chat's page."""

    client: "Client"
    name: str
    status: str = "ready"
    error: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    finished: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)

    def take(self, said: dict[str, Any]) -> None:
        if "status" in said:
            self.status, self.error = said["status"], said.get("error")
            self.messages = said["messages"]
        for name in ("finished", "asked"):
            if name in said:
                getattr(self, name).append(said[name])
        if "done" in said:
            self.done.append(said)

    async def do(self, action: str, **given: Any) -> None:
        """Begin something; :meth:`until` tells when it has come about."""
        await self.client.do(action, chat=self.name, **given)

    async def send(self, text: str, **given: Any) -> None:
        await self.do("send", message={"text": text, **given})

    async def ends(self, action: str, **given: Any) -> None:
        """Do something, to its end."""
        before = self.times(action)
        await self.do(action, **given)
        await self.until(lambda: self.times(action) > before)

    async def shows(self, text: str, *, status: str = "streaming") -> None:
        """Until that is all of its text."""
        await self.until(lambda: (self.text, self.status) == (text, status))

    async def finishes(self, times: int) -> None:
        """Until its responses have been over that often."""
        await self.until(lambda: len(self.finished) >= times)

    def times(self, action: str) -> int:
        """How often it has come to its end."""
        return sum(each["done"] == action for each in self.done)

    async def until(self, condition: Callable[[], object]) -> None:
        await self.client.until(condition, lambda: self)

    @property
    def reply(self) -> dict[str, Any]:
        """The last message, which is an assistant's."""
        assert self.messages[-1]["role"] == "assistant"
        return self.messages[-1]

    def parts(self, kind: str) -> list[Part]:
        replies = [m for m in self.messages if m["role"] == "assistant"]
        return [part for part in replies[-1]["parts"] if part["type"] == kind] if replies else []

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.parts("text"))

    @property
    def told(self) -> dict[str, Any]:
        """Ours of its metadata."""
        ours: dict[str, Any] = self.reply["metadata"]["runcast"]
        return ours


class Client:
    """The Node process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._chats: dict[str, Chat] = {}
        self._changed = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def open(
        self,
        base: str,
        kind: str,
        *,
        agent: str,
        id: str = "c",
        user: str = "alice",
        transport: str | None = None,
        **options: Any,
    ) -> Chat:
        name = f"chat {len(self._chats)}"
        chat = self._chats[name] = Chat(self, name)
        url = f"{base}/ai-sdk/{agent}"
        await chat.ends(
            "open", id=id, kind=kind, url=url, token=token(user), transport=transport or name,
            **options,
        )  # fmt: skip
        return chat

    async def do(self, action: str, **given: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"action": action, **given}).encode() + b"\n")
        await self._process.stdin.drain()

    async def until(self, condition: Callable[[], object], shown: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"it does not come about: {shown()}") from None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            async with self._changed:
                if said.get("chat") in self._chats:
                    self._chats[said["chat"]].take(said)
                self._changed.notify_all()

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reader


@asynccontextmanager
async def running_client() -> AsyncIterator[Client]:
    """The process; whatever it says besides is shown by pytest."""
    process = await asyncio.create_subprocess_exec(
        "node", str(PROGRAM), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )  # fmt: skip
    client = Client(process)
    try:
        yield client
    finally:
        await client.end()
