"""Modes, scopes, and every key name (protocol sections 4 and 8).

A mode is a way to choose a scope; a scope and its ids name a channel; a channel is three keys. All
ids are percent-encoded before they become part of a key, so no id can forge another, and all keys
of one user share one hash tag, so that one script touches one slot.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

MAX_ID_BYTES: Final = 256
"""Longest user, tenant, thread or message id, in UTF-8 bytes: a key then stays under 2.5 KiB."""


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Mode(StrEnum):
    """How a connection chooses what it reads."""

    MAIN = "main"
    FACTORY = "factory"
    ISOLATED = "isolated"
    LEGACY = "legacy"


class Level(StrEnum):
    """Isolation level, in factory mode only."""

    STANDARD = "standard"
    STRICT = "strict"


class Scope(StrEnum):
    """Who shares a channel."""

    USER = "user"
    THREAD = "thread"
    RUN = "run"
    CONNECTION = "connection"


SCOPES: Final[Mapping[tuple[Mode, Level | None], Scope]] = {
    (Mode.MAIN, None): Scope.USER,
    (Mode.FACTORY, Level.STANDARD): Scope.THREAD,
    (Mode.FACTORY, Level.STRICT): Scope.RUN,
    (Mode.ISOLATED, None): Scope.CONNECTION,
    (Mode.LEGACY, None): Scope.USER,
}
"""(mode, level) → scope. What is not here does not exist."""


class Owner(NamedTuple):
    """Whose events they are. ``tenant`` is empty for a token without that claim."""

    tenant: str
    user: str

    @property
    def token(self) -> str:
        """The owner as one word of an event's header: unambiguous, without spaces."""
        return _named(self)[0]

    @property
    def pseudonym(self) -> str:
        """What he is called in logs: always the same, and not his name.

        The first 12 hexadecimal digits of the SHA-256 of :attr:`token`. Whoever knows an id can
        tell whether it is his; without it nobody can tell whose lines they are.
        """
        return sha256(self.token.encode()).hexdigest()[:12]

    @property
    def group(self) -> Owner | None:
        """The tenant itself, as who owns what its users share; None without a tenant.

        No user is called by the empty name, so its keys are nobody else's.
        """
        return Owner(self.tenant, "") if self.tenant else None

    @classmethod
    def from_token(cls, token: str) -> Owner:
        """The inverse of :attr:`token`."""
        tenant, _, user = token.partition(":")
        return cls(decode_id(tenant), decode_id(user))


@lru_cache(maxsize=4096)
def _named(owner: Owner) -> tuple[str, int]:
    """The owner's token, and its checksum: all keys of one connect ask for them."""
    token = f"{encode_id(owner.tenant)}:{encode_id(owner.user)}"
    return token, zlib.crc32(token.encode())


@dataclass(frozen=True, slots=True)
class Channel:
    """Where the events of one scope go: a log, a live channel, and the set of its open runs."""

    owner: Owner
    scope: Scope
    name: str
    partition: int
    log: bytes
    live: bytes
    open: bytes


def check_id(text: object) -> str:
    """``text`` if it may be an id, else ``ValueError`` with the reason.

    1 to 256 bytes of UTF-8 without control characters; everything else is allowed, separators of
    keys included.
    """
    if not isinstance(text, str):
        raise ValueError("must be a string")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode") from None
    if not 1 <= size <= MAX_ID_BYTES:
        raise ValueError(f"must have 1 to {MAX_ID_BYTES} bytes")
    if _CONTROL.search(text):
        raise ValueError("must not have control characters")
    return text


@lru_cache(maxsize=4096)
def encode_id(text: str) -> str:
    """Percent-encode all but letters, digits and ``_.-~`` (RFC 3986 unreserved)."""
    return quote(text, safe="")


def decode_id(word: str) -> str:
    """The inverse of :func:`encode_id`."""
    return unquote(word)


class Keys:
    """Every key of one installation. The only place where key names are made."""

    __slots__ = ("partitions", "prefix")

    def __init__(self, prefix: str = "rc", partitions: int = 128) -> None:
        self.prefix, self.partitions = prefix, partitions

    def partition(self, owner: Owner) -> int:
        """The hash tag of all of an owner's keys: stable for a given number of partitions."""
        return _named(owner)[1] % self.partitions

    def channel(self, owner: Owner, scope: Scope, name: str = "") -> Channel:
        """``name`` is the thread, run or connection id; empty for the user's channel."""
        if (scope is Scope.USER) != (name == ""):
            raise ValueError(f"a {scope} channel is named by its {scope} id, a user's by nothing")
        token, checksum = _named(owner)
        partition = checksum % self.partitions
        tail = f"{scope}:{token}:{encode_id(name)}" if name else f"{scope}:{token}"
        return Channel(
            owner=owner,
            scope=scope,
            name=name,
            partition=partition,
            log=self._key(partition, "log", tail),
            live=self._key(partition, "live", tail),
            open=self._key(partition, "open", tail),
        )

    def run(self, partition: int, run_id: str) -> bytes:
        """Hash: a run's registration, state, fence, questions and answers."""
        return self._key(partition, "run", encode_id(run_id))

    def text(self, partition: int, run_id: str) -> bytes:
        """String: a run's streamed text so far."""
        return self._key(partition, "text", encode_id(run_id))

    def leases(self, partition: int) -> bytes:
        """Sorted set: every open run of the partition, by when the sweeper must look at it."""
        return self._key(partition, "leases")

    def message(self, owner: Owner, message_id: str) -> bytes:
        """String: a client's message id → the run that it began."""
        return self._owned("message", owner, encode_id(message_id))

    def thread(self, owner: Owner, thread_id: str) -> bytes:
        """List: a thread's open runs, oldest first."""
        return self._owned("thread", owner, encode_id(thread_id))

    def runs(self, owner: Owner) -> bytes:
        """Sorted set: a user's open runs (0 waits for a worker, 1 has one); a tenant's, by age."""
        return self._owned("runs", owner)

    def threads(self, owner: Owner) -> bytes:
        """Sorted set: a user's threads, by when they were used last."""
        return self._owned("threads", owner)

    def seats(self, owner: Owner) -> bytes:
        """Hash: node id → how many connections a user, or a tenant, has at that gateway."""
        return self._owned("seats", owner)

    def bucket(self, owner: Owner, limit: str) -> bytes:
        """String: when a user's, or a tenant's, token bucket for `limit` will be full again."""
        return self._owned("bucket", owner, limit)

    def connection(self, owner: Owner, connection_id: str) -> bytes:
        """String: the hash of an isolated connection's secret, for taking it up again."""
        return self._owned("connection", owner, encode_id(connection_id))

    def turns(self, owner: Owner, connection_id: str) -> bytes:
        """Counter: how often an isolated connection was taken up."""
        return self._owned("turns", owner, encode_id(connection_id))

    def revoked_user(self, owner: Owner) -> bytes:
        """Hash: of this user, tokens issued before a moment do not count any more."""
        return self._owned("revoked:user", owner)

    def revoked_token(self, tenant: str, jti: str) -> bytes:
        """Hash: a token of this tenant, by its ``jti``, does not count any more."""
        return self._owned("revoked:jti", Owner(tenant, jti))

    def ticket(self, digest: str) -> bytes:
        """String: who a ticket is for, by the ticket's SHA-256."""
        return self._key(zlib.crc32(digest.encode()) % self.partitions, "ticket", digest)

    def webhooks_wanted(self, partition: int) -> bytes:
        """Hash: which events webhooks want of runs that begin, and how many found no room."""
        return self._key(partition, "webhooks", "wanted")

    def webhooks_outbox(self, partition: int) -> bytes:
        """Stream: events that are to be posted to the webhook and were not yet."""
        return self._key(partition, "webhooks", "outbox")

    def webhooks_aside(self, partition: int) -> bytes:
        """Stream: events that the webhook would not take, with the reason; oldest trimmed."""
        return self._key(partition, "webhooks", "aside")

    def requests(self, agent: str) -> bytes:
        """Stream: requests that wait for a worker that serves ``agent``."""
        return f"{self.prefix}:{{queue}}:requests:{encode_id(agent)}".encode()

    @property
    def agents(self) -> bytes:
        """Hash: agent name → what its workers announced."""
        return f"{self.prefix}:{{queue}}:agents".encode()

    @property
    def workers(self) -> bytes:
        """Hash: worker id → which agents it serves, how many runs it carries and could carry."""
        return f"{self.prefix}:{{queue}}:workers".encode()

    def control(self, node_id: str) -> bytes:
        """Pub/sub channel: notices for one worker process."""
        return f"{self.prefix}:control:{encode_id(node_id)}".encode()

    def probe(self, node_id: str, partition: int) -> bytes:
        """Pub/sub channel: a gateway to itself, to prove that it hears what is in this slot."""
        return self._key(partition, "probe", encode_id(node_id))

    @property
    def sweeper(self) -> bytes:
        """String: the node that sweeps now."""
        return f"{self.prefix}:{{nodes}}:sweeper".encode()

    @property
    def webhooks(self) -> bytes:
        """String: the node that posts to the webhook now."""
        return f"{self.prefix}:{{nodes}}:webhooks".encode()

    @property
    def nodes(self) -> bytes:
        """Hash: node id → that gateway's last report."""
        return f"{self.prefix}:{{nodes}}:reports".encode()

    @property
    def audit(self) -> bytes:
        """Stream: what operators did, with who and when."""
        return f"{self.prefix}:{{nodes}}:audit".encode()

    @property
    def orders(self) -> bytes:
        """Pub/sub channel: there is something new in the audit log."""
        return f"{self.prefix}:{{nodes}}:orders".encode()

    @property
    def run_counts(self) -> bytes:
        """Hash: how many runs ended, by agent and status, over the whole fleet."""
        return f"{self.prefix}:{{nodes}}:runs".encode()

    def _owned(self, kind: str, owner: Owner, more: str = "") -> bytes:
        token, checksum = _named(owner)
        key = f"{self.prefix}:{{{checksum % self.partitions}}}:{kind}:{token}"
        return f"{key}:{more}".encode() if more else key.encode()

    def _key(self, partition: int, kind: str, tail: str = "") -> bytes:
        key = f"{self.prefix}:{{{partition}}}:{kind}"
        return f"{key}:{tail}".encode() if tail else key.encode()
