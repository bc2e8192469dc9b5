"""A program in Node that drives official clients, and is spoken with in lines of JSON."""

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

PATIENCE_SECONDS = 60.0


class NodeProgram:
    """The process. ``program`` is its file; what it says on standard error is shown by pytest."""

    program: Path

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._changed = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Self]:
        process = await asyncio.create_subprocess_exec(
            "node", str(cls.program), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, limit=1 << 24,
        )  # fmt: skip
        node = cls(process)
        try:
            yield node
        finally:
            await node.end()

    @abstractmethod
    def take(self, said: dict[str, Any]) -> None:
        """A line of the program's."""

    async def do(self, action: str, **given: Any) -> None:
        """Have it begin something; :meth:`until` tells when it has come about."""
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
            async with self._changed:
                self.take(json.loads(line))
                self._changed.notify_all()

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reader
