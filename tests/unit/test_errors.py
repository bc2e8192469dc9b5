"""Errors hold fields, and their text says what happened and what to do next."""

from __future__ import annotations

import pytest

from broker import errors
from broker.errors import (
    REFUSALS,
    BrokerUnavailable,
    ConfigurationError,
    Fenced,
    InvalidEvent,
    LifecycleError,
    PublishError,
    Refused,
    RuncastError,
    RunClosed,
    UsageError,
)


def all_of(base: type[Exception]) -> set[type[Exception]]:
    """The class and those below it in the module itself; other modules add their own."""
    children = [kind for kind in base.__subclasses__() if kind.__module__ == errors.__name__]
    return {base}.union(*(all_of(child) for child in children))


def test_every_error_hangs_in_one_tree() -> None:
    """``except RuncastError`` catches whatever Runcast raises on purpose."""
    ours = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    assert {kind for kind in ours if issubclass(kind, Exception)} <= all_of(RuncastError)


def test_misuse_refusals_and_outages_are_told_apart() -> None:
    """A caller can tell his own mistake from a refusal and from an outage by the class alone."""
    groups = [UsageError, Refused, BrokerUnavailable, PublishError]
    for kind in all_of(RuncastError) - {RuncastError}:
        assert sum(issubclass(kind, group) for group in groups) == 1, kind
    assert all_of(UsageError) == {UsageError, InvalidEvent, LifecycleError, ConfigurationError}


def test_the_tree_in_the_docstring_names_every_error() -> None:
    """Whoever reads the top of the module has seen all of them."""
    for kind in all_of(RuncastError):
        assert kind.__name__ in (errors.__doc__ or "")


def test_every_refusal_is_found_by_its_code() -> None:
    """No script code falls through to a wrong class, and no two classes share a code."""
    refusals = {k for k in all_of(Refused) if k is not Refused and k.__module__ == errors.__name__}
    assert set(REFUSALS.values()) == refusals
    assert all(kind.code == code for code, kind in REFUSALS.items())


@pytest.mark.parametrize("kind", REFUSALS.values())
def test_a_refusal_names_code_subject_detail_and_advice(kind: type[Refused]) -> None:
    """The text is derived from the fields."""
    error = kind(subject="r1", detail="attempt 2")
    assert (error.subject, error.detail) == ("r1", "attempt 2")
    assert str(error).startswith(f"{kind.code}: r1 (attempt 2)")
    assert str(error).endswith(kind.advice)


def test_a_refusal_without_detail_or_advice_is_short() -> None:
    """No empty brackets, no dangling full stop."""
    assert str(RunClosed(subject="r1")) == "RUN_CLOSED: r1"
    assert str(Fenced(subject="r1")) == f"FENCED: r1. {Fenced.advice}"


def test_the_other_errors_keep_their_fields() -> None:
    """A program reads the fields, a person the text; both say the same."""
    invalid = InvalidEvent(event_type="agent_thinking", field="thoughts", why="is required")
    assert (invalid.event_type, invalid.field, invalid.why) == (
        "agent_thinking", "thoughts", "is required",
    )  # fmt: skip
    assert str(invalid) == "agent_thinking: field 'thoughts' is required"
    illegal = LifecycleError(state="queued", event_type="tool_executing", why="not yet")
    assert (illegal.state, illegal.event_type, illegal.why) == (
        "queued", "tool_executing", "not yet",
    )  # fmt: skip
    assert str(illegal) == "tool_executing is not possible while the run is queued: not yet"
    setting = ConfigurationError(setting="PORT", why="is taken", todo="Choose another.")
    assert (setting.setting, setting.why, setting.todo) == ("PORT", "is taken", "Choose another.")
    assert str(setting) == "PORT: is taken. Choose another."
    pending = PublishError(run_id="r1", pending=3, why="time is up")
    assert (pending.run_id, pending.pending, pending.why) == ("r1", 3, "time is up")
    assert "r1" in str(pending)
    assert "3 event(s)" in str(pending)


def test_an_outage_says_whether_the_command_may_have_run() -> None:
    """Only who knows that can decide whether repeating is safe."""
    assert not BrokerUnavailable(why="refused").outcome_unknown
    lost = BrokerUnavailable(why="no reply", outcome_unknown=True)
    assert lost.outcome_unknown
    assert "no reply" in str(lost)
