"""Events as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from rich.console import Console
from rich.text import Text

from broker import events

_WIDEST_JSON: Final = 300
# What an agent or another user wrote must not move the cursor or recolour the terminal.
_CONTROLS: Final = {code: "�" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def show_event(console: Console, event: Mapping[str, Any]) -> None:
    """Print one event; of a type that is not known here, its type and payload."""
    payload = event.get("payload", event.get("data")) or {}
    shown = _SHOWN.get(event["type"])
    mark, style, words = shown(payload) if shown else ("·", "dim", _json(payload))
    line = Text(f"{mark} ", style=style)
    line.append(f"{event['type']:<16}", style="bold")
    line.append(f" {words}".translate(_CONTROLS), style="" if shown else "dim")
    console.print(line, soft_wrap=True)


def show_delta(console: Console, event: Mapping[str, Any]) -> None:
    """Print streamed text where it ends."""
    text = event["payload"]["text"].translate(_CONTROLS)
    console.print(Text(text), end="", soft_wrap=True)


def _json(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= _WIDEST_JSON else f"{text[:_WIDEST_JSON]}…"


def _started(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    return "▶", "cyan", str(payload.get("message", ""))


def _thinking(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    return "…", "magenta", str(payload.get("thoughts", ""))


def _executing(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    parameters = payload.get("parameters")
    return "⚙", "yellow", f"{payload.get('tool')} {_json(parameters) if parameters else ''}"


def _tool_done(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    took = f"{payload.get('tool')} ({payload.get('duration_ms')} ms)"
    if payload.get("success"):
        return "✔", "green", f"{took} {_json(payload.get('result'))}"
    return "✘", "red", f"{took} {_error(payload)}"


def _completed(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    status, took = payload.get("status"), payload.get("duration_ms")
    missing = payload.get("missing")
    words = f"{status} after {took} ms" + (f", without {', '.join(missing)}" if missing else "")
    if status != "succeeded":
        return "■", "red", f"{words} {_error(payload)}"
    response = payload.get("response")
    return "■", "green", f"{words}\n{response}" if response else words


def _message(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    return "»", "blue", _json(payload.get("content", ""))


def _input(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    return "?", "yellow", str(payload.get("prompt", ""))


def _answer(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    return "»", "blue", _json(payload.get("content"))


def _stop(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    del payload
    return "»", "blue", "stop"


def _resync(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    return "!", "red", f"{payload.get('reason')}: events may be missing or come again"


def _failure(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    return "!", "red", f"{payload.get('code')}: {payload.get('message')}"


def _error(payload: Mapping[str, Any]) -> str:
    error = payload.get("error") or {}
    return f"{error.get('code', '')}: {error.get('message', '')}" if error else ""


_SHOWN: Final[Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str, str]]]] = {
    events.AGENT_STARTED: _started,
    events.AGENT_THINKING: _thinking,
    events.TOOL_EXECUTING: _executing,
    events.TOOL_COMPLETED: _tool_done,
    events.AGENT_COMPLETED: _completed,
    events.USER_MESSAGE: _message,
    events.INPUT_REQUIRED: _input,
    events.USER_INPUT: _answer,
    events.STOP_REQUESTED: _stop,
    "resync": _resync,
    "error": _failure,
}
"""Event type → mark, style, words."""
