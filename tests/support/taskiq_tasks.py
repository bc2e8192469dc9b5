"""Tasks that do on purpose what the tests of the task queue need to see, beside the page's own.

``tasks`` is the module of docs/how-to/use-a-task-queue.md, in the folder where the worker starts.
"""

import asyncio
import os

from tasks import broker, publisher  # type: ignore[import-not-found]  # the page's

__all__ = ["broker"]


@broker.task(task_name="waits")  # type: ignore[untyped-decorator]  # of an unknown module
async def waits(user_id: str) -> None:
    """Tells its process and waits for ever."""
    async with publisher.run(user_id=user_id, thread_id="t1", agent_name="waits") as run:
        await run.think(f"pid {os.getpid()}")
        async with run.tool("wait"):
            await asyncio.Event().wait()


@broker.task(task_name="raises")  # type: ignore[untyped-decorator]  # of an unknown module
async def raises(user_id: str) -> None:
    async with publisher.run(user_id=user_id, thread_id="t1", agent_name="raises") as run:
        await run.think("this will not end well")
        raise ValueError("no such report")
