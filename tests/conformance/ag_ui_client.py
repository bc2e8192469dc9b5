"""Official AG-UI clients in one Node process, and what their pages would show."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.node_program import NodeProgram
from tests.support.servers import token

Event = dict[str, Any]


@dataclass
class Page:
    """One client, and all that it told."""

    process: "Clients"
    name: str
    events: list[Event] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)

    async def do(self, action: str, **given: Any) -> None:
        """Begin something; :meth:`until` tells when it has come about."""
        await self.process.do(action, client=self.name, **given)

    async def run(self, text: str | None = None, run_id: str = "m1", **given: Any) -> None:
        """Begin a run, or go on with one."""
        await self.do("run", text=text, runId=run_id, **given)

    async def ends(self, text: str | None = None, run_id: str = "m1", **given: Any) -> None:
        """A run, until its response has ended; the official client finds nothing wrong with it."""
        before = len(self.done)
        await self.run(text, run_id, **given)
        await self.until(lambda: len(self.done) > before)
        assert not self.done[-1].get("error"), self.done[-1]

    async def until(self, condition: Callable[[], object]) -> None:
        await self.process.until(condition, lambda: (self, self.process.warned))

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def all(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]

    def deltas(self) -> str:
        """The text, as it came."""
        return "".join(event["delta"] for event in self.all("TEXT_MESSAGE_CONTENT"))

    @property
    def our_run(self) -> str:
        """Our id of the run, as RUN_STARTED tells it."""
        found: str = self.all("RUN_STARTED")[-1]["metadata"]["runcast"]["run_id"]
        return found

    @property
    def end(self) -> Event:
        assert self.events[-1]["type"] in ("RUN_FINISHED", "RUN_ERROR"), self.kinds()
        return self.events[-1]

    def messages(self, role: str) -> list[dict[str, Any]]:
        """Of the conversation, as the client has it."""
        found = self.done[-1]["messages"] if self.done else self.shown["messages"]
        return [each for each in found if each["role"] == role]

    def text(self) -> str:
        """All that the agent said, as the page shows it."""
        said = ""
        for message in self.messages("assistant"):
            if "parts" in message:
                texts = [part for part in message["parts"] if part["type"] == "text"]
                said += "".join(part["content"] for part in texts)
            else:
                said += message.get("content") or ""
        return said


class Clients(NodeProgram):
    """All of them."""

    program = Path(__file__).parent / "support" / "ag-ui.mjs"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self._pages: dict[str, Page] = {}
        self.warned: list[str] = []

    async def open(
        self, base: str, agent: str, *, kind: str = "official", user: str = "alice", **given: Any
    ) -> Page:
        page = Page(self, f"page {len(self._pages)}")
        self._pages[page.name] = page
        given = {"threadId": "t", **given}
        await page.do("open", kind=kind, url=f"{base}/agui/{agent}", token=token(user), **given)
        return page

    def take(self, said: dict[str, Any]) -> None:
        page = self._pages.get(said["client"])
        if page is None:
            self.warned.append(said["warned"])
        elif "event" in said:
            page.events.append(said["event"])
        elif "done" in said:
            page.done.append(said["done"])
        else:
            page.shown = said["shown"]
