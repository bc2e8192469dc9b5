"""Runs: registered once, claimed by one worker at a time, and always ended (promise G5)."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import orjson

from broker.channels import Channel, Owner, Scope
from broker.codec import head
from broker.errors import RunNotFound
from broker.events import USER_MESSAGE, encode, timestamp
from broker.lifecycle import State
from broker.redis import scripts
from broker.redis.quotas import Quotas
from broker.redis.records import (
    AgentSpec,
    Claim,
    Registered,
    Renewal,
    RunRequest,
    claim_of,
    text_pairs,
)
from broker.redis.store import milliseconds, random_step


class Runs(Quotas):
    """The registry of runs."""

    async def register(
        self,
        request: RunRequest,
        spec: AgentSpec | None = None,
        *,
        epoch_ms: int,
        echo: bool = True,
    ) -> Registered:
        """Register a run, once per message id.

        With ``echo`` the user's message goes to the channel.
        The same message id again answers the run that it began; the same request again, after a
        lost reply, is the first one. Raises ThreadBusy (``on_busy`` is ``"reject"``), LimitReached
        (the request's allowance) or BrokerUnavailable. Not queued yet: :meth:`enqueue` does that.
        """
        spec = spec or AgentSpec(name=request.agent)
        body = b""
        if echo:
            body = encode(
                event_type=USER_MESSAGE,
                user_id=request.owner.user,
                thread_id=request.thread_id,
                run_id=request.run_id,
                agent_name=request.agent,
                epoch_ms=epoch_ms,
                payload={
                    "content": request.content,
                    "message_id": request.message_id,
                    "metadata": request.metadata,
                },
            )
        timeout_ms = milliseconds(self.limits.queue_timeout_seconds / 10)
        reply = await self._register(request, spec, timeout_ms=timeout_ms, echo=body, worker="")
        busy = tuple(run.decode() for run in reply[2:])
        if reply[0] == b"DUPLICATE":
            begun = await self._begun(request.channel.partition, reply[1].decode())
            return replace(begun, busy=busy)
        return Registered(
            run_id=request.run_id,
            thread_id=request.thread_id,
            agent=request.agent,
            partition=request.channel.partition,
            duplicate=False,
            enqueue=reply[1] == b"1",
            busy=busy,
        )

    async def begun_by(self, owner: Owner, message_id: str) -> Registered:
        """The run that a message of this owner began; RunNotFound when none is known."""
        run_id = await self.client.execute("GET", self.keys.message(owner, message_id))
        if run_id is None:
            raise RunNotFound(subject=message_id)
        return await self._begun(self.keys.partition(owner), run_id.decode())

    async def registered(self, owner: Owner, run_id: str) -> Registered:
        """The run of this owner; RunNotFound, with the same text for "not yours"."""
        await self.run_channel(owner, run_id)
        return await self._begun(self.keys.partition(owner), run_id)

    async def open_run(self, request: RunRequest, spec: AgentSpec, *, worker_id: str) -> Claim:
        """Register a run that no client began, claimed by the caller from the start.

        The same again, after a lost reply, gives the same claim. Raises RunExists when the run is
        not, or no longer, the caller's.
        """
        lease_ms = milliseconds(self.limits.lease_seconds)
        await self._register(request, spec, timeout_ms=lease_ms, echo=b"", worker=worker_id)
        stored = await self.client.execute("HGETALL", self._run_key(request))
        claim = claim_of(text_pairs(stored), self.keys)
        if claim.state is not State.COMPLETED:
            await self._count_run(claim)
        return claim

    async def enqueue(self, registered: Registered) -> None:
        """Put the run into its agent's request queue. Twice is harmless: it is claimed once."""
        await self._enqueue(registered.agent, registered.partition, registered.run_id)

    async def claim(self, partition: int, run_id: str, *, worker_id: str) -> Claim | None:
        """Take a queued run; None when there is nothing to take any more."""
        keys = self.keys
        stored = await self._run_script(
            scripts.CLAIM,
            [keys.run(partition, run_id), keys.leases(partition), keys.text(partition, run_id)],
            [run_id, worker_id, milliseconds(self.limits.lease_seconds), random_step()],
        )
        return claim_of(text_pairs(stored), self.keys) if stored else None

    async def note_trace(self, claim: Claim, traceparent: str) -> None:
        """Note the span of this attempt, for the attempt after it, if there is one, to name.

        Does nothing when the run is not, or no longer, the caller's.
        """
        await self._run_script(
            scripts.TRACE,
            [self.keys.run(claim.partition, claim.run_id)],
            [claim.fence, traceparent],
        )

    async def renew(self, claim: Claim) -> Renewal:
        """Renew its lease. A claim that is not held any more must stop publishing."""
        keys, limits = self.keys, self.limits
        reply = await self._run_script(
            scripts.RENEW,
            [
                keys.run(claim.partition, claim.run_id),
                keys.leases(claim.partition),
                claim.channel.log,
                keys.text(claim.partition, claim.run_id),
                keys.runs(claim.owner),
                claim.channel.open,
                keys.thread(claim.owner, claim.thread_id),
            ],
            [
                claim.run_id,
                claim.fence,
                milliseconds(limits.lease_seconds),
                limits.kept_seconds,
            ],
        )
        return Renewal(held=reply in (b"OK", b"STOP"), stop=reply == b"STOP")

    async def run(self, owner: Owner, run_id: str) -> dict[str, Any]:
        """What ``GET /api/v1/runs/{id}`` answers (protocol section 7).

        Raises RunNotFound, with the same text for "not yours" and "not there".
        """
        partition = self.keys.partition(owner)
        stored, text = await self.client.execute_many(
            [
                ("HGETALL", self.keys.run(partition, run_id)),
                ("GET", self.keys.text(partition, run_id)),
            ]
        )
        fields = text_pairs(stored)
        if fields.get("owner") != owner.token:
            raise RunNotFound(subject=run_id)
        return {
            "run_id": run_id,
            "thread_id": fields["thread"],
            "agent_name": fields["agent"],
            "state": fields["state"],
            "status": fields.get("status"),
            "attempt": int(fields["attempt"]),
            "created_at": _moment(fields.get("created")),
            "started_at": _moment(fields.get("started")),
            "completed_at": _moment(fields.get("completed")),
            "text": (text or b"").decode(),
        }

    async def run_channel(self, owner: Owner, run_id: str) -> Channel:
        """The channel of a run of this owner; RunNotFound otherwise."""
        key = self.keys.run(self.keys.partition(owner), run_id)
        token, scope, name = await self.client.execute("HMGET", key, "owner", "scope", "name")
        if token is None or token.decode() != owner.token:
            raise RunNotFound(subject=run_id)
        return self.keys.channel(owner, Scope(scope.decode()), name.decode())

    async def release(self, owner: Owner, thread_id: str, run_id: str) -> None:
        """Queue a run that was held behind another one of its thread, if it is its turn."""
        partition = self.keys.partition(owner)
        agent = await self._run_script(
            scripts.RELEASE,
            [
                self.keys.run(partition, run_id),
                self.keys.leases(partition),
                self.keys.thread(owner, thread_id),
            ],
            [run_id, milliseconds(self.limits.queue_timeout_seconds)],
        )
        if agent is not None:
            await self._enqueue(agent.decode(), partition, run_id)

    async def _register(
        self, request: RunRequest, spec: AgentSpec, *, timeout_ms: int, echo: bytes, worker: str
    ) -> list[bytes]:
        keys, limits, channel = self.keys, self.limits, request.channel
        run_key, runs_key = self._run_key(request), keys.runs(request.owner)
        message_key = (
            keys.message(request.owner, request.message_id) if request.message_id else run_key
        )
        asked = {
            "run_id": request.run_id,
            "content": request.content,
            "metadata": request.metadata,
            "parent_run_id": request.parent_run_id,
        }
        if request.trace is not None:
            asked["trace"] = request.trace.stored()
        wanted: dict[str, bytes | str | int | float] = {
            "owner": request.owner.token,
            "scope": channel.scope,
            "name": channel.name,
            "log": channel.log,
            "live": channel.live,
            "thread": request.thread_id,
            "agent": request.agent,
            "runs": runs_key,
            "retries": spec.retries,
            "request": orjson.dumps(asked),
        }
        reply: list[bytes] = await self._run_durably(
            scripts.REGISTER,
            [
                run_key,
                message_key,
                channel.log,
                channel.live,
                channel.open,
                keys.leases(channel.partition),
                keys.thread(request.owner, request.thread_id),
                runs_key,
                keys.threads(request.owner),
                keys.bucket(request.owner, "messages_per_minute"),
                keys.webhooks_wanted(channel.partition),
            ],
            [
                request.run_id,
                "1" if request.message_id else "0",
                spec.on_busy,
                timeout_ms,
                limits.kept_seconds,
                limits.history_events,
                head(request.owner, request.thread_id, request.run_id),
                echo,
                worker,
                random_step(),
                request.thread_id,
                request.allowance.of_messages if request.allowance is not None else "",
                *chain.from_iterable(wanted.items()),
            ],
        )
        return reply

    async def _begun(self, partition: int, run_id: str) -> Registered:
        key = self.keys.run(partition, run_id)
        thread, agent, state, worker, held = await self.client.execute(
            "HMGET", key, "thread", "agent", "state", "worker", "held"
        )
        if thread is None:
            raise RunNotFound(subject=run_id)
        return Registered(
            run_id=run_id,
            thread_id=thread.decode(),
            agent=agent.decode(),
            partition=partition,
            duplicate=True,
            # The gateway that registered it may have died before it queued it.
            enqueue=state == b"queued" and worker is None and held is None,
            ended=state == State.COMPLETED.encode(),
        )

    async def _enqueue(self, agent: str, partition: int, run_id: str) -> None:
        queue = self.keys.requests(agent)
        await self.client.execute_many(
            [
                ("XADD", queue, "*", "run", f"{partition} {run_id}"),
                ("EXPIRE", queue, self.limits.history_ttl_seconds),
            ]
        )

    def _run_key(self, request: RunRequest) -> bytes:
        return self.keys.run(request.channel.partition, request.run_id)


def _moment(epoch_ms: str | None) -> str | None:
    return timestamp(int(epoch_ms)) if epoch_ms else None
