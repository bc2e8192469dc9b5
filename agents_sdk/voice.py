"""Where a run's events go, and how much it may say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agents_sdk.metrics import Tally
from broker.publication import Publication
from broker.redis.client import Receiver
from broker.redis.records import Claim
from broker.redis.store import Limits

if TYPE_CHECKING:
    from broker.tracing.tracer import Tracing


class Sink(Protocol):
    """Where events go: the broker, or a recording one in tests of agents."""

    def send(self, claim: Claim, publication: Publication, receiver: Receiver) -> None:
        """One attempt; ``receiver`` gets the event's id as bytes."""

    def send_delta(self, claim: Claim, *, offset: int, text: str, receiver: Receiver) -> None:
        """One attempt; ``receiver`` gets the text's length after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """What a run may say and how long it waits. ``publish_timeout_seconds`` per call.

    ``tally``: what all runs of the process count. ``tracing``: None where it is off.
    """

    limits: Limits
    publish_timeout_seconds: float
    require_all_events: bool = False
    tally: Tally = field(default_factory=Tally)
    tracing: Tracing | None = None
