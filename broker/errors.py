"""Every error that Runcast raises on purpose.

::

    RuncastError
    ├── UsageError               the caller did what the contract forbids
    │   ├── InvalidEvent         a payload that the event's rule refuses
    │   ├── LifecycleError       a legal event at an illegal moment
    │   └── ConfigurationError   a setting that cannot work
    ├── Refused                  the broker looked at it and said no; nothing was written
    │   ├── RunNotFound  NotOwner  Fenced  RunClosed  SequenceGap
    │   ├── CallNotOpen  EventTooLarge  NotWaiting
    │   ├── UnknownAgent  QueueFull  ThreadBusy  RunExists
    │   └── LimitReached
    ├── BrokerUnavailable        Redis cannot be reached, or did not answer in time
    └── PublishError             an event is not confirmed (yet); it stays in its run's buffer

Errors carry fields; their text is derived from the fields and says what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class RuncastError(Exception):
    """Base of all errors below."""


class UsageError(RuncastError):
    """The caller broke the contract. Repeating the call cannot help."""


class InvalidEvent(UsageError):
    """A payload that does not fit its event type (protocol section 2)."""

    def __init__(self, *, event_type: str, field: str, why: str) -> None:
        self.event_type, self.field, self.why = event_type, field, why
        super().__init__(f"{event_type}: field {field!r} {why}")


class LifecycleError(UsageError):
    """An event that the run's state does not allow. The state is unchanged."""

    def __init__(self, *, state: str, event_type: str, why: str) -> None:
        self.state, self.event_type, self.why = state, event_type, why
        super().__init__(f"{event_type} is not possible while the run is {state}: {why}")


class ConfigurationError(UsageError):
    """A setting that cannot work, with what to do about it."""

    def __init__(self, *, setting: str, why: str, todo: str) -> None:
        self.setting, self.why, self.todo = setting, why, todo
        super().__init__(f"{setting}: {why}. {todo}")


class Refused(RuncastError):
    """The broker refused; nothing was written. ``code`` is the script's own word."""

    code: ClassVar[str] = "REFUSED"
    advice: ClassVar[str] = ""

    def __init__(self, *, subject: str, detail: str = "") -> None:
        self.subject, self.detail = subject, detail
        text = f"{self.code}: {subject}" + (f" ({detail})" if detail else "")
        super().__init__(f"{text}. {self.advice}" if self.advice else text)


class RunNotFound(Refused):
    """No such run for this owner: unknown, expired, or somebody else's (never told apart)."""

    code = "RUN_NOT_FOUND"
    advice = "Check the run id; a run is kept for the retention time after it ended"


class NotOwner(Refused):
    """The run is registered for another owner or channel than the publisher claims."""

    code = "NOT_OWNER"


class Fenced(Refused):
    """A newer attempt owns the run, so this worker must stop working on it."""

    code = "FENCED"
    advice = "Another attempt took the run over after this worker's lease ended"


class RunClosed(Refused):
    """The run has its terminal event; nothing is accepted after it."""

    code = "RUN_CLOSED"


class SequenceGap(Refused):
    """``seq`` is more than one ahead of the log, or a delta's offset not where the text ends.

    An earlier one was not published, or a failover has rolled Redis back behind it.
    """

    code = "SEQ_GAP"
    advice = "Publish the events of a run in order and wait for each to be confirmed or sent again"

    @property
    def at(self) -> int | None:
        """The last ``seq`` of the run that is there; of a delta, the text's length in bytes."""
        word = self.detail.rpartition(" ")[2]
        return int(word) if word.isdecimal() else None


class CallNotOpen(Refused):
    """A ``tool_completed`` whose ``call_id`` is not open in this run."""

    code = "CALL_NOT_OPEN"


class NotWaiting(Refused):
    """An answer to what the run does not ask (any more); the detail says why."""

    code = "NOT_WAITING"


class EventTooLarge(Refused):
    """The encoded event is over ``max_event_bytes``."""

    code = "EVENT_TOO_LARGE"
    advice = "Publish a reference to the large part, or raise RUNCAST_MAX_EVENT_BYTES everywhere"


class UnknownAgent(Refused):
    """No worker has announced an agent of this name within the retention time."""

    code = "UNKNOWN_AGENT"
    advice = "Start a worker that declares it"


class QueueFull(Refused):
    """The agent's request queue is at its limit; try again later."""

    code = "QUEUE_FULL"
    advice = "Try again later or start more workers"


class ThreadBusy(Refused):
    """The thread has an open run and its agent is declared with ``on_busy="reject"``."""

    code = "THREAD_BUSY"
    advice = "Wait for the open run to end, or stop it"


class RunExists(Refused):
    """A run of this id is registered already; ids are made anew for each run."""

    code = "RUN_EXISTS"


class LimitReached(Refused):
    """The user, or the tenant, has as much as allowed; ``subject`` names the limit."""

    code = "LIMIT_REACHED"

    @property
    def retry_after_ms(self) -> int | None:
        """How long until there is room again; None when that depends on others."""
        return int(self.detail) if self.detail.isdecimal() else None


REFUSALS: dict[str, type[Refused]] = {
    kind.code: kind
    for kind in (
        RunNotFound, NotOwner, Fenced, RunClosed, SequenceGap, CallNotOpen, EventTooLarge,
        NotWaiting, UnknownAgent, QueueFull, ThreadBusy, RunExists, LimitReached,
    )
}  # fmt: skip
"""Script code → error class."""


class BrokerUnavailable(RuncastError):
    """Redis cannot be reached or did not answer in time.

    ``outcome_unknown`` is true when the command had been sent: it may or may not have run.
    """

    def __init__(self, *, why: str, outcome_unknown: bool = False) -> None:
        self.why, self.outcome_unknown = why, outcome_unknown
        super().__init__(f"Redis is not available: {why}")


class PublishError(RuncastError):
    """An event was not confirmed within the time that the caller allowed.

    It is not lost: it stays in the run's buffer and is sent again, in order, when Redis is back.
    """

    def __init__(self, *, run_id: str, pending: int, why: str) -> None:
        self.run_id, self.pending, self.why = run_id, pending, why
        super().__init__(f"run {run_id}: {pending} event(s) not confirmed yet: {why}")
