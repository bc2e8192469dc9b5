"""Tests of agents without Redis, gateway or worker.

Runs go through the same code as in a worker: the lifecycle is checked, events are numbered and
ordered, time-outs and exceptions end them. Only the place where events go is a list::

    events = await run_agent(analyst, content="1 2 3")
    expect(events).started().thinking().tool("data_analyzer").completed("succeeded").nothing_else()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, Self

from agents_sdk.agent import Agent, AgentFunction, declare
from agents_sdk.errors import Reason
from agents_sdk.execution import Execution
from agents_sdk.ids import new_id
from agents_sdk.recording import RecordingHost
from broker import events as kinds
from broker.channels import Keys, Owner, Scope
from broker.redis.records import AgentSpec, RunRequest
from broker.redis.steering import Asked, Look

Event = dict[str, Any]

_EXPECTED: Final = (*kinds.LIFECYCLE, kinds.INPUT_REQUIRED)


async def run_agent(
    agent: Agent | AgentFunction,
    *,
    content: Any = None,
    metadata: dict[str, Any] | None = None,
    user_id: str = "test-user",
    thread_id: str = "test-thread",
    stop_at: Callable[[Event], bool] | None = None,
    answers: Sequence[Any] = (),
) -> list[Event]:
    """Run ``agent`` once and return its events as clients get them.

    ``agent_delta`` and the events of sub-agents are among them.

    ``agent``: what ``@worker.agent`` left, with its declared options, or a bare function. An
    exception of the agent ends its run as ``failed``; it is not raised here. ``stop_at``: the user
    stops the run at the first event for which it answers true. ``answers``: what the user answers
    to ``run.ask``, one after the other; a question beyond them expires at once.
    """
    declared = agent if isinstance(agent, Agent) else declare(agent, AgentSpec(name=_name(agent)))
    host = _User(stop_at, answers)
    owner = Owner("", user_id)
    request = RunRequest(
        run_id=new_id(),
        owner=owner,
        channel=Keys("test").channel(owner, Scope.USER),
        thread_id=thread_id,
        agent=declared.name,
        content=content,
        metadata=metadata or {},
    )
    execution = Execution(host, host.register(request), declared.function, declared.spec)
    await execution.conduct()
    await execution.wait_gone()
    return host.events


def expect(events: Sequence[Event]) -> Expectation:
    """A chain of expectations on the events of the outermost run, in order.

    Each step takes what it names and raises :class:`AssertionError`, with all that came, when it is
    not next.
    """
    return Expectation(events, [each for each in events if "parent_run_id" not in each])


class Expectation:
    """What is still to be explained of one run's events."""

    def __init__(self, every: Sequence[Event], run: Sequence[Event]) -> None:
        self._every = every
        ours = {each["run_id"] for each in run if each["type"] in kinds.LIFECYCLE}
        self._run = [each for each in run if each["run_id"] in ours]
        self._left = [each for each in self._run if each["type"] in _EXPECTED]

    def started(self, message: str | None = None) -> Self:
        """``agent_started``; with a message that contains the text."""
        self._contains(self._next(kinds.AGENT_STARTED), "message", message)
        return self

    def thinking(self, thoughts: str | None = None) -> Self:
        """One ``agent_thinking``; with thoughts that contain the text."""
        self._contains(self._next(kinds.AGENT_THINKING), "thoughts", thoughts)
        return self

    def tool(self, name: str, *, success: bool = True, result: Any = ...) -> Self:
        """One call of this tool, with this result if one is given.

        Its ``tool_completed`` may come anywhere later: calls may overlap.
        """
        opening = self._next(kinds.TOOL_EXECUTING)["payload"]
        if opening["tool"] != name:
            self._fail(f"tool {name!r}, not {opening['tool']!r}")
        for event in self._left:
            payload = event["payload"]
            if event["type"] == kinds.TOOL_COMPLETED and payload["call_id"] == opening["call_id"]:
                break
        else:
            self._fail(f"a tool_completed for {name!r}")
        self._left.remove(event)
        if payload["success"] is not success:
            self._fail(f"tool {name!r} with success {success}, not {payload}")
        if result is not ... and payload["result"] != result:
            self._fail(f"tool {name!r} with result {result!r}, not {payload['result']!r}")
        return self

    def asked(self, prompt: str | None = None) -> Self:
        """``input_required``; with a prompt that contains the text."""
        self._contains(self._next(kinds.INPUT_REQUIRED), "prompt", prompt)
        return self

    def completed(
        self, status: str = kinds.SUCCEEDED, *, response: Any = ..., error: str | None = None
    ) -> Self:
        """``agent_completed`` with this status, this response, and this error code."""
        payload = self._next(kinds.AGENT_COMPLETED)["payload"]
        if payload["status"] != status:
            self._fail(f"status {status!r}, not {payload['status']!r} {payload.get('error', '')}")
        if response is not ... and payload["response"] != response:
            self._fail(f"response {response!r}, not {payload['response']!r}")
        if error is not None and payload.get("error", {}).get("code") != error:
            self._fail(f"error code {error!r}, not {payload.get('error')}")
        return self

    def wrote(self, text: str) -> Self:
        """The streamed text is exactly this; it may be asked anywhere in the chain."""
        deltas = [each["payload"] for each in self._run if each["type"] == kinds.AGENT_DELTA]
        written = "".join(each["text"] for each in deltas)
        if written != text:
            self._fail(f"the streamed text {text!r}, not {written!r}")
        return self

    def nothing_else(self) -> Self:
        """Every lifecycle event and every question of the run was named."""
        if self._left:
            self._fail("nothing else")
        return self

    def subagent(self, name: str) -> Expectation:
        """A chain of its own for the first sub-agent's run of this name."""
        for each in self._every:
            if each.get("parent_run_id") and each["agent_name"] == name:
                run_id = each["run_id"]
                return Expectation(self._every, [e for e in self._every if e["run_id"] == run_id])
        return self._fail(f"a sub-agent {name!r}")

    def _next(self, event_type: str) -> Event:
        if not self._left or self._left[0]["type"] != event_type:
            self._fail(event_type)
        return self._left.pop(0)

    def _contains(self, event: Event, field: str, text: str | None) -> None:
        if text is not None and text not in event["payload"][field]:
            self._fail(f"{field} with {text!r}, not {event['payload'][field]!r}")

    def _fail(self, expected: str) -> NoReturn:
        lines = [f"expected {expected}"]
        for each in self._run:
            if each["type"] in _EXPECTED:
                mark = "→" if self._left and each is self._left[0] else " "
                lines.append(f"{mark} {each['seq']:>3} {each['type']} {each['payload']}")
        if not self._left:
            lines.append("→     the end")
        raise AssertionError("\n".join(lines))


class _User(RecordingHost):
    """Stops the run when an event says so, and answers what it asks."""

    def __init__(self, stop_at: Callable[[Event], bool] | None, answers: Sequence[Any]) -> None:
        super().__init__()
        self._stop_at, self._answers = stop_at, iter(answers)

    def recorded(self, event: Event) -> None:
        super().recorded(event)
        if self._stop_at is not None and self._stop_at(event):
            self._stop_at = None
            for notify in list(self.held.values()):
                notify(Reason.STOP)
        elif event["type"] == kinds.INPUT_REQUIRED:
            looks = (Look(Asked.ANSWERED, answer) for answer in self._answers)
            look = next(looks, Look(Asked.EXPIRED))
            self.answer(event["run_id"], event["payload"]["request_id"], look)


def _name(function: AgentFunction) -> str:
    return getattr(function, "__name__", "agent").strip("<>")
