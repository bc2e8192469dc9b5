"""The browser client's event types, from the same tables that the SDK checks events against.

``gateway/web/events.d.ts`` belongs to this module: ``python docs/generate.py`` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from broker.events import (
    AGENT_COMPLETED,
    AGENT_DELTA,
    INPUT_REQUIRED,
    LIFECYCLE,
    PAYLOADS,
    STATUSES,
    TOOL_EXECUTING,
    USER_MESSAGE,
)

FILE: Final = Path(__file__).resolve().parents[1] / "gateway" / "web" / "events.d.ts"

_TYPES: Final[Mapping[tuple[type, ...], str]] = {
    (str,): "string",
    (int,): "number",
    (int, float): "number",
    (bool,): "boolean",
    (dict,): "JsonObject",
    (list,): "Json[]",
    (object,): "Json",
}

_NARROWER: Final[Mapping[tuple[str, str], str]] = {
    (TOOL_EXECUTING, "status"): '"running"',
    (AGENT_COMPLETED, "complete"): "true",
    (AGENT_COMPLETED, "status"): "RunStatus",
    (AGENT_COMPLETED, "missing"): "LifecycleType[]",
}
"""What ``VALUES`` of ``broker.events`` allows, where TypeScript can say it."""

_HEAD: Final = """\
// Made by docs/generate.py from the tables of broker/events.py: do not edit.

export type Json = string | number | boolean | null | Json[] | JsonObject;
export interface JsonObject {{ [name: string]: Json }}

/** The facts of a run, in the order in which a complete run reports them. */
export type LifecycleType = {lifecycle};

/** How a run ends. */
export type RunStatus = {statuses};

export interface RunProblem {{ code: string; message: string }}

/** What every event has; fields that a later server adds are let through. */
export interface Envelope<Type extends string, Payload> {{
  type: Type;
  /** The cursor. Absent in legacy mode, on streamed text and on a message only sent. */
  id?: string;
  user_id?: string;
  thread_id: string;
  /** Empty on a message that has only been sent. */
  run_id: string;
  /** Of a sub-agent's run. */
  parent_run_id?: string;
  agent_name: string;
  /** 1, 2, 3… within the run. */
  seq?: number;
  /** From the run's second attempt on. */
  attempt?: number;
  /** To which trace the run belongs (W3C Trace Context), if to any. */
  traceparent?: string;
  timestamp?: string;
  payload: Payload;
}}
"""

_OTHERS: Final = f"""\
/** Streamed text: `offset` and `next` count UTF-8 bytes. */
export interface AgentDeltaPayload {{ offset: number; next: number; text: string }}

/** What the user wrote, in every tab of his; `message_id` is the one that it was sent with. */
export interface UserMessagePayload {{ content: Json; message_id: string; metadata: JsonObject }}

/** The user's answer to an `input_required`, in every tab of his. */
export interface UserInputPayload {{ request_id: string; content: Json }}

export interface EventPayloads {{
%s
  {AGENT_DELTA}: AgentDeltaPayload;
  {USER_MESSAGE}: UserMessagePayload;
  user_input: UserInputPayload;
  /** Somebody has asked for the run's end. */
  stop_requested: JsonObject;
}}

export type EventType = keyof EventPayloads;

/** Any event; `switch (event.type)` tells which. */
export type RuncastEvent<Type extends EventType = EventType> =
  Type extends EventType ? Envelope<Type, EventPayloads[Type]> : never;
"""


def event_types() -> str:
    """The whole file."""
    head = _HEAD.format(lifecycle=_union(LIFECYCLE), statuses=_union(STATUSES))
    bodies = [_interface(name) for name in PAYLOADS]
    rows = "\n".join(f"  {name}: {_name(name)};" for name in PAYLOADS)
    return "\n".join([head, *bodies, _OTHERS % rows])


def _interface(event_type: str) -> str:
    rule = PAYLOADS[event_type]
    lines = [f"  {name}: {_type(event_type, name, types)};" for name, types in rule.always.items()]
    lines += [
        f"  {name}?: {_type(event_type, name, types)};" for name, types in rule.optional.items()
    ]
    if event_type == INPUT_REQUIRED:
        prose = "/** A question to the user; `schema` is a JSON Schema of the answer. */\n"
    else:
        prose = ""
    body = "\n".join(lines)
    return f"{prose}export interface {_name(event_type)} {{\n{body}\n}}\n"


def _type(event_type: str, field: str, types: tuple[type, ...]) -> str:
    narrower = _NARROWER.get((event_type, field))
    if narrower is not None:
        return narrower
    return "RunProblem" if field == "error" else _TYPES[types]


def _name(event_type: str) -> str:
    return f"{''.join(word.title() for word in event_type.split('_'))}Payload"


def _union(words: tuple[str, ...]) -> str:
    return " | ".join(f'"{word}"' for word in words)
