"""The run that the current code belongs to, from anywhere inside it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from agents_sdk.errors import NoCurrentRun

if TYPE_CHECKING:
    from agents_sdk.run import Run

CURRENT: ContextVar[Run | None] = ContextVar("runcast_current_run", default=None)


def current_run() -> Run:
    """The innermost run around the caller.

    It is found in the run's task, in tasks that this started, and in threads started with
    :func:`asyncio.to_thread`. A thread may read the run's properties; to send an event from there,
    use ``asyncio.run_coroutine_threadsafe`` with :attr:`Run.loop`. Raises :class:`NoCurrentRun`.
    """
    run = CURRENT.get()
    if run is None:
        raise NoCurrentRun
    return run
