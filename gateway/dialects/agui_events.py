"""What each event of a run becomes in AG-UI: one table. Pure.

What an event becomes depends on the log before it alone, and not on who reads it: so a reader can
be told of the third of five where the second was his last. Text is apart: it is not in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from broker import events
from gateway.dialects.agui_constructs import Constructs, Event
from gateway.dialects.dialect import Run

PREFIX: Final = "runcast."
"""Of the names of CUSTOM events."""

USAGE: Final = {
    "input_tokens": "inputTokens", "output_tokens": "outputTokens", "total_tokens": "totalTokens",
    "reasoning_tokens": "reasoningTokens", "cached_input_tokens": "cachedInputTokens",
    "cache_write_input_tokens": "cacheWriteInputTokens",
}  # fmt: skip
"""Counts of a ``usage`` → AG-UI's."""

LARGEST: Final = 2**53 - 1


class Story:
    """A run and its sub-agents, as far as the log has been read."""

    def __init__(self, run: Run, agui_run_id: str) -> None:
        self.run, self.agui_run_id = run, agui_run_id
        self.constructs = Constructs()
        self.attempts: dict[str, int] = {}
        self.questions: dict[tuple[str, str], Mapping[str, Any]] = {}
        """(run, request id) → ``input_required`` that nobody has answered."""
        self.calls: dict[tuple[str, str], tuple[str, Event]] = {}
        """(run, call id) of what is open → its AG-UI id, and the run's tag."""

    def scope(self, run_id: str) -> str:
        """What the ids of all that a run's attempt says begin with."""
        attempt = self.attempts.get(run_id, 1)
        name = self.run.run_id if run_id == self.run.run_id else f"{self.run.run_id}:{run_id}"
        return name if attempt == 1 else f"{name}.{attempt}"

    def tag(self, run_id: str) -> Event:
        """Whose event it is: a sub-agent's, or the run's own."""
        return {} if run_id == self.run.run_id else {"subagentRunId": run_id}

    def read(self, event: Mapping[str, Any], cursor: str) -> list[Event]:
        """What an event of the log becomes."""
        if event["type"] != events.AGENT_STARTED:
            self.begin(event)
        told = TABLE.get(event["type"], _nothing)(self, event, cursor)
        when = epoch_ms(event.get("timestamp"))
        return [{**each, "timestamp": when} for each in told] if when is not None else list(told)

    def begin(self, event: Mapping[str, Any]) -> None:
        """From here on the run is in this event's attempt.

        After a new attempt's ``agent_started`` was read: what the one before has open ends first.
        """
        attempt = event.get("attempt")
        if isinstance(attempt, int):
            self.attempts[event["run_id"]] = attempt

    def given_up(self, why: str) -> list[Event]:
        """Ends the calls and the sub-agents that are open and will not end by themselves."""
        said = {"code": why, "message": "it was not finished"}
        calls = [_result(tag, each, f"{each}:result", said) for each, tag in self.calls.values()]
        self.calls.clear()
        return calls + [
            {"type": "SUBAGENT_ERROR", "subagentRunId": each, **said}
            for each in self.constructs.subagents()
        ]


def is_anew(story: Story, event: Mapping[str, Any]) -> bool:
    """Whether the run begins again: what the attempt before had said is void."""
    own = event["type"] == events.AGENT_STARTED and event["run_id"] == story.run.run_id
    return bool(own and event.get("attempt", 1) != 1)


def _nothing(story: Story, event: Mapping[str, Any], cursor: str) -> Iterable[Event]:
    del story, event, cursor
    return ()


def _started(story: Story, event: Mapping[str, Any], cursor: str) -> Iterable[Event]:
    del cursor
    run_id, parent = event["run_id"], event.get("parent_run_id")
    if run_id == story.run.run_id:
        if not is_anew(story, event):
            return []
        for asked in [each for each in story.questions if each[0] != run_id]:
            del story.questions[asked]  # who asked is gone; the run itself asks again
        attempt = {"attempt": event["attempt"]}
        return [
            *story.given_up("attempt_lost"),
            {"type": "CUSTOM", "name": f"{PREFIX}new_attempt", "value": attempt},
        ]
    started = {"type": "SUBAGENT_STARTED", "subagentRunId": run_id, "name": event["agent_name"]}
    if parent != story.run.run_id:
        started["parentSubagentRunId"] = parent
    return [started]


def _thinking(story: Story, event: Mapping[str, Any], cursor: str) -> Iterable[Event]:
    run_id, payload = event["run_id"], event["payload"]
    scope, tag, told = story.scope(run_id), story.tag(run_id), list[Event]()
    if thoughts := payload["thoughts"]:
        named = {"messageId": f"{scope}:thought-{cursor}", **tag}
        told += [
            {"type": "REASONING_START", **named},
            {"type": "REASONING_MESSAGE_START", "role": "reasoning", **named},
            {"type": "REASONING_MESSAGE_CONTENT", "delta": thoughts, **named},
            {"type": "REASONING_MESSAGE_END", **named},
            {"type": "REASONING_END", **named},
        ]
    if payload.get("progress") is not None or not thoughts:
        content = {name: payload[name] for name in ("thoughts", "step", "progress")
                   if payload.get(name) not in (None, "")}  # fmt: skip
        told.append(
            {"type": "ACTIVITY_SNAPSHOT", "messageId": f"{scope}:progress",
             "activityType": "progress", "content": content, **tag}
        )  # fmt: skip
    return told


def _executing(story: Story, event: Mapping[str, Any], cursor: str) -> Iterable[Event]:
    run_id, payload = event["run_id"], event["payload"]
    tag, call = story.tag(run_id), f"{story.scope(run_id)}:call-{cursor}"
    story.calls[run_id, payload["call_id"]] = call, tag
    named, parameters = {"toolCallId": call, **tag}, payload.get("parameters")
    about = {name: payload[name] for name in ("call_id", "purpose") if name in payload}
    return [
        {"type": "TOOL_CALL_START", "toolCallName": payload["tool"], **named, "metadata": about},
        {"type": "TOOL_CALL_ARGS", "delta": _json({} if parameters is None else parameters),
         **named},
        {"type": "TOOL_CALL_END", **named},
    ]  # fmt: skip


def _executed(story: Story, event: Mapping[str, Any], cursor: str) -> Iterable[Event]:
    run_id, payload = event["run_id"], event["payload"]
    unknown = f"{story.scope(run_id)}:call-{payload['call_id']}", story.tag(run_id)
    call, tag = story.calls.pop((run_id, payload["call_id"]), unknown)
    message_id = f"{story.scope(run_id)}:result-{cursor}"
    if payload["success"]:
        return [_result(tag, call, message_id, payload["result"], failed=False)]
    error = payload.get("error") or {"code": "failed", "message": "the tool failed"}
    return [_result(tag, call, message_id, error)]


def _result(tag: Event, call: str, message_id: str, what: Any, *, failed: bool = True) -> Event:
    content = {"error": what} if failed else what
    told = {
        "type": "TOOL_CALL_RESULT", "messageId": message_id, "toolCallId": call, "role": "tool",
        "content": content if isinstance(content, str) else _json(content), **tag,
    }  # fmt: skip
    return {**told, "metadata": {"isError": True}} if failed else told


def _completed(story: Story, event: Mapping[str, Any], cursor: str) -> Iterable[Event]:
    del cursor
    run_id, payload = event["run_id"], event["payload"]
    status, response = payload["status"], payload["response"]
    error = payload.get("error") or {}
    failure = {"message": error.get("message") or f"the run was {status}",
               "code": error.get("code") or status}  # fmt: skip
    result = {} if response is None else {"result": response}
    if run_id != story.run.run_id:
        for asked in [each for each in story.questions if each[0] == run_id]:
            del story.questions[asked]
        if run_id not in story.constructs.subagents():
            return []  # its parent's attempt was given up before
        if status == events.SUCCEEDED:
            return [{"type": "SUBAGENT_FINISHED", "subagentRunId": run_id, **result}]
        return [{"type": "SUBAGENT_ERROR", "subagentRunId": run_id, **failure}]
    story.questions.clear()
    usage = _usage(payload.get("usage"))
    if status not in (events.SUCCEEDED, events.CANCELLED):
        return [{"type": "RUN_ERROR", **failure, **usage}]
    outcome = "success" if status == events.SUCCEEDED else "cancelled"
    return [
        *story.given_up("run_ended"),
        {"type": "RUN_FINISHED", "threadId": story.run.thread_id, "runId": story.agui_run_id,
         "outcome": {"type": outcome}, **result, **usage},
    ]  # fmt: skip


def _asked(story: Story, event: Mapping[str, Any], cursor: str) -> Iterable[Event]:
    del cursor
    story.questions[event["run_id"], event["payload"]["request_id"]] = event["payload"]
    return []


def _answered(story: Story, event: Mapping[str, Any], cursor: str) -> Iterable[Event]:
    story.questions.pop((event["run_id"], event["payload"].get("request_id")), None)
    return _custom(story, event, cursor)


def _custom(story: Story, event: Mapping[str, Any], cursor: str) -> Iterable[Event]:
    del cursor
    return [
        {"type": "CUSTOM", "name": PREFIX + event["type"], "value": event["payload"],
         **story.tag(event["run_id"])}
    ]  # fmt: skip


def _usage(usage: object) -> Event:
    if not isinstance(usage, dict):
        return {}
    entry = {
        told: usage[name]
        for name, told in USAGE.items()
        if type(usage.get(name)) is int and 0 <= usage[name] <= LARGEST
    }
    labels = {name: usage[name] for name in ("provider", "model") if name in usage}
    entry |= {name: label for name, label in labels.items() if isinstance(label, str)}
    return {"usage": [entry]} if entry else {}


def epoch_ms(moment: object) -> int | None:
    """A time as the envelope writes it → milliseconds since 1970; None for something else."""
    try:
        return round(datetime.fromisoformat(str(moment)).timestamp() * 1000)
    except ValueError:
        return None


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


Reading = Callable[[Story, Mapping[str, Any], str], Iterable[Event]]

TABLE: Final[Mapping[str, Reading]] = {
    events.AGENT_STARTED: _started,
    events.AGENT_THINKING: _thinking,
    events.TOOL_EXECUTING: _executing,
    events.TOOL_COMPLETED: _executed,
    events.AGENT_COMPLETED: _completed,
    events.INPUT_REQUIRED: _asked,
    events.USER_INPUT: _answered,
    events.STOP_REQUESTED: _custom,
}
"""Event → what it becomes. What is not here becomes nothing: ``user_message``, for its sender has
it, and types that are not known yet."""
