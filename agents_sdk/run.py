"""What an agent holds: its request, and its voice.

Longer than others, because a run opens runs: neither can be without the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agents_sdk import ending, spans
from agents_sdk.calls import ToolCall
from agents_sdk.context import CURRENT
from agents_sdk.emitter import Emitter
from agents_sdk.ending import Outcome
from agents_sdk.errors import Reason, RunStopped
from agents_sdk.host import Host
from agents_sdk.ids import check_named, new_id
from agents_sdk.posted_calls import PostedCall
from agents_sdk.questions import Questions
from agents_sdk.time_limit import TimeLimit
from agents_sdk.values import check_json
from broker import events
from broker.errors import ConfigurationError
from broker.redis.records import Claim, RunRequest

if TYPE_CHECKING:
    from broker.tracing.tracer import Span


class Run:
    """One execution of an agent. All methods may be called from any task of the run at any time.

    ``agent_started`` is sent as the run begins: before the first thing that the agent says, or at
    its first ``await``, whichever comes first, unless the first thing that it says is its own
    ``agent_started``. ``agent_completed`` is written by leaving the run.

    Methods return when the event is in the log. They raise :class:`~broker.errors.PublishError`
    when that takes longer than the publish time-out (the event is still sent when Redis is back),
    :class:`~agents_sdk.errors.RunStopped` once the run was told to end, and
    :class:`~broker.errors.InvalidEvent`, :class:`~broker.errors.LifecycleError` or
    :class:`~broker.errors.EventTooLarge` when the event is wrong; then nothing was sent.
    """

    def __init__(
        self, claim: Claim, emitter: Emitter, host: Host, time_limit: TimeLimit | None = None
    ) -> None:
        self._claim, self._emitter, self._host = claim, emitter, host
        self._questions = Questions(emitter, host)
        self._time_limit = time_limit or TimeLimit(None, lambda: None)
        self._children: set[Scope] = set()
        self.response: Any = None
        """What ``agent_completed`` will carry if the agent returns nothing; ``None`` = the text
        that was written."""

    @property
    def id(self) -> str:
        """The run id."""
        return self._claim.run_id

    @property
    def user_id(self) -> str:
        """Whose run it is."""
        return self._claim.owner.user

    @property
    def tenant(self) -> str:
        """The user's tenant; empty when there is none."""
        return self._claim.owner.tenant

    @property
    def thread_id(self) -> str:
        """The conversation it belongs to."""
        return self._claim.thread_id

    @property
    def agent_name(self) -> str:
        """The agent's declared name."""
        return self._claim.agent

    @property
    def parent_id(self) -> str | None:
        """The run that this one is a sub-agent of."""
        return self._claim.parent_run_id

    @property
    def content(self) -> Any:
        """What the user sent: a string or an object, as it came. Do not trust it."""
        return self._claim.content

    @property
    def metadata(self) -> dict[str, Any]:
        """What the client sent along with the content. Do not trust it either."""
        return self._claim.metadata

    @property
    def attempt(self) -> int:
        """1, or more after a worker was lost. The text of the attempt before is void."""
        return self._claim.attempt

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the run belongs to: for sending events from a thread."""
        return self._emitter.loop

    @property
    def claim(self) -> Claim:
        """The right to publish, as the broker gave it; for those who carry runs."""
        return self._claim

    def check_open(self) -> None:
        """Raise as its methods do once it was told to end, or has; for those who carry runs."""
        self._emitter.check()
        self._emitter.check_open(events.AGENT_STARTED)

    @property
    def over(self) -> bool:
        """Whether it was told to end, or has ended; for those who carry runs."""
        return self.stop_requested or self._emitter.ended

    @property
    def children(self) -> set[Scope]:
        """Sub-agents' runs that are open; for those who carry runs."""
        return self._children

    @property
    def time_limit(self) -> TimeLimit:
        """What is left of the agent's time; for those who carry runs."""
        return self._time_limit

    @property
    def traceparent(self) -> str | None:
        """To be sent as a header of that name with requests of the agent's own (W3C Trace Context).

        Where tracing is on, that of the current span, within a tool the tool's; else the client's
        own. None when there is neither.
        """
        context = spans.around(self._emitter)
        return None if context is None else context.traceparent

    @property
    def tracestate(self) -> str | None:
        """The header that belongs to :attr:`traceparent`; None when there is nothing to say."""
        context = spans.around(self._emitter)
        return None if context is None else context.tracestate or None

    @property
    def stop_requested(self) -> bool:
        """Whether the run was told to end, for whatever reason. For loops that never await."""
        return self._emitter.told is not None

    async def think(
        self, thoughts: str, *, step: int | None = None, progress: float | None = None
    ) -> None:
        """``agent_thinking``. ``progress`` is between 0 and 1."""
        payload: dict[str, Any] = {"thoughts": thoughts}
        if step is not None:
            payload["step"] = step
        if progress is not None:
            payload["progress"] = progress
        await self.emit_event(events.AGENT_THINKING, payload)

    def tool(self, name: str, /, *, purpose: str | None = None, **parameters: Any) -> ToolCall:
        """``async with run.tool("search", query="…") as call``: see :class:`ToolCall`."""
        opening: dict[str, Any] = {"tool": name, "status": "running"}
        if parameters:
            opening["parameters"] = parameters
        if purpose is not None:
            opening["purpose"] = purpose
        return ToolCall(self._emitter, name, opening)

    async def write(self, token: str) -> None:
        """Append to the streamed answer.

        What is written within 40 ms goes out together; before every event all of it goes out first,
        so that the order is what the agent did.
        """
        self._emitter.check()
        await self._emitter.write(token)

    async def ask(
        self,
        prompt: str,
        *,
        schema: dict[str, Any] | None = None,
        expires_seconds: float | None = None,
    ) -> Any:
        """Ask the user, and wait for his answer: any JSON. Do not trust it.

        ``schema``: a JSON Schema that tells clients what to ask for; the answer is not checked
        against it. ``expires_seconds``: absent = ``RUNCAST_INPUT_SECONDS``. The agent's
        ``timeout_seconds`` does not count meanwhile, and the run keeps its lease.

        The answer is kept with the run. Should the worker be lost, the next attempt that asks the
        same, for the same time (the second ``ask("Go on?")`` is not the first), gets it at once:
        say in the prompt what it is about.

        :raises InputExpired: nobody has answered in time.
        """
        self._emitter.check()
        with self._time_limit.suspended():
            return await self._questions.ask(prompt, schema=schema, expires_seconds=expires_seconds)

    async def emit_event(self, event_type: str, payload: Mapping[str, Any]) -> str:
        """One of the five in its plain form; returns the event's id.

        Left-out fields that the run knows are filled in: ``call_id`` (a new one; of the only open
        call of that tool), ``success`` (no ``error`` is given), ``status``, ``duration_ms``,
        ``missing``. ``agent_completed`` ends the run; calls still open are closed first.
        """
        self._emitter.check()
        return await self._emitter.confirmed(self._emitter.accept(event_type, payload))

    def post(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """As :meth:`emit_event`, for code that cannot await: in any thread, and without waiting.

        What is posted is said in the order of posting, and before anything that the run says
        afterwards. What is refused is logged as ``post_refused``; what is posted of a run that was
        told to end is left out. ``payload`` must not be changed afterwards.
        """
        self._emitter.posts.event(event_type, payload)

    def post_text(self, text: str) -> None:
        """:meth:`write` in the same way."""
        self._emitter.posts.text(text)

    def post_call(
        self,
        name: str,
        /,
        *,
        parameters: Mapping[str, Any] | None = None,
        purpose: str | None = None,
        call_id: str | None = None,
    ) -> PostedCall:
        """:meth:`tool` in the same way: ``tool_executing`` now; see :class:`PostedCall`.

        ``call_id``: absent = a new one; it must not be that of a call that is open.
        """
        return PostedCall(
            self._emitter, name, parameters=parameters, purpose=purpose, call_id=call_id
        )

    def raise_if_stopped(self) -> None:
        """Raise :class:`RunStopped` once the run was told to end; in any thread."""
        if (reason := self._emitter.told) is not None:
            raise RunStopped(run_id=self.id, reason=reason)

    async def room(self) -> None:
        """Wait while more was posted than a run may have unconfirmed.

        Await it, where that is possible, after what was posted: a model that is faster than Redis
        then waits instead of filling the memory. Raises :class:`~broker.errors.PublishError` after
        the publish time-out.
        """
        self._emitter.check()
        await self._emitter.room()

    def subagent(self, name: str, /, *, content: Any = None) -> Scope:
        """A sub-agent: ``async with run.subagent("searcher") as child``.

        A run of its own within this one, with its own five events, on the same channel. ``content``
        is what it was asked.
        """
        check_named("subagent", name)
        check_json("content", content)
        parent = self._claim
        request = RunRequest(
            run_id=new_id(),
            owner=parent.owner,
            channel=parent.channel,
            thread_id=parent.thread_id,
            agent=name,
            content=content,
            parent_run_id=parent.run_id,
            trace=parent.trace,
        )
        return Scope(self._host, request, parent=self)


class Scope:
    """A run that no client began, as a context manager: opened on the way in, ended on the way out.

    Returning normally: ``succeeded`` with ``run.response``, or the text that was written. Raising:
    ``failed``. Cancelled: ``cancelled``. Told to end meanwhile: the body is cancelled, and leaving
    raises :class:`RunStopped`. Leaving waits until all is in the log; when that takes longer than
    the publish time-out it raises :class:`~broker.errors.PublishError`, and goes on sending.
    """

    def __init__(self, host: Host, request: RunRequest, *, parent: Run | None = None) -> None:
        self._host, self._request, self._parent = host, request, parent
        self._entered = self._cancelled = False
        self._span: Span | None = None

    async def __aenter__(self) -> Run:
        if self._entered:
            raise ConfigurationError(
                setting=f"run of {self._request.agent!r}",
                why="it was opened before, and each is for one `async with`",
                todo="Open another one.",
            )
        self._entered = True
        if self._parent is not None:
            self._parent.check_open()
        self._task = asyncio.current_task()
        voice, request = self._host.voice, self._request
        if voice.tracing is not None:
            self._span, request = spans.opened(voice.tracing, request)
        try:
            claim = await self._host.open_run(request)
        except BaseException as error:
            spans.ended(self._span, None, type(error).__name__)
            raise
        self._emitter = emitter = Emitter(claim, self._host.sink, voice, self._span)
        limit = self._parent.time_limit if self._parent is not None else None
        self._run = run = Run(claim, emitter, self._host, limit)
        self._cancelling = self._task.cancelling() if self._task else 0
        emitter.on_lost = partial(self.cancel, Reason.LOST)
        self._host.hold(claim, self.cancel)
        if self._parent is not None:
            self._parent.children.add(self)
        self._previous = CURRENT.get()
        CURRENT.set(run)
        self._around = None if self._span is None else self._span.enter()
        asyncio.get_running_loop().call_soon(emitter.begin)
        if self._parent is not None and self._parent.over:  # meanwhile
            self.end()
        return run

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        CURRENT.set(self._previous)
        if self._span is not None and self._around is not None:
            self._span.leave(self._around)
        if self._parent is not None:
            self._parent.children.discard(self)
        end_children(self._run)
        outcome = None
        if not self._emitter.ended:
            outcome = self._outcome(error)
            self._emitter.finish(outcome)
        spans.ended(self._span, self._emitter.status, ending.code_of(outcome))
        told, task = self._emitter.told, self._task
        self._task = None  # from here on nothing cancels the body's task any more
        leaving = self._host.leave(self._run.claim, self._emitter)
        await asyncio.wait([leaving], timeout=self._host.voice.publish_timeout_seconds)
        if self._cancelled and task is not None:
            others = task.uncancel() > self._cancelling
            if isinstance(error, asyncio.CancelledError) and others:
                return
        if told is not None and (error is None or isinstance(error, asyncio.CancelledError)):
            if error is None or self._cancelled:
                raise RunStopped(run_id=self._run.id, reason=told) from error
        elif error is None and not leaving.done():
            raise self._emitter.unconfirmed()

    def cancel(self, reason: Reason) -> None:
        """Tell the run to end, and cancel its body once."""
        self._emitter.tell(reason)
        if self._run.stop_requested and self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    def end(self) -> None:
        """The run around this one is over, so this one is now."""
        self.cancel(Reason.PARENT)
        self._emitter.finish(ending.told(Reason.PARENT))

    def _outcome(self, error: BaseException | None) -> Outcome:
        if self._emitter.told is not None:
            return ending.told(self._emitter.told)
        if (
            isinstance(error, asyncio.CancelledError)
            and self._parent
            and self._parent.stop_requested
        ):
            return ending.told(Reason.PARENT)
        return ending.returned(self._run.response) if error is None else ending.raised(error)


def end_children(run: Run) -> None:
    """End the sub-agents' runs that are still open; ``run`` itself ends next."""
    for child in list(run.children):
        child.end()
