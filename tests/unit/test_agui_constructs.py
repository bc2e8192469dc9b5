"""What is open in a stream of AG-UI events."""

import pytest

from gateway.dialects.agui_constructs import KINDS, Constructs


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_bracketed_is_open_until_it_is_closed(kind: tuple[str, ...]) -> None:
    opened, closed, name = kind
    for last in closed:
        constructs = Constructs()
        first = {"type": opened, name: "x", "more": 1}
        constructs.note(first)
        constructs.note({"type": last, name: "y"})
        assert list(constructs.openers()) == [first]
        constructs.note({"type": last, name: "x"})
        assert list(constructs.openers()) == []


def test_what_brackets_nothing_is_not_noted() -> None:
    constructs = Constructs()
    constructs.note({"type": "RUN_STARTED"})
    assert list(constructs.openers()) == []


def test_sub_agents_are_named_from_the_innermost_on() -> None:
    constructs = Constructs()
    for name in ("outer", "inner"):
        constructs.note({"type": "SUBAGENT_STARTED", "subagentRunId": name})
    constructs.note({"type": "TEXT_MESSAGE_START", "messageId": "m"})
    assert constructs.subagents() == ["inner", "outer"]
    assert [each["type"] for each in constructs.openers()][-1] == "TEXT_MESSAGE_START"
