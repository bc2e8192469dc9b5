"""Publish: one script, one round trip, checked against the run's registration (promise G1)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from broker.channels import Keys
from broker.errors import BrokerUnavailable
from broker.events import encode_delta
from broker.lifecycle import missing
from broker.publication import Publication
from broker.redis import scripts
from broker.redis.client import Receiver, RedisClient
from broker.redis.connection import Argument
from broker.redis.records import Claim
from broker.redis.runs import Runs
from broker.redis.store import Limits, random_step


class EventPublisher(Runs):
    """Publishing for whoever holds a claim."""

    def __init__(self, client: RedisClient, *, keys: Keys, limits: Limits | None = None) -> None:
        super().__init__(client, keys=keys, limits=limits)
        self._script_limits = b"%d %d %d" % (
            self.limits.max_event_bytes,
            self.limits.history_events,
            self.limits.kept_seconds,
        )
        self._publishing: set[asyncio.Task[bytes]] = set()

    async def publish(self, claim: Claim, publication: Publication) -> str:
        """Publish one event, in one attempt; its id.

        For a ``seq`` that is in the log already it is the id that it has there (empty when that
        entry was trimmed): sending the same again is always safe.

        Raises a :class:`~broker.errors.Refused` or :class:`~broker.errors.BrokerUnavailable`; with
        ``durability="replicated"`` also the latter when no replica has confirmed it in time. After
        a terminal event the run that waits next on the thread is released.
        """
        event_id: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.send(claim, publication, event_id)
        return (await event_id).decode()

    def send(self, claim: Claim, publication: Publication, receiver: Receiver) -> None:
        """The same without waiting; ``receiver`` gets the id as bytes, or what is raised."""
        keys, args = self._command(claim, publication)
        if publication.status is None and self.limits.durability == "acknowledged":
            self.client.ask_script(receiver, scripts.PUBLISH, keys, args)
            return
        connection = self.client.connection_to(keys[0])
        # Asked now, and not by the task: what is said next, text above all, is not to overtake it.
        replied: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.client.ask_script(replied, scripts.PUBLISH, keys, args)
        task = asyncio.create_task(
            self._followed(claim, publication, replied, connection), name=f"publish {claim.run_id}"
        )
        self._publishing.add(task)
        task.add_done_callback(partial(self._published, receiver))

    async def _followed(
        self,
        claim: Claim,
        publication: Publication,
        replied: asyncio.Future[Any],
        connection: object,
    ) -> bytes:
        """The event's id, once all that follows from it is done, and it is as durable as asked."""
        event_id = reply = await replied
        if not isinstance(reply, bytes):  # a terminal event, and not the repetition of one
            event_id, following = reply
            await self._count_ended(claim, publication)
            if following:
                await self.release(claim.owner, claim.thread_id, following.decode())
        await self._replicated(self.keys.run(claim.partition, claim.run_id), connection)
        return bytes(event_id)

    def _published(self, receiver: Receiver, task: asyncio.Task[bytes]) -> None:
        self._publishing.discard(task)
        if task.cancelled():
            error: BaseException | None = BrokerUnavailable(
                why="the program is ending", outcome_unknown=True
            )
        else:
            error = task.exception()
        if receiver.done():
            return
        if error is None:
            receiver.set_result(task.result())
        else:
            receiver.set_exception(error)

    def _command(
        self, claim: Claim, publication: Publication
    ) -> tuple[list[bytes], list[Argument]]:
        channel = claim.channel
        keys = [
            self.keys.run(claim.partition, claim.run_id),
            channel.log,
            channel.live,
            channel.open,
        ]
        args: list[Argument] = [
            claim.head,
            claim.fence,
            publication.seq,
            publication.event_type.encode() + b"\n" + publication.body,
            random_step(),
            self._script_limits,
        ]
        if publication.changes:
            opened, about = publication.call_opened or publication.asked or ("", "")
            closed, status = publication.call_closed or "", publication.status or ""
            args += (publication.state, publication.sent, opened, about, closed, status)
            args.append(claim.run_id)
        if publication.status is not None:
            keys += (
                self.keys.leases(claim.partition),
                self.keys.thread(claim.owner, claim.thread_id),
                self.keys.text(claim.partition, claim.run_id),
                self.keys.runs(claim.owner),
            )
        return keys, args

    async def publish_delta(self, claim: Claim, *, offset: int, text: str) -> int:
        """Append streamed text at ``offset`` (UTF-8 bytes) and publish it; the length after it.

        The same delta again changes nothing. Raises as :meth:`publish` does.
        """
        length: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.send_delta(claim, offset=offset, text=text, receiver=length)
        return await length

    def send_delta(self, claim: Claim, *, offset: int, text: str, receiver: Receiver) -> None:
        """The same without waiting; ``receiver`` gets the length, or what is raised."""
        body, _ = encode_delta(
            run_id=claim.run_id,
            thread_id=claim.thread_id,
            agent_name=claim.agent,
            offset=offset,
            text=text,
        )
        keys, limits = self.keys, self.limits
        self.client.ask_script(
            receiver,
            scripts.DELTA,
            (
                keys.run(claim.partition, claim.run_id),
                claim.channel.live,
                keys.text(claim.partition, claim.run_id),
            ),
            (
                claim.head,
                claim.fence,
                offset,
                text,
                body,
                limits.max_text_bytes,
                limits.kept_seconds,
            ),
        )

    async def _count_ended(self, claim: Claim, publication: Publication) -> None:
        """Add to the fleet's counters. They tell trends; a crash in between costs one count."""
        field = f"{claim.agent}\n{publication.status}"
        counts = [field, f"{claim.agent}\ntotal"]
        if missing(publication.sent):
            counts.append(f"{claim.agent}\nincomplete")
        await self.client.execute_many(
            [
                *(("HINCRBY", self.keys.run_counts, count, 1) for count in counts),
                ("HINCRBY", self.keys.run_counts, f"{claim.agent}\npublished", publication.seq),
                ("EXPIRE", self.keys.run_counts, self.limits.history_ttl_seconds),
                *self._uncounting(claim),
            ]
        )
