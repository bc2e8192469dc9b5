"""What agent authors meet besides the kernel's errors.

::

    RuncastError
    ├── RunStopped             this run was told to end; its methods do nothing any more
    ├── InputExpired           the user did not answer in time
    └── UsageError
        ├── NoCurrentRun       current_run() outside of any run
        └── WrongEventLoop     a run's method was awaited in another event loop than the run's
"""

from __future__ import annotations

from enum import StrEnum

from broker.errors import RuncastError, UsageError


class Reason(StrEnum):
    """Why a run was told to end. The values are the error codes that clients see."""

    STOP = "stopped"
    TIMEOUT = "timeout"
    SHUTDOWN = "worker_shutdown"
    PARENT = "parent_ended"
    LOST = "lost"
    """Another attempt or the sweeper owns the run: this process writes nothing more."""


class RunStopped(RuncastError):
    """The run was told to end: by its user, its time-out, a shutdown, or because it was lost.

    Raised by every method of such a run, so that an agent that swallowed its cancellation stops at
    its next step. Let it pass; it never makes a run ``failed``.
    """

    def __init__(self, *, run_id: str, reason: Reason) -> None:
        self.run_id, self.reason = run_id, reason
        super().__init__(f"run {run_id} was told to end ({reason}); clean up and return")


class InputExpired(RuncastError):
    """The user did not answer what ``run.ask`` asked in time; nobody can answer it any more.

    The run goes on: decide what no answer means. Left alone, the run fails with code
    ``input_expired``.
    """

    def __init__(self, *, run_id: str, prompt: str, seconds: float) -> None:
        self.run_id, self.prompt, self.seconds = run_id, prompt, seconds
        super().__init__(
            f"nobody answered {prompt!r} within {seconds:g} s; catch InputExpired to go on without"
        )


class NoCurrentRun(UsageError):
    """:func:`~agents_sdk.current_run` was called outside of any run."""

    def __init__(self) -> None:
        super().__init__(
            "there is no current run here: call this from an agent, or inside "
            "`async with publisher.run(…)`"
        )


class WrongEventLoop(UsageError):
    """A run belongs to the event loop that it began in. Nothing was sent."""

    def __init__(self, *, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"run {run_id} belongs to another event loop; from a thread, call "
            "asyncio.run_coroutine_threadsafe(run.think(…), run.loop).result()"
        )
