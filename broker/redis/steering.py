"""What a user says to a run of his that is under way: stop it, or answer what it asked.

Either is recorded in the run's hash, shown in its channel so that the user's other tabs know, and
told to the run's worker at once. A worker that the notice does not reach looks by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from broker.channels import Channel, Owner, Scope
from broker.errors import RunNotFound
from broker.events import STOP_REQUESTED, USER_INPUT, encode
from broker.lifecycle import State
from broker.redis import scripts
from broker.redis.records import Claim
from broker.redis.store import Store, milliseconds, random_step


class Asked(StrEnum):
    """What became of a question."""

    ANSWERED = "ANSWER"
    OPEN = "OPEN"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"
    """Not asked, taken back, or lost in a failover."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a worker finds; ``answer`` is any JSON, when there is one."""

    asked: Asked
    answer: Any = None


@dataclass(frozen=True, slots=True)
class _Addressed:
    """A run of this owner, and what its echoes say of it."""

    run_id: str
    channel: Channel
    thread_id: str
    agent: str
    parent_run_id: str | None

    def echo(self, event_type: str, payload: dict[str, Any]) -> bytes:
        return encode(
            event_type=event_type,
            user_id=self.channel.owner.user,
            thread_id=self.thread_id,
            run_id=self.run_id,
            agent_name=self.agent,
            epoch_ms=time.time_ns() // 1_000_000,
            payload=payload,
            parent_run_id=self.parent_run_id,
        )


class Steering(Store):
    """Stopping and answering."""

    async def stop_run(self, owner: Owner, run_id: str) -> State:
        """Ask a run to stop: idempotent, before it starts, while it runs, and with its worker dead.

        Its worker is told at once and again with its next renewal; a run that no worker has is
        ended here and now by the caller through ``take_over``. Raises RunNotFound, also for a run
        of somebody else. Returns the state before.
        """
        run = await self._addressed(owner, run_id)
        state, worker = await self._run_script(
            scripts.STOP,
            [
                self.keys.run(run.channel.partition, run_id),
                self.keys.leases(run.channel.partition),
                run.channel.log,
                run.channel.live,
            ],
            [
                run_id,
                owner.token,
                milliseconds(self.limits.stop_deadline_seconds),
                run.echo(STOP_REQUESTED, {}),
                random_step(),
                self._echo_limits,
            ],
        )
        await self._tell(worker, b"stop", run)
        return State(state.decode())

    async def answer_run(self, owner: Owner, run_id: str, request_id: str, content: Any) -> None:
        """Answer what the run asked; ``content`` is any JSON. The same answer again is the first.

        Raises RunNotFound, also for a run of somebody else, and NotWaiting: it was answered
        otherwise, it has expired, the run has ended, or never asked this.
        """
        run = await self._addressed(owner, run_id)
        # Sorted, so that one answer is one text, whoever sends it again.
        answer = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        worker = await self._run_durably(
            scripts.ANSWER,
            [
                self.keys.run(run.channel.partition, run_id),
                run.channel.log,
                run.channel.live,
            ],
            [
                run_id,
                owner.token,
                request_id,
                answer,
                run.echo(USER_INPUT, {"request_id": request_id, "content": content}),
                random_step(),
                self._echo_limits,
            ],
        )
        await self._tell(worker, b"answer", run)

    async def look(self, claim: Claim, request_id: str, *, take_back: bool = False) -> Look:
        """What became of what this run asked; with ``take_back`` nobody can answer it any more.

        A question that is answered is not taken back. Raises RunNotFound, Fenced or RunClosed when
        the run is not the caller's any more.
        """
        reply = await self._run_script(
            scripts.COLLECT,
            [self.keys.run(claim.partition, claim.run_id)],
            [claim.run_id, claim.fence, request_id, "1" if take_back else "0"],
        )
        asked = Asked(reply[0].decode())
        return Look(asked, orjson.loads(reply[1]) if asked is Asked.ANSWERED else None)

    @property
    def _echo_limits(self) -> bytes:
        return b"0 %d %d" % (self.limits.history_events, self.limits.kept_seconds)

    async def _addressed(self, owner: Owner, run_id: str) -> _Addressed:
        key = self.keys.run(self.keys.partition(owner), run_id)
        token, scope, name, thread, agent, request = await self.client.execute(
            "HMGET", key, "owner", "scope", "name", "thread", "agent", "request"
        )
        if token is None or token.decode() != owner.token:
            raise RunNotFound(subject=run_id)
        return _Addressed(
            run_id=run_id,
            channel=self.keys.channel(owner, Scope(scope.decode()), name.decode()),
            thread_id=thread.decode(),
            agent=agent.decode(),
            parent_run_id=orjson.loads(request)["parent_run_id"],
        )

    async def _tell(self, worker: bytes, word: bytes, run: _Addressed) -> None:
        if worker:
            notice = b"%b %d %b" % (word, run.channel.partition, run.run_id.encode())
            await self.client.publish(self.keys.control(worker.decode()), notice)
