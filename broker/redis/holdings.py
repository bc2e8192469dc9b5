"""Runs that no process holds: what there is to know of them is in their record alone.

So whoever publishes for one reads it first, and may be another process each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from broker.channels import Owner
from broker.errors import RunNotFound
from broker.publication import Delta, Publication
from broker.redis import scripts
from broker.redis.publisher import EventPublisher
from broker.redis.records import Claim, Renewal, claim_of, text_pairs

_ANSWER: Final = "answer:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A run's record. ``worker`` is who holds it, empty for nobody.

    ``text``: what was streamed, if it was asked for; ``text_bytes`` is its length anyway.
    ``answers``: request id → what the user has answered.
    """

    claim: Claim
    worker: str
    text: str
    text_bytes: int
    answers: Mapping[str, Any]


class Holdings(EventPublisher):
    """Publishing for whoever knows a run's fence."""

    async def holding(self, owner: Owner, run_id: str, *, with_text: bool) -> Holding:
        """A run of this owner; RunNotFound, with the same text for somebody else's."""
        partition = self.keys.partition(owner)
        text_key = self.keys.text(partition, run_id)
        stored, text = await self.client.execute_many(
            [
                ("HGETALL", self.keys.run(partition, run_id)),
                ("GET" if with_text else "STRLEN", text_key),
            ]
        )
        fields = text_pairs(stored)
        if fields.get("owner") != owner.token:
            raise RunNotFound(subject=run_id)
        return Holding(
            claim=claim_of(fields, self.keys),
            worker=fields.get("worker", ""),
            text=(text or b"").decode() if with_text else "",
            text_bytes=len(text or b"") if with_text else text,
            answers={
                name.removeprefix(_ANSWER): orjson.loads(value)
                for name, value in fields.items()
                if name.startswith(_ANSWER)
            },
        )

    async def publish_all(
        self, claim: Claim, said: Sequence[Publication | Delta], *, recalled: range
    ) -> tuple[Renewal, list[str], list[str | int]]:
        """Renew the lease, look up the ids of events that are there, publish: one pipeline.

        Returns the ids of ``recalled`` (empty for one that was trimmed), and for each of ``said``
        its id or the text's length after it. What could not be done is raised when all of it was
        tried: the first error counts. The same again is safe.
        """
        loop = asyncio.get_running_loop()
        renewing = asyncio.ensure_future(self.renew(claim))
        recalling = asyncio.ensure_future(self._recall(claim, recalled))
        await asyncio.sleep(0)  # their commands go first
        sent: list[asyncio.Future[Any]] = []
        for each in said:
            reply: asyncio.Future[Any] = loop.create_future()
            sent.append(reply)
            if isinstance(each, Delta):
                self.send_delta(claim, offset=each.offset, text=each.text, receiver=reply)
            else:
                self.send(claim, each, reply)
        await asyncio.gather(renewing, recalling, *sent, return_exceptions=True)
        renewal, ids = renewing.result(), recalling.result()
        done = [each.result() for each in sent]
        return (
            renewal,
            ids,
            [each.decode() if isinstance(each, bytes) else each for each in done],
        )

    async def _recall(self, claim: Claim, seqs: range) -> list[str]:
        if not seqs:
            return []
        run_key = self.keys.run(claim.partition, claim.run_id)
        ids = await self._run_durably(
            scripts.RECALL,
            [run_key, claim.channel.log],
            [claim.head, claim.fence, seqs[0], seqs[-1], self.limits.kept_seconds],
        )
        return [each.decode() for each in ids]
