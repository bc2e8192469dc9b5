"""What is published of a run, as a value."""

from dataclasses import FrozenInstanceError

import pytest

from broker.lifecycle import State
from broker.publication import Delta, Publication


def test_an_event_changes_its_runs_record_unless_it_says_otherwise() -> None:
    """Who leaves it out pays a little more, and is not wrong."""
    said = Publication(seq=1, event_type="agent_started", body=b"{}", state=State.RUNNING, sent="s")
    assert said.changes
    assert (said.call_opened, said.call_closed, said.asked, said.status) == (None,) * 4


def test_what_is_under_way_does_not_change() -> None:
    delta = Delta(0, 2, "é")
    with pytest.raises(FrozenInstanceError):
        delta.text = "e"  # type: ignore[misc]  # that is the point
