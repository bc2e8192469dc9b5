"""A thread after a reload, as an AG-UI client takes it up. Pure.

Each message is one of AG-UI and has the ``parts`` that TanStack AI shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

import orjson

from broker import cursor
from broker.events import INPUT_REQUIRED, USER_INPUT
from gateway.dialects.agui_events import epoch_ms
from gateway.dialects.agui_position import Position, Span
from gateway.dialects.agui_request import Interrupt


def hydration(thread: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """``{messages, activeRun, interrupts}`` of what :func:`gateway.history.thread` tells.

    ``activeRun``: the run to join. ``interrupts``: what a run waits for instead; then the messages
    have what it has said so far.
    """
    said, runs = thread["messages"], {run["run_id"]: run for run in thread["runs"]}
    names = {each["run_id"]: each["message_id"] for each in said if each["role"] == "user"}
    messages = [_message(each) for each in said if each["content"] is not None]
    roots = [run for run in runs.values() if _parent(run) is None]
    told: dict[str, Any] = {"messages": messages, "activeRun": None, "interrupts": None}
    if not roots:
        return told
    root = roots[-1]
    run_id = names.get(root["run_id"], root["run_id"])
    family = [run for run in runs.values() if _root(run, runs) is root]
    pending = [each for run in family for each in _pending(run, root, thread, family, now_ms)]
    if not pending:
        return {**told, "activeRun": {"runId": run_id}}
    if root["text"]:
        text = {"run_id": root["run_id"], "role": "agent", "content": root["text"],
                "timestamp": root["started_at"]}  # fmt: skip
        messages.append(_message(text))
    return {**told, "interrupts": {"runId": run_id, "pending": pending}}


def conversation(thread: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same thread's messages, and nothing but what AG-UI knows of one."""
    said = [_message(each) for each in thread["messages"] if each["content"] is not None]
    return [{name: each[name] for name in ("id", "role", "content")} for each in said]


def _message(said: Mapping[str, Any]) -> dict[str, Any]:
    content, user = said["content"], said["role"] == "user"
    if isinstance(content, dict) and content.keys() == {"parts"}:
        content = content["parts"]
    elif not isinstance(content, str):
        content = orjson.dumps(content).decode()
    parts = [{"type": "text", "content": content}] if isinstance(content, str) else content
    return {
        "id": said["message_id"] if user else f"{said['run_id']}:text-0",
        "role": "user" if user else "assistant",
        "content": content,
        "parts": parts,
        "createdAt": said["timestamp"],
    }


def _parent(run: Mapping[str, Any]) -> str | None:
    found = [event["parent_run_id"] for event in run["events"] if "parent_run_id" in event]
    return found[0] if found else None


def _root(run: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> Any:
    while (parent := _parent(run)) is not None and parent in runs:
        run = runs[parent]
    return run


def _pending(
    run: Mapping[str, Any],
    root: Mapping[str, Any],
    thread: Mapping[str, Any],
    family: list[Mapping[str, Any]],
    now_ms: int,
) -> Iterator[dict[str, Any]]:
    open_questions: dict[str, Mapping[str, Any]] = {}
    for event in run["events"]:
        payload = event["payload"]
        if event["type"] == INPUT_REQUIRED:
            open_questions[payload["request_id"]] = payload
        elif event["type"] == USER_INPUT:
            open_questions.pop(payload["request_id"], None)
    spans = {
        "" if each is root else each["run_id"]: _span(each["text"])
        for each in family
        if each["text"]
    }
    place = str(Position(cursor.parse(thread["cursor"]), None, spans))
    for request_id, payload in open_questions.items():
        if (epoch_ms(payload["expires_at"]) or 0) > now_ms:
            yield Interrupt(root["run_id"], run["run_id"], request_id, place).told(payload)


def _span(text: str) -> Span:
    whole = text.encode()
    return Span(len(whole), len(whole), crc32(whole))
