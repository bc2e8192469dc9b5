"""A back end that receives webhooks, keeps every post, and answers as a test wants it to.

Each post is read by the official packages: one that is not signed, or is no CloudEvent, is not kept
but named in ``refused``.
"""

import asyncio
import base64
import ssl
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(b"a webhook secret of the tests...").decode()
HANG, CUT, LATE = "hang", "cut", "late"
"""Answers besides a status: none at all, the end of the connection, 204 after :meth:`go_on`."""

Reply = int | str


@dataclass(frozen=True)
class Post:
    """One post: the CloudEvent's id, its ``data``, and what it was answered."""

    id: str
    data: dict[str, Any]
    sequence: str
    type: str
    headers: dict[str, str]
    reply: Reply

    @property
    def taken(self) -> bool:
        return self.reply == LATE or (isinstance(self.reply, int) and 200 <= self.reply < 300)


class Receiver:
    """``replies`` chooses the answer to the n-th post (from 1 on) of an event, by its ``data``."""

    def __init__(
        self,
        replies: Callable[[dict[str, Any], int], Reply] = lambda _data, _nth: 204,
        *,
        secrets: Iterable[str] = (SECRET,),
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.replies = replies
        self.secrets = tuple(secrets)
        self.posts: list[Post] = []
        self.refused: list[str] = []
        self.elsewhere = 0
        self._port, self._tls = port, tls
        self._over = asyncio.Event()
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/hook", self._receive)
        app.router.add_route("*", "/elsewhere", self._count_elsewhere)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.go_on()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http{'' if self._tls is None else 's'}://127.0.0.1:{self._port}/hook"

    def go_on(self) -> None:
        """Posts that wait for it are answered: with 204 if late, those that hang with 500."""
        self._over.set()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            for secret in self.secrets:
                Webhook(secret).verify(body, headers, json_parse=False)
            event = from_structured_event(HTTPMessage(headers, body))
            assert event.get_id() == headers["webhook-id"]
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it
            self.refused.append(repr(error))
            return web.Response(status=400)
        data: Any = event.get_data()
        nth = 1 + sum(post.id == event.get_id() for post in self.posts)
        reply = self.replies(data, nth)
        self.posts.append(
            Post(
                event.get_id(), data, event.get_extension("sequence"), event.get_type(), headers,
                reply,
            )
        )  # fmt: skip
        async with self._arrived:
            self._arrived.notify_all()
        if reply in (HANG, LATE):
            await self._over.wait()
            reply = 500 if reply == HANG else 204
        if reply == CUT:
            assert request.transport is not None
            request.transport.abort()
        status = reply if isinstance(reply, int) else 500
        moved = {"Location": "/elsewhere"} if 300 <= status < 400 else None
        return web.Response(status=status, headers=moved)

    async def _count_elsewhere(self, request: web.Request) -> web.Response:
        del request
        self.elsewhere += 1
        return web.Response(status=204)

    # --- judging

    @property
    def taken(self) -> list[Post]:
        """Those that were answered with success, in the order in which they came."""
        return [post for post in self.posts if post.taken]

    def runs(self) -> list[str]:
        """The runs whose events were taken, each when it was so first."""
        return list(dict.fromkeys(post.data["run_id"] for post in self.taken))

    def tried(self, run_id: str) -> list[Reply]:
        """What the posts of a run were answered."""
        return [post.reply for post in self.posts if post.data["run_id"] == run_id]

    async def until(
        self, condition: Callable[[], bool], *, seconds: float = 30.0, what: str
    ) -> None:
        try:
            async with asyncio.timeout(seconds), self._arrived:
                await self._arrived.wait_for(condition)
        except TimeoutError:
            got = [(post.data["run_id"], post.reply) for post in self.posts]
            raise AssertionError(f"{what}: not in time; {got}; refused: {self.refused}") from None

    async def until_taken(self, runs: Iterable[str], *, seconds: float = 30.0) -> None:
        wanted = set(runs)
        await self.until(
            lambda: wanted <= set(self.runs()), seconds=seconds, what=f"{len(wanted)} runs taken"
        )

    def judge(self, ended: Iterable[tuple[Hashable, str]]) -> None:
        """``ended``: every run, in the order of their ends, with what it is ordered in (a thread).

        Every end was taken; those of a thread in order, by when each was taken first; an event has
        one id, whatever happened, and no other event has it; ``sequence`` grows within a thread.
        """
        assert not self.refused, self.refused
        thread_of = {run_id: thread for thread, run_id in ended}
        first = {post.id: post for post in reversed(self.taken)}
        in_order = [post for post in self.taken if first[post.id] is post]
        assert {post.data["run_id"] for post in in_order} == set(thread_of)
        for thread in set(thread_of.values()):
            order = [run_id for run_id in thread_of if thread_of[run_id] == thread]
            posts = [post for post in in_order if thread_of[post.data["run_id"]] == thread]
            assert [post.data["run_id"] for post in posts] == order
            sequences = [post.sequence for post in posts]
            assert sequences == sorted(sequences)
        ids = {(post.data["run_id"], post.data["seq"], post.id) for post in self.posts}
        assert len(ids) == len({each[:2] for each in ids}) == len({each[2] for each in ids})
