"""Signatures of Standard Webhooks (standardwebhooks.com): HMAC-SHA256 of id, time and body."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
SHORTEST_BYTES: Final = 24
LONGEST_BYTES: Final = 64
"""What the specification asks of a secret."""


def secret_key(secret: str) -> bytes:
    """The key that a secret writes; ``ValueError`` says what is wrong, without the secret."""
    if not secret.startswith(PREFIX):
        raise ValueError(f"a secret begins with {PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"what follows {PREFIX} is not base64") from None
    if not SHORTEST_BYTES <= len(key) <= LONGEST_BYTES:
        raise ValueError(f"a secret has {SHORTEST_BYTES} to {LONGEST_BYTES} bytes, not {len(key)}")
    return key


def signed(
    keys: Sequence[bytes], *, message_id: str, epoch_seconds: int, body: bytes
) -> dict[str, str]:
    """The three headers; every key signs, so that a receiver may know either while one is replaced.

    ``message_id`` has no full stop: it ends the id in what is signed.
    """
    content = b"%b.%d.%b" % (message_id.encode(), epoch_seconds, body)
    signatures = (base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(epoch_seconds),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
