"""A run that nobody works on any more ends with valid events, once (promise G5)."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.channels import Keys, Owner, Scope
from broker.codec import head
from broker.events import LIFECYCLE, check_payload
from broker.lifecycle import FLAGS, Lifecycle, State, missing
from broker.redis.records import Claim, OpenCall
from gateway.closing import REASONS, closing

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CALLS = st.dictionaries(
    st.sampled_from(["c1", "c2", "c 3"]),
    st.builds(OpenCall, st.sampled_from(["sum", "sort"]), st.integers(0, 2000)),
)


def claim(**fields: Any) -> Claim:
    owner = Owner("acme", "alice")
    keys = Keys()
    return Claim(
        **{
            "run_id": "r1", "partition": keys.partition(owner), "owner": owner,
            "channel": keys.channel(owner, Scope.USER), "head": head(owner, "t1", "r1"),
            "thread_id": "t1", "agent": "analyst", "content": "hi", "metadata": {}, "attempt": 1,
            "fence": 2, "seq": 0, "sent": "", "parent_run_id": None, "stop_requested": False,
            "created_ms": 0, "state": State.QUEUED, "open_calls": {}, **fields,
        }
    )  # fmt: skip


@relaxed
@given(
    calls=CALLS, state=st.sampled_from([State.RUNNING, State.WAITING]), seq=st.integers(1, 99),
    sent=st.sets(st.sampled_from("txr")), end=st.sampled_from(
        [("cancelled", "stopped"), ("abandoned", "worker_lost"), ("abandoned", "queue_timeout")]
    ),
    now=st.integers(0, 3000), attempt=st.integers(0, 3),
)  # fmt: skip
def test_the_end_is_a_legal_end_of_the_run_as_it_was(  # noqa: PLR0917 - hypothesis passes by name
    calls: dict[str, OpenCall], state: State, seq: int, sent: set[str], end: tuple[str, str],
    now: int, attempt: int,
) -> None:  # fmt: skip
    """Every event fits its rule and the lifecycle; seq goes on; the last one completes the run."""
    status, code = end
    before = claim(
        open_calls=calls, state=state, seq=seq, sent="s" + "".join(sorted(sent)), attempt=attempt,
        created_ms=500,
    )  # fmt: skip
    run = Lifecycle()
    run.new_attempt(before.sent)
    run.state = state
    run.open_calls = {call_id: call.tool for call_id, call in calls.items()}
    publications = closing(before, status=status, code=code, epoch_ms=now)
    for offset, each in enumerate(publications, 1):
        event = orjson.loads(each.body)
        assert event["type"] == each.event_type
        check_payload(each.event_type, event["payload"])
        run.advance(each.event_type, event["payload"])
        assert each.seq == event["seq"] == seq + offset
        assert each.sent == run.flags
        assert event["payload"]["error"]["message"] == REASONS[code]
        assert event["payload"]["duration_ms"] >= 0
        assert event.get("attempt", 1) == max(1, attempt)
        assert (event["user_id"], event["thread_id"], event["run_id"], event["agent_name"]) == (
            "alice", "t1", "r1", "analyst",
        )  # fmt: skip
    assert run.state is State.COMPLETED
    assert [each.call_closed for each in publications] == [*calls, None]
    assert [each.state for each in publications] == [State.RUNNING] * len(calls) + [State.COMPLETED]
    last = orjson.loads(publications[-1].body)["payload"]
    assert (publications[-1].status, last["status"], last["error"]["code"]) == (
        status, status, code,
    )  # fmt: skip
    assert last["missing"] == missing(publications[-1].sent)


def test_a_run_that_no_worker_took_ends_with_its_one_event() -> None:
    """All but the terminal event are missing, and that is said."""
    (only,) = closing(claim(attempt=0), status="abandoned", code="queue_timeout", epoch_ms=250)
    event = orjson.loads(only.body)
    assert (only.seq, only.sent, only.status) == (1, FLAGS["agent_completed"], "abandoned")
    assert "attempt" not in event
    assert "parent_run_id" not in event
    assert event["payload"] == {
        "response": None, "complete": True, "status": "abandoned", "duration_ms": 250,
        "missing": [kind for kind in LIFECYCLE if kind != "agent_completed"],
        "error": {"code": "queue_timeout", "message": "no worker took it in time"},
    }  # fmt: skip


def test_an_open_call_is_closed_as_the_protocol_says() -> None:
    """``success: false``, error code ``run_ended``, of the tool that was called."""
    first, _ = closing(
        claim(open_calls={"c1": OpenCall("sum", 100)}, sent="sx", seq=2, parent_run_id="p"),
        status="cancelled", code="stopped", epoch_ms=350,
    )  # fmt: skip
    event = orjson.loads(first.body)
    assert event["parent_run_id"] == "p"
    assert first.sent == "sxr"
    assert event["payload"] == {
        "tool": "sum", "call_id": "c1", "success": False, "result": None, "duration_ms": 250,
        "error": {"code": "run_ended", "message": "the run was stopped"},
    }  # fmt: skip


def test_only_the_reasons_of_the_table_exist() -> None:
    """An unknown one is a mistake here, not a text invented for a user."""
    with pytest.raises(KeyError):
        closing(claim(), status="abandoned", code="whatever", epoch_ms=0)
