"""The run that the current code belongs to, from anywhere inside it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from broker.errors import UsageError

if TYPE_CHECKING:
    from agents_sdk.run import Run

CURRENT: ContextVar[Run | None] = ContextVar("runcast_current_run", default=None)


class NoCurrentRun(UsageError):
    """:func:`current_run` was called outside of any run."""

    def __init__(self) -> None:
        super().__init__(
            "there is no current run here: call this from an agent, or inside "
            "`async with publisher.run(…)`"
        )


def current_run() -> Run:
    """The innermost run around the caller.

    It is found in the run's task, in tasks that this started, and in threads started with
    :func:`asyncio.to_thread`. A thread may read the run's properties; to send an event from there,
    use ``asyncio.run_coroutine_threadsafe`` with the agent's loop. Raises :class:`NoCurrentRun`.
    """
    run = CURRENT.get()
    if run is None:
        raise NoCurrentRun
    return run
