"""How many connections a turn of the event loop takes, on the loop of a gateway in production."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import pytest
import uvloop

from broker.config import Settings
from gateway.listening import CROWD, HANDLES, Listening
from tests.support.clients import eventually

WORD = b"here\n"


class Turns:
    """Counts the turns of the running event loop, and who came in which."""

    def __init__(self) -> None:
        self.number = 0
        self.came: Counter[int] = Counter()
        self._turn()

    def _turn(self) -> None:
        self.number += 1
        asyncio.get_running_loop().call_soon(self._turn)

    def __call__(self) -> asyncio.Protocol:
        self.came[self.number] += 1
        return Echo()

    @property
    def most(self) -> int:
        """That came in one turn."""
        return max(self.came.values(), default=0)

    async def have_come(self, count: int) -> None:
        await eventually(lambda: self.came.total() == count)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@contextmanager
def clients(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Blocking sockets: the kernel has them connected before the event loop's next turn."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(count)
        ]


def are_heard(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.sendall(WORD)
    for each in sockets:
        with each.makefile("rb") as file:
            assert file.readline() == WORD


Scene = Callable[[Listening, Turns], Awaitable[None]]


def play(scene: Scene, settings: Settings) -> None:
    """The scene, on uvloop; nothing that it leaves behind may have failed."""
    failed: list[dict[str, object]] = []

    async def on_stage() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
        turns, listening = Turns(), Listening(settings, share_port=False)
        try:
            await listening.start(turns)
            await scene(listening, turns)
        finally:
            listening.close()
            for left in listening._servers:  # uvloop would wait for them without end
                left.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(on_stage())
        gc.collect()  # a task whose error nobody took tells of it when it is collected
    assert failed == []


def test_of_a_crowd_a_turn_takes_as_many_as_there_are_handles(settings: Settings) -> None:
    async def scene(listening: Listening, turns: Turns) -> None:
        with clients(listening.port, 10 * HANDLES) as crowd:
            await turns.have_come(len(crowd))
            assert turns.most == HANDLES
            assert len(turns.came) < 10 + CROWD
            await asyncio.to_thread(are_heard, crowd)

    play(scene, settings)


def test_of_a_few_a_turn_takes_one(settings: Settings) -> None:
    async def scene(listening: Listening, turns: Turns) -> None:
        with clients(listening.port, CROWD) as few:  # the first does not wait when it is looked
            await turns.have_come(len(few))
        assert turns.most == 1

    play(scene, settings)


def test_when_a_crowd_is_in_one_handle_is_left_and_they_stay(settings: Settings) -> None:
    async def scene(listening: Listening, turns: Turns) -> None:
        with clients(listening.port, 5 * HANDLES) as crowd:
            await turns.have_come(len(crowd))
            listening.calm()
            turns.came.clear()
            with clients(listening.port, CROWD) as few:
                await turns.have_come(len(few))
                assert turns.most == 1
                await asyncio.to_thread(are_heard, [*crowd, *few])

    play(scene, settings)


def test_while_there_is_a_crowd_the_handles_stay(settings: Settings) -> None:
    async def scene(listening: Listening, turns: Turns) -> None:
        with clients(listening.port, 5 * HANDLES) as crowd:
            await turns.have_come(len(crowd))
            turns.came.clear()
            with clients(listening.port, 2 * HANDLES) as more:
                listening.calm()
                await turns.have_come(len(more))
            assert turns.most == HANDLES
            assert len(turns.came) == 2

    play(scene, settings)


def test_a_crowd_is_let_in_where_there_are_no_more_files(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: socket.socket) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scene(listening: Listening, turns: Turns) -> None:
        monkeypatch.setattr(socket.socket, "dup", none_left)
        with clients(listening.port, 5 * HANDLES) as crowd:
            await turns.have_come(len(crowd))
            await asyncio.to_thread(are_heard, crowd)
        assert turns.most == 1
        listening.calm()

    play(scene, settings)


def test_nobody_is_let_in_by_any_handle_once_it_is_closed(settings: Settings) -> None:
    async def scene(listening: Listening, turns: Turns) -> None:
        with clients(listening.port, 5 * HANDLES) as crowd:
            await turns.have_come(len(crowd))
            listening.close()
            before = turns.number
            await eventually(lambda: turns.number > before + 2)
            with pytest.raises(ConnectionRefusedError), clients(listening.port, 1):
                pass
            await asyncio.to_thread(are_heard, crowd)

    play(scene, settings)
