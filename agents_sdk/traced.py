"""Any function as a tool: each call of it is told by the run that it is called in."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, overload

from agents_sdk.context import CURRENT
from agents_sdk.posted_calls import PostedCall
from agents_sdk.run import Run
from agents_sdk.values import hide as without

P = ParamSpec("P")
R = TypeVar("R")


@overload
def traced_tool(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def traced_tool(
    *, name: str | None = None, purpose: str | None = None, hide: Collection[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def traced_tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    purpose: str | None = None,
    hide: Collection[str] = (),
) -> Callable[..., Any]:
    """``@traced_tool`` or ``@traced_tool(…)`` on a function, a method or a generator, async or not.

    Inside a run a call of it is ``tool_executing`` with its arguments by name and
    ``tool_completed`` with what it returned, or how it failed; the exception goes on to the caller.
    A generator's call lasts until it is exhausted or closed, and its result is how many items it
    gave. Outside of any run the function is just called.

    Calls may be made in the run's tasks, and in threads that :func:`asyncio.to_thread` started.
    Once the run was told to end they raise :class:`~agents_sdk.errors.RunStopped`.

    ``name``: absent = the function's. ``hide``: arguments whose values are not told.
    """
    if function is None:
        return functools.partial(_traced, name=name, purpose=purpose, hidden=frozenset(hide))
    return _traced(function, name=name, purpose=purpose, hidden=frozenset(hide))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    """What is told of every call."""

    name: str
    purpose: str | None
    hidden: frozenset[str]
    signature: inspect.Signature | None

    def opened(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PostedCall:
        run.raise_if_stopped()
        parameters = without(self._parameters(args, kwargs), self.hidden)
        return run.post_call(self.name, parameters=parameters, purpose=self.purpose)

    @contextmanager
    def told(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, gives: bool = False
    ) -> Iterator[_Result]:
        """``gives``: a generator, whose caller goes on with something else between its items."""
        result = _Result()
        run = CURRENT.get()
        if run is None:
            yield result
            return
        call = self.opened(run, args, kwargs)
        try:
            with call.span(within=not gives):
                yield result
        except GeneratorExit:  # whoever took the items needs no more
            call.returned(result.value)
            raise
        except BaseException as error:
            call.raised(error)
            raise
        call.returned(result.value)

    def _parameters(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
        try:
            if self.signature is None:
                return kwargs
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:  # calling it says so
            return kwargs
        found: dict[str, Any] = {}
        for at, (name, value) in enumerate(bound.arguments.items()):
            kind = self.signature.parameters[name].kind
            if isinstance(value, Run) or (at == 0 and name in ("self", "cls")):
                continue
            if kind is inspect.Parameter.VAR_KEYWORD:
                found |= value
            else:
                found[name] = value
        return found


@dataclass(slots=True)
class _Result:
    value: Any = None


def _traced(
    function: Callable[..., Any], *, name: str | None, purpose: str | None, hidden: frozenset[str]
) -> Callable[..., Any]:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some of C have none
        signature = None
    own = str(getattr(function, "__name__", type(function).__name__))
    tool = _Tool(name=name or own, purpose=purpose, hidden=hidden, signature=signature)
    if inspect.isasyncgenfunction(function):
        return _async_generator(function, tool)
    if inspect.iscoroutinefunction(function):
        return _async_function(function, tool)
    if inspect.isgeneratorfunction(function):
        return _generator(function, tool)
    return _function(function, tool)


def _function(function: Callable[..., Any], tool: _Tool) -> Callable[..., Any]:
    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with tool.told(args, kwargs) as result:
            result.value = function(*args, **kwargs)
        return result.value

    return traced


def _async_function(function: Callable[..., Any], tool: _Tool) -> Callable[..., Any]:
    @functools.wraps(function)
    async def traced(*args: Any, **kwargs: Any) -> Any:
        with tool.told(args, kwargs) as result:
            result.value = await function(*args, **kwargs)
        return result.value

    return traced


class _Counted(Generator[Any, Any, Any]):
    """A generator whose items are counted; what is sent or thrown into it arrives."""

    def __init__(self, items: Generator[Any, Any, Any], result: _Result) -> None:
        self._items, self._result = items, result
        result.value = 0

    def send(self, value: Any) -> Any:
        return self._counted(self._items.send(value))

    def throw(self, *error: Any) -> Any:
        return self._counted(self._items.throw(*error))

    def _counted(self, item: Any) -> Any:
        self._result.value += 1
        return item


def _generator(
    function: Callable[..., Generator[Any, Any, Any]], tool: _Tool
) -> Callable[..., Any]:
    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with tool.told(args, kwargs, gives=True) as result:
            return (yield from _Counted(function(*args, **kwargs), result))

    return traced


def _async_generator(
    function: Callable[..., AsyncGenerator[Any, Any]], tool: _Tool
) -> Callable[..., Any]:
    @functools.wraps(function)
    async def traced(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with tool.told(args, kwargs, gives=True) as result:
            result.value = 0
            async with aclosing(function(*args, **kwargs)) as items:
                following = items.asend(None)
                with suppress(StopAsyncIteration):
                    while True:
                        item = await following
                        result.value += 1
                        try:
                            following = items.asend((yield item))
                        except GeneratorExit:
                            raise
                        except BaseException as error:  # noqa: BLE001 - it is the function's
                            following = items.athrow(error)

    return traced
