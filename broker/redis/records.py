"""What is kept of agents and runs, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Final, Literal, get_args

import orjson
from redis.exceptions import ResponseError

from broker.channels import Channel, Keys, Owner, Scope
from broker.events import Envelope
from broker.lifecycle import State
from broker.limits import Allowance
from broker.trace_context import TraceContext, from_stored

UNREADABLE: Final = (ResponseError, ValueError, LookupError, TypeError, AttributeError)
"""What reading a key raises that is of another type, or that somebody else than Runcast wrote."""


def cause(error: BaseException) -> str:
    """Why a key was not readable, for a log: Redis' own text, else the error's class alone.

    Texts of other errors repeat what they could not read.
    """
    return str(error) if isinstance(error, ResponseError) else type(error).__name__


OnBusy = Literal["queue", "reject", "interrupt", "parallel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """What a worker announces of an agent.

    ``retries``: how often a run is given to another worker after its worker was lost. ``on_busy``:
    what a message means for a thread that has an open run. ``timeout_seconds``: None = no limit.
    """

    name: str
    retries: int = 0
    require_all_events: bool = False
    on_busy: OnBusy = "queue"
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A run to be registered. ``content`` and ``metadata`` are JSON values.

    ``allowance``: the limits that a client's message has to keep; None for a run that no client
    begins, which only counts. ``trace``: to which trace its events belong, if to any.
    """

    run_id: str
    owner: Owner
    channel: Channel
    thread_id: str
    agent: str
    content: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    message_id: str | None = None
    parent_run_id: str | None = None
    allowance: Allowance | None = None
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A run that is in the registry.

    ``duplicate``: the message had begun it before. ``enqueue``: give it to the queue now. ``busy``:
    the thread's open runs before this one, oldest first. ``ended``: it has ended already.
    """

    run_id: str
    thread_id: str
    agent: str
    partition: int
    duplicate: bool
    enqueue: bool
    busy: tuple[str, ...] = ()
    ended: bool = False

    @property
    def told(self) -> dict[str, Any]:
        """The payload of ``run_accepted`` (protocol section 6)."""
        return {
            "run_id": self.run_id,
            "thread_id": self.thread_id,
            "agent": self.agent,
            "duplicate": self.duplicate,
        }


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A tool call that has begun; ``since_ms`` by Redis' clock."""

    tool: str
    since_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to publish a run's events, as long as the fence holds.

    ``trace``: to which trace the run belongs; ``attempt_trace``: the ``traceparent`` of the attempt
    that was noted last, this one or the one before.
    """

    run_id: str
    partition: int
    owner: Owner
    channel: Channel
    head: bytes
    thread_id: str
    agent: str
    content: Any
    metadata: dict[str, Any]
    attempt: int
    fence: int
    seq: int
    sent: str
    parent_run_id: str | None
    stop_requested: bool
    created_ms: int
    state: State
    open_calls: dict[str, OpenCall]
    trace: TraceContext | None = None
    attempt_trace: str | None = None

    @property
    def traceparent(self) -> str | None:
        """What its events bear."""
        return None if self.trace is None else self.trace.traceparent

    @property
    def envelope(self) -> Envelope:
        """What all events of this attempt have in common."""
        return Envelope(
            user_id=self.owner.user,
            thread_id=self.thread_id,
            run_id=self.run_id,
            agent_name=self.agent,
            parent_run_id=self.parent_run_id,
            attempt=self.attempt,
            traceparent=self.traceparent,
        )


@dataclass(frozen=True, slots=True)
class Renewal:
    """``held``: the lease is renewed. ``stop``: the run was asked to stop."""

    held: bool
    stop: bool


SPEC_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "name": (str,),
    "retries": (int,),
    "require_all_events": (bool,),
    "on_busy": (str,),
    "timeout_seconds": (int, float, NoneType),
}
"""Each field of :class:`AgentSpec`: an announcement with others is not read."""


def fits(option: str, value: object) -> bool:
    """Whether an agent may have it so. ``True`` is no number, though Python has it as one."""
    types = SPEC_TYPES.get(option, ())
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def spec_of(stored: bytes) -> AgentSpec | None:
    """An agent as its worker announced it; None for what is no announcement."""
    try:
        fields = orjson.loads(stored)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict) or "name" not in fields:
        return None
    if not all(fits(name, value) for name, value in fields.items()):
        return None
    if fields.get("on_busy", "queue") not in get_args(OnBusy):
        return None
    return AgentSpec(**fields)


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash as Redis lists it → a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def text_pairs(flat: Sequence[bytes]) -> dict[str, str]:
    """The same, as text."""
    return {name.decode(): value.decode() for name, value in pairs(flat).items()}


def claim_of(stored: Mapping[str, str], keys: Keys) -> Claim:
    """The claim that a run's hash describes."""
    request = orjson.loads(stored["request"])
    owner = Owner.from_token(stored["owner"])
    channel = keys.channel(owner, Scope(stored["scope"]), stored["name"])
    return Claim(
        run_id=request["run_id"],
        partition=channel.partition,
        owner=owner,
        channel=channel,
        head=stored["head"].encode(),
        thread_id=stored["thread"],
        agent=stored["agent"],
        content=request["content"],
        metadata=request["metadata"],
        attempt=_whole(stored["attempt"]),
        fence=_whole(stored["fence"]),
        seq=_whole(stored["seq"]),
        sent=stored.get("sent", ""),
        parent_run_id=request["parent_run_id"],
        stop_requested="stop" in stored,
        created_ms=_whole(stored["created"]),
        state=State(stored["state"]),
        open_calls={
            name.removeprefix("call:"): _open_call(value)
            for name, value in stored.items()
            if name.startswith("call:")
        },
        trace=from_stored(request.get("trace")),
        attempt_trace=stored.get("trace"),
    )


def _open_call(value: str) -> OpenCall:
    since_ms, _, tool = value.partition(" ")
    return OpenCall(tool, int(since_ms))


def _whole(text: str) -> int:
    """A number that Redis counts with: of 64 bits."""
    number = int(text)
    if abs(number) >= 1 << 63:
        raise ValueError("a number of more than 64 bits")
    return number
