"""A declared agent: its function, and what is announced of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from agents_sdk.run import Run
from broker.errors import ConfigurationError
from broker.redis.records import SPEC_TYPES, AgentSpec, fits

AgentFunction = Callable[[Run], Awaitable[Any]]


class Agent:
    """What ``@worker.agent(…)`` leaves in place of the function: still callable like it."""

    __name__: str

    def __init__(self, function: AgentFunction, spec: AgentSpec) -> None:
        self.function, self.spec = function, spec
        functools.update_wrapper(self, function)

    @property
    def name(self) -> str:
        """The name that clients ask for."""
        return self.spec.name

    def __call__(self, run: Run) -> Awaitable[Any]:
        """Call the function itself, as in a test that brings its own run."""
        return self.function(run)

    def __repr__(self) -> str:
        return f"<Agent {self.name!r}>"


def declare(function: AgentFunction, spec: AgentSpec) -> Agent:
    """Check a declaration. :class:`ConfigurationError` says what is wrong with it."""

    def refuse(setting: str, why: str, todo: str) -> ConfigurationError:
        return ConfigurationError(setting=f"agent {spec.name!r}: {setting}", why=why, todo=todo)

    if inspect.isasyncgenfunction(function):
        raise refuse("function", "it yields", "Say with `await run.write(text)` what it streams.")
    if not inspect.iscoroutinefunction(function):
        raise refuse(
            "function",
            f"{getattr(function, '__name__', function)!r} is not an `async def` function",
            "Declare it as `async def name(run: Run)`.",
        )
    for option, types in SPEC_TYPES.items():
        if not fits(option, getattr(spec, option)):
            names = " or ".join(kind.__name__ for kind in types)
            raise refuse(option, f"must be {names}", "No gateway would know the agent.")
    if spec.retries < 0:
        raise refuse("retries", "must not be negative", "0 means: never run it again.")
    if spec.on_busy not in ("queue", "reject", "interrupt", "parallel"):
        raise refuse(
            "on_busy", f"{spec.on_busy!r} is unknown", "Use queue, reject, interrupt or parallel."
        )
    if spec.timeout_seconds is not None and not spec.timeout_seconds > 0:
        raise refuse("timeout_seconds", "must be positive", "Leave it out for no limit.")
    return Agent(function, spec)
