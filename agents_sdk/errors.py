"""What agent authors meet besides the kernel's errors.

::

    RuncastError
    └── RunStopped       this run was told to end; its methods do nothing any more
"""

from __future__ import annotations

from enum import StrEnum

from broker.errors import RuncastError


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
