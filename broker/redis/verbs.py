"""Pub/sub, plain and sharded: what subscribing is called, and what comes back."""

from __future__ import annotations

from typing import Final, NamedTuple


class Verbs(NamedTuple):
    """Commands, and the kinds of their pushes."""

    subscribe: str
    unsubscribe: str
    subscribed: bytes
    unsubscribed: bytes
    message: bytes


PLAIN: Final = Verbs("SUBSCRIBE", "UNSUBSCRIBE", b"subscribe", b"unsubscribe", b"message")
SHARDED: Final = Verbs("SSUBSCRIBE", "SUNSUBSCRIBE", b"ssubscribe", b"sunsubscribe", b"smessage")
