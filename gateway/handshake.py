"""What a connection asks for: the query parameters of protocol section 3, checked.

An unknown value is refused with the list of valid ones, never read as a weaker mode; a parameter
that has no meaning in the mode asked for is refused too, so that none is ever only logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from broker import cursor
from broker.channels import SCOPES, Level, Mode, Scope, check_id
from broker.cursor import Cursor

ROUTES: Final[Mapping[str, Mode | None]] = {
    "/ws": None,
    "/websocket": Mode.MAIN,
    "/api/v1/websocket": Mode.MAIN,
    "/ws/factory": Mode.FACTORY,
    "/ws/isolated": Mode.ISOLATED,
}
"""Path of a WebSocket → the mode that it means; None = the ``mode`` parameter says."""

STREAM_PATH: Final = "/sse"
"""Where the same is had as server-sent events; the ``mode`` parameter says."""

CHOICES: Final = frozenset({"mode", "isolation_level", "connection_scope", "events"})
"""Parameters whose values are words of a fixed list."""

CREDENTIALS: Final = frozenset({"token", "ticket"})

PARAMETERS: Final[Mapping[str, frozenset[Mode]]] = {
    "mode": frozenset(Mode),
    "user_id": frozenset(Mode),
    "thread_id": frozenset({Mode.MAIN, Mode.FACTORY, Mode.LEGACY, Mode.ISOLATED}),
    "isolation_level": frozenset({Mode.FACTORY}),
    "connection_scope": frozenset({Mode.ISOLATED}),
    "after": frozenset({Mode.MAIN, Mode.FACTORY, Mode.ISOLATED}),
    "run_id": frozenset({Mode.FACTORY}),
    "connection": frozenset({Mode.ISOLATED}),
    "secret": frozenset({Mode.ISOLATED}),
    "events": frozenset({Mode.MAIN, Mode.FACTORY, Mode.ISOLATED}),
}
"""Parameter → the modes in which it has a meaning."""

EVENTS: Final = ("all", "lifecycle")
REPLACEMENT: Final = "\ufffd"


class BadRequest(Exception):
    """A refusal before the upgrade: HTTP status, a code, and a text that says what is valid.

    ``retry_after_seconds`` is for those that may succeed later, 429 and 503; ``more`` are further
    members of the problem (RFC 9457 section 3.2).
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int = 400,
        retry_after_seconds: int = 1,
        more: Mapping[str, object] | None = None,
    ) -> None:
        self.status, self.code, self.detail = status, code, detail
        self.retry_after_seconds, self.more = retry_after_seconds, more or {}
        super().__init__(detail)


def named_id(name: str, value: object) -> str:
    """The id that a field of this name holds; :class:`BadRequest` when it is none."""
    try:
        if not isinstance(value, str):
            raise ValueError("must be a string")
        return check_id(value)
    except ValueError as error:
        raise BadRequest(f"invalid_{name}", f"{name} {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A valid request for a connection.

    ``after`` is None when absent; ``bad_cursor``: it was there and is no cursor (answered with a
    ``resync``, not refused).
    """

    mode: Mode
    level: Level | None
    scope: Scope
    user_id: str | None
    thread_id: str | None
    after: Cursor | None
    bad_cursor: bool
    run_id: str | None
    connection: str | None
    secret: str | None
    lifecycle_only: bool
    turn: int = 0
    """How often the isolated channel has been taken up, this time included."""


def parse(path: str, query: Mapping[str, str]) -> Opening:
    """The request of one connection; :class:`BadRequest` when it is not a valid one."""
    names = set(query)
    if len(query) != len(names):
        # Nobody can say which of them was meant, so the wider one must not win.
        raise BadRequest("repeated_parameter", "a parameter is given more than once")
    if names <= CHOICES:
        return _chosen(path, tuple(query.items()))
    return _parse(path, query)


@lru_cache(maxsize=256)
def _chosen(path: str, words: tuple[tuple[str, str], ...]) -> Opening:
    """Nothing but words of fixed lists: all who ask for the same have the same opening."""
    return _parse(path, dict(words))


def _parse(path: str, query: Mapping[str, str]) -> Opening:
    mode = _mode(path, query)
    # Those that do not exist first, so that the same request is always refused for the same.
    for name in sorted(set(query) - CREDENTIALS, key=lambda name: (name in PARAMETERS, name)):
        allowed = PARAMETERS.get(name)
        if allowed is None:
            raise BadRequest("unknown_parameter", f"{name}: valid are {_list(PARAMETERS)}")
        if mode not in allowed:
            raise BadRequest(
                "parameter_not_allowed", f"{name} is for {_list(allowed)} only, not {mode}"
            )
    level = _level(mode, query)
    if query.get("connection_scope", "true") != "true":
        raise BadRequest("invalid_connection_scope", "connection_scope: valid is true")
    events = _choice("events", query.get("events", "all"), EVENTS)
    if level is Level.STRICT and "after" in query and "run_id" not in query:
        raise BadRequest("run_id_required", "after belongs to the run that run_id names")
    if level is Level.STANDARD and "run_id" in query:
        raise BadRequest("parameter_not_allowed", "run_id is for isolation_level strict only")
    if ("connection" in query) != ("secret" in query):
        raise BadRequest("secret_required", "connection and secret belong together")
    after, bad_cursor = _after(query.get("after"))
    return Opening(
        mode=mode,
        level=level,
        scope=SCOPES[mode, level],
        user_id=_id("user_id", query),
        thread_id=_id("thread_id", query),
        after=after,
        bad_cursor=bad_cursor,
        run_id=_id("run_id", query),
        connection=_id("connection", query),
        secret=_id("secret", query),
        lifecycle_only=events == "lifecycle",
    )


def _mode(path: str, query: Mapping[str, str]) -> Mode:
    fixed = ROUTES.get(path)
    given = query.get("mode")
    if given is None:
        return fixed or Mode.MAIN
    mode = Mode(_choice("mode", given, tuple(Mode)))
    if fixed is not None and mode is not fixed:
        raise BadRequest("mode_contradicts_path", f"{path} is mode {fixed}; use /ws for {mode}")
    return mode


def _level(mode: Mode, query: Mapping[str, str]) -> Level | None:
    if mode is not Mode.FACTORY:
        return None
    return Level(_choice("isolation_level", query.get("isolation_level", "standard"), tuple(Level)))


def _choice(name: str, value: str, valid: tuple[str, ...]) -> str:
    if value not in valid:
        raise BadRequest(f"invalid_{name}", f"{name}: valid are {_list(valid)}")
    return value


def _id(name: str, query: Mapping[str, str]) -> str | None:
    value = query.get(name)
    if value is None:
        return None
    try:
        if REPLACEMENT in value:  # what bytes that are no UTF-8 are decoded to
            raise ValueError("must be valid UTF-8")
        return check_id(value)
    except ValueError as error:
        raise BadRequest(f"invalid_{name}", f"{name} {error}") from None


def _after(text: str | None) -> tuple[Cursor | None, bool]:
    if text is None:
        return None, False
    try:
        return cursor.parse(text), False
    except ValueError:
        return None, True


def _list(names: object) -> str:
    return ", ".join(sorted(str(name) for name in names))  # type: ignore[attr-defined]
