"""Who may see what (protocol section 4), said once more and without the program's own tables."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from tests.support.clients import Client
from tests.support.servers import token

USERS: Final[tuple[tuple[str | None, str], ...]] = (
    # (tenant, user): each could be taken for another one where ids are joined or matched.
    (None, "a"), (None, "a:b"), (None, "a%3Ab"), ("a", "b"), ("a:b", "c"), ("a", "b:c"),
    (None, "{1}"), (None, "{"), (None, "*"), (None, "?"), (None, "[a-z]"), (None, "a b\u2028c"),
    (None, "\U0001f600\u202e\ufeff"), (None, "é"), (None, "e\u0301"), (None, "x" * 256),
    (None, "x" * 255), (None, "A"), (None, "-"), (None, "0-0"), (None, "../a"), (None, "a\\b\"'"),
)  # fmt: skip

THREADS: Final = ("b:t", "t")
"""With ``a`` and ``a:b`` among the users: ``a`` + ``b:t`` is not ``a:b`` + ``t``."""

SHAPES: Final[dict[str, dict[str, str]]] = {
    "main": {},
    "main, thread": {"thread_id": THREADS[0]},
    "main, other thread": {"thread_id": THREADS[1]},
    "factory": {"mode": "factory", "thread_id": THREADS[0]},
    "factory, other thread": {"mode": "factory", "thread_id": THREADS[1]},
    "strict": {"mode": "factory", "isolation_level": "strict"},
    "strict, another tab": {"mode": "factory", "isolation_level": "strict"},
    "isolated": {"mode": "isolated"},
    "isolated, another tab": {"mode": "isolated"},
    "legacy": {"mode": "legacy"},
    "legacy, thread": {"mode": "legacy", "thread_id": THREADS[1]},
}


@dataclass(frozen=True)
class Origin:
    """Where a run was begun: by a connection, or by a publisher (``shape`` is then its scope)."""

    person: int
    shape: str
    thread: str


def reads(shape: str, person: int, origin: Origin, *, own: bool, attached: bool = False) -> bool:
    """Whether such a connection of that person gets the events of a run."""
    if person != origin.person:
        return False
    asked = SHAPES[shape]
    channel = {
        "main": "user", "legacy": "user", "user": "user", "factory": "thread", "thread": "thread",
        "strict": "run", "run": "run", "isolated": "connection",
    }  # fmt: skip
    of_run = channel[origin.shape.partition(",")[0]]
    mine = channel[shape.partition(",")[0]]
    if of_run != mine:
        return False
    if mine == "user":
        return asked.get("thread_id") in (None, origin.thread)
    if mine == "thread":
        return asked["thread_id"] == origin.thread
    return own or (mine == "run" and attached)


class Person:
    """One user with a connection of every shape, over both gateways."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tenant, self.user = USERS[number]
        claims: dict[str, Any] = {} if self.tenant is None else {"tenant": self.tenant}
        self.token = token(self.user, **claims)
        self.clients: dict[str, Client] = {}

    async def connect(self, bases: Sequence[str], stack: AsyncExitStack) -> None:
        for at, (shape, query) in enumerate(SHAPES.items()):
            base = bases[(self.number + at) % len(bases)]
            client = Client(base, self.user, token=self.token, query=query)
            self.clients[shape] = await stack.enter_async_context(client)
        await asyncio.gather(*(client.first("live") for client in self.clients.values()))

    async def begin(self, shape: str) -> tuple[str, Origin]:
        """A run from this connection; its id, and where it belongs."""
        asked = SHAPES[shape].get("thread_id")
        thread = asked or THREADS[self.number % len(THREADS)]
        payload = {"agent": "five"} if asked else {"agent": "five", "thread_id": thread}
        ref = f"{self.number} {shape}"
        run_id = await self.clients[shape].ask("hello", ref=ref, **payload)
        return run_id, Origin(self.number, shape, thread)

    def got(self, shape: str) -> dict[str, list[str]]:
        """Run id → the types of its events that this connection got, in order."""
        found: dict[str, list[str]] = {}
        for frame in self.clients[shape].frames:
            if "run_id" in frame and "ref" not in frame:
                found.setdefault(frame["run_id"], []).append(frame["type"])
        return found

    def owners(self, shape: str, run_id: str) -> set[str]:
        """Whose events of a run this connection was shown; V2 frames do not say it."""
        frames = self.clients[shape].frames
        return {f.get("user_id", self.user) for f in frames if f.get("run_id") == run_id}
