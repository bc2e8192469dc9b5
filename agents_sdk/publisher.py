"""Runs without a worker: from a cron job, a web backend, a notebook."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Literal, Self

from agents_sdk.ids import check_named, new_id
from agents_sdk.link import Link, checked_durability
from agents_sdk.run import Scope
from agents_sdk.values import check_json
from broker.channels import Owner
from broker.channels import Scope as ChannelScope
from broker.config import Durability, Settings, load_settings
from broker.errors import ConfigurationError
from broker.redis.records import RunRequest

FLUSH_SECONDS: Final = 5.0
"""How long closing waits for Redis to take the last events."""


class Publisher:
    """``async with Publisher() as publisher``; then :meth:`run` as often as you like, also at once.

    Parameters as for :class:`~agents_sdk.Worker`. Entering raises
    :class:`~broker.errors.BrokerUnavailable` when Redis cannot be reached.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        publish_timeout_seconds: float = 30.0,
        durability: Durability | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._redis_url, self._settings = redis_url, settings
        self._publish_timeout_seconds = publish_timeout_seconds
        self._durability = checked_durability(durability)
        self._link: Link | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings or load_settings(redis_url=self._redis_url)
        if self._durability is not None:
            settings = settings.model_copy(update={"durability": self._durability})
        link = Link(
            settings, kind="publisher", publish_timeout_seconds=self._publish_timeout_seconds
        )
        await link.start()
        self._link = link
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            await link.stop(timeout_seconds=FLUSH_SECONDS)

    def run(
        self,
        *,
        user_id: str,
        agent_name: str,
        thread_id: str | None = None,
        scope: Literal["user", "thread", "run"] = "user",
        tenant: str = "",
        content: Any = None,
        metadata: dict[str, Any] | None = None,
    ) -> Scope:
        """``async with publisher.run(…) as run``: the same ``run`` as an agent's.

        ``scope`` says who sees it (protocol section 4): every connection of the user; those on the
        thread; those attached to the run. Without ``thread_id`` a new thread is made. Leaving the
        block ends the run: see :class:`~agents_sdk.run.Scope`.
        """
        if self._link is None:
            raise ConfigurationError(
                setting="Publisher", why="it is not open", todo="Use it inside `async with`."
            )
        run_id, thread = new_id(), new_id() if thread_id is None else thread_id
        for field, value in (
            ("user_id", user_id),
            ("thread_id", thread),
            ("agent_name", agent_name),
        ):
            check_named(field, value)
        if tenant:
            check_named("tenant", tenant)
        names = {"user": "", "thread": thread, "run": run_id}
        if scope not in names:
            raise ConfigurationError(
                setting="scope", why=f"{scope!r} is unknown", todo="Use user, thread or run."
            )
        check_json("content", content)
        if not isinstance(metadata, dict | None):
            raise ConfigurationError(
                setting="metadata", why="must be a dict", todo="Name what it says: {…: …}."
            )
        check_json("metadata", metadata)
        owner = Owner(tenant, user_id)
        request = RunRequest(
            run_id=run_id,
            owner=owner,
            channel=self._link.keys.channel(owner, ChannelScope(scope), names[scope]),
            thread_id=thread,
            agent=agent_name,
            content=content,
            metadata=metadata or {},
        )
        return Scope(self._link, request)
