"""Official AI SDK chats in one Node process, and what their pages would show."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.node_program import NodeProgram
from tests.support.servers import token

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


class Client(NodeProgram):
    """All of them."""

    program = Path(__file__).parent / "support" / "ai-sdk.mjs"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self._chats: dict[str, Chat] = {}

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

    def take(self, said: dict[str, Any]) -> None:
        if said.get("chat") in self._chats:
            self._chats[said["chat"]].take(said)
