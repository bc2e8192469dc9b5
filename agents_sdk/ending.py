"""How a run ends: one outcome for every way of leaving it (promise G5)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agents_sdk.errors import Reason, RunStopped
from broker import events

MAX_MESSAGE_CHARACTERS: Final = 2000
"""Longest error message in an event: enough for a person, too short for a dump of the prompt."""

INCOMPLETE: Final = "incomplete_lifecycle"

_WORD_STARTS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)

_TEXTS: Final[Mapping[Reason, str]] = {
    Reason.STOP: "The run was stopped on request",
    Reason.TIMEOUT: "The agent did not finish in time",
    Reason.SHUTDOWN: "The worker was shut down before the agent finished",
    Reason.PARENT: "The run that this one belongs to ended first",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Status, response (``None`` = the text that was written) and error of one run."""

    status: str
    response: Any = None
    error: dict[str, str] | None = None


def returned(response: Any) -> Outcome:
    """The agent returned."""
    return Outcome(status=events.SUCCEEDED, response=response)


def raised(error: BaseException) -> Outcome:
    """The agent raised: failed, with the error's code.

    A cancellation of its own: cancelled; so is what let the stop of a sub-agent's run pass.
    """
    if isinstance(error, asyncio.CancelledError):
        return cancelled("cancelled", str(error) or "The agent was cancelled")
    if isinstance(error, RunStopped):
        return cancelled(error.reason, f"Run {error.run_id} within it was told to end")
    return Outcome(status=events.FAILED, error=error_of(error))


def told(reason: Reason) -> Outcome:
    """The run was told to end. A time-out is the agent's failure; all else is a cancellation."""
    if reason is Reason.TIMEOUT:
        return Outcome(status=events.FAILED, error=describe(reason, _TEXTS[reason]))
    return cancelled(reason, _TEXTS[reason])


def incomplete(missing: list[str]) -> Outcome:
    """An agent declared with ``require_all_events`` left some of the five out."""
    why = f"The agent never sent {', '.join(missing)}, and is declared to send all five events"
    return Outcome(status=events.FAILED, error=describe(INCOMPLETE, why))


def cancelled(code: str, message: str) -> Outcome:
    """Ended without a result, and without being at fault."""
    return Outcome(status=events.CANCELLED, error=describe(code, message))


def code_of(outcome: Outcome | None) -> str:
    """The outcome's error code; empty without one."""
    return outcome.error["code"] if outcome is not None and outcome.error is not None else ""


def error_of(error: BaseException) -> dict[str, str]:
    """An exception as payloads carry it: its ``code`` if it has a usable one, else its class.

    ``ZeroDivisionError`` → ``zero_division_error``.
    """
    try:
        code, text = getattr(error, "code", None), str(error)
    except Exception:  # noqa: BLE001 - an exception of the agent's own, which cannot even be told
        code, text = None, ""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        code = _WORD_STARTS.sub("_", type(error).__name__)
    return describe(code.lower(), text or type(error).__name__)


def describe(code: str, message: str) -> dict[str, str]:
    """``{code, message}`` for a payload.

    The message is cut to a length that is fit for an event, and is valid text whatever bytes an
    exception carried.
    """
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[: MAX_MESSAGE_CHARACTERS - 1] + "…"
    return {"code": code, "message": message.encode("utf-8", "replace").decode()}
