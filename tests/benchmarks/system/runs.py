"""Runs of Runcast as a feed: registered and claimed by the broker, their events packed by it.

What is packed is exactly what the broker's own publisher would send: its keys, its arguments, its
script, taken from the client's side of the call. So the fence, the links and the log are in it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Final

import hiredis

from broker.channels import Keys, Owner, Scope
from broker.events import AGENT_STARTED, AGENT_THINKING, encode
from broker.lifecycle import State
from broker.publication import Publication
from broker.redis.broker import Broker, Limits
from broker.redis.client import RedisClient
from broker.redis.records import AgentSpec, Claim, RunRequest
from broker.redis.scripts import Script
from broker.redis.topology import new_client
from tests.benchmarks.system.clients import MARKER, ZERO

AGENT: Final = "bench"
LIMITS: Final = Limits(lease_seconds=3600)
"""As by default, but for leases that outlast the measurement: nobody renews them here."""
EVENT_BYTES: Final = 300


class _Recorder:
    """Stands for a client and keeps what it would have sent."""

    sharded = False

    def __init__(self) -> None:
        self.packed = b""

    def ask_script(
        self, receiver: object, script: Script, keys: Sequence[Any], args: Sequence[Any]
    ) -> None:
        del receiver
        self.packed = packed("EVALSHA", script.digest, len(keys), *keys, *args)


class _Nobody:
    """Nobody waits for what is only packed."""

    def done(self) -> bool:
        return True

    def set_result(self, result: Any, /) -> None:
        raise AssertionError(result)

    def set_exception(self, exception: BaseException, /) -> None:
        raise exception


_NOBODY: Final = _Nobody()


def packed(*words: Any) -> bytes:
    """One command in Redis' own form."""
    command: bytes = hiredis.pack_command(words)
    return command


def body(
    number: int, *, size: int, epoch_ms: int, claim: Claim | None = None, seq: int = 0
) -> bytes:
    """An event of ``size`` bytes that carries the time of its publishing and its number."""
    user, thread, run = (
        (claim.owner.user, claim.thread_id, claim.run_id) if claim else ("u", "thread", "run")
    )

    def with_text(text: str) -> bytes:
        return encode(
            event_type=AGENT_THINKING, user_id=user, thread_id=thread, run_id=run,
            agent_name=AGENT, epoch_ms=epoch_ms, payload={"thoughts": text}, seq=seq,
        )  # fmt: skip

    text = f"{MARKER}{ZERO}.{number} "
    return with_text(text + "x" * max(0, size - len(with_text(text))))


class Runs:
    """One open run per user, on the user's own channel."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self.broker = Broker(client, keys=keys, limits=LIMITS)
        self.recorder = _Recorder()
        self._recording = Broker(self.recorder, keys=keys, limits=LIMITS)  # type: ignore[arg-type]
        self.claims: dict[str, Claim] = {}
        self.seqs: dict[str, int] = {}
        self.numbers: dict[str, int] = {}

    async def open(self, users: Iterable[str], *, prefix: str = "run") -> None:
        """Open a run per user and start it, many at once."""
        everyone = iter(users)
        while batch := list(islice(everyone, 256)):
            await asyncio.gather(*(self._open(user, f"{prefix}-{user}") for user in batch))

    async def _open(self, user: str, run_id: str) -> None:
        owner = Owner("", user)
        request = RunRequest(
            run_id=run_id,
            owner=owner,
            channel=self.broker.keys.channel(owner, Scope.USER),
            thread_id="thread",
            agent=AGENT,
        )
        claim = await self.broker.open_run(request, AgentSpec(name=AGENT), worker_id="bench")
        started = encode(
            event_type=AGENT_STARTED, user_id=user, thread_id="thread", run_id=run_id,
            agent_name=AGENT, epoch_ms=_epoch_ms(), payload={}, seq=1,
        )  # fmt: skip
        await self.broker.publish(
            claim,
            Publication(
                seq=1, event_type=AGENT_STARTED, body=started, state=State.RUNNING, sent="s"
            ),
        )
        self.claims[user], self.seqs[user] = claim, 1
        self.numbers.setdefault(user, 0)

    def commands(self, users: Sequence[str], count: int, *, size: int) -> Iterator[bytes]:
        """``count`` events, user after user, as the commands that publish them."""
        for index in range(count):
            yield self.command(users[index % len(users)], size=size)

    def command(self, user: str, *, size: int = EVENT_BYTES) -> bytes:
        """The next event of the user's run."""
        publication = self.publication(user, size=size)
        self._recording.send(self.claims[user], publication, _NOBODY)
        return self.recorder.packed

    def deltas(self, users: Sequence[str], count: int) -> Iterator[bytes]:
        """``count`` pieces of streamed text, user after user."""
        offsets = dict.fromkeys(users, 0)
        for index in range(count):
            user = users[index % len(users)]
            self.numbers[user] += 1
            text = f"{MARKER}{ZERO}.{self.numbers[user]} "
            claim, offset = self.claims[user], offsets[user]
            self._recording.send_delta(claim, offset=offset, text=text, receiver=_NOBODY)
            offsets[user] += len(text)
            yield self.recorder.packed

    def publication(self, user: str, *, size: int = EVENT_BYTES) -> Publication:
        """The next event of the user's run, for a caller that publishes it itself, and once."""
        claim = self.claims[user]
        self.seqs[user] += 1
        self.numbers[user] += 1
        seq = self.seqs[user]
        return Publication(
            seq=seq,
            event_type=AGENT_THINKING,
            body=body(self.numbers[user], size=size, epoch_ms=_epoch_ms(), claim=claim, seq=seq),
            state=State.RUNNING,
            sent="st",
            changes=seq == 2,  # from then on the run has sent nothing for the first time
        )


@asynccontextmanager
async def connected_runs(redis_url: str) -> AsyncIterator[Runs]:
    """Runs in the Redis at ``redis_url``."""
    client = new_client(redis_url, name="runcast-bench")
    await client.start()
    try:
        yield Runs(client, Keys())
    finally:
        await client.stop()


def opened_runs(redis_url: str, users: Sequence[str]) -> Runs:
    """A run per user, opened; for packing only, the connection is closed again."""

    async def opening() -> Runs:
        async with connected_runs(redis_url) as runs:
            await runs.open(users)
            return runs

    return asyncio.run(opening())


def _epoch_ms() -> int:
    return time.time_ns() // 1_000_000
