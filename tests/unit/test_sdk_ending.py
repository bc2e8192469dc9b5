from __future__ import annotations

import asyncio

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_sdk import ending
from agents_sdk.errors import Reason, RunStopped


class QuotaExceeded(Exception):
    code = "quota_exceeded"


class OddCode(Exception):
    code = "not a code, but a sentence"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("bad"), "value_error", "bad"),
        (ZeroDivisionError(), "zero_division_error", "ZeroDivisionError"),
        (QuotaExceeded("no"), "quota_exceeded", "no"),
        (OddCode("odd"), "odd_code", "odd"),
        (OSError(2, "No such file"), "file_not_found_error", "[Errno 2] No such file"),
    ],
)
def test_an_exception_becomes_a_code_and_a_message(
    error: Exception, code: str, message: str
) -> None:
    outcome = ending.raised(error)
    assert outcome.status == "failed"
    assert outcome.error == {"code": code, "message": message}


def test_returning_succeeds() -> None:
    assert ending.returned("r") == ending.Outcome(status="succeeded", response="r")


def test_a_cancellation_of_its_own_is_cancelled() -> None:
    outcome = ending.raised(asyncio.CancelledError())
    assert (outcome.status, outcome.error and outcome.error["code"]) == ("cancelled", "cancelled")


def test_the_stop_of_a_run_within_it_is_cancelled() -> None:
    """Defect: it failed with ``run_stopped``, though what lets ``RunStopped`` pass never fails."""
    outcome = ending.raised(RunStopped(run_id="child", reason=Reason.STOP))
    assert (outcome.status, outcome.error and outcome.error["code"]) == ("cancelled", "stopped")
    assert outcome.error is not None
    assert "child" in outcome.error["message"]


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.STOP, "cancelled"),
        (Reason.TIMEOUT, "failed"),
        (Reason.SHUTDOWN, "cancelled"),
        (Reason.PARENT, "cancelled"),
    ],
)
def test_each_reason_has_a_status_and_is_its_code(reason: Reason, status: str) -> None:
    outcome = ending.told(reason)
    assert outcome.status == status
    assert outcome.error is not None
    assert outcome.error["code"] == reason.value
    assert outcome.error["message"]


def test_an_incomplete_run_names_what_is_missing() -> None:
    outcome = ending.incomplete(["agent_thinking"])
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error["code"] == "incomplete_lifecycle"
    assert "agent_thinking" in outcome.error["message"]


@given(st.text(alphabet=st.characters(codec=None), max_size=5000))
def test_whatever_an_exception_says_is_a_message_that_can_be_sent(text: str) -> None:
    described = ending.describe("code", text)
    assert len(described["message"]) <= ending.MAX_MESSAGE_CHARACTERS
    orjson.dumps(described)
