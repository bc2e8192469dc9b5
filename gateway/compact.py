"""A token's three parts (RFC 7515 section 7.1), before anything of it is verified.

Every new token of a storm of connects comes through here, so it is done by what is compiled: one
pattern, one decoding of each part, and headers, of which a login service has a few, read once.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

_COMPACT: Final = re.compile(rb"([\w-]+={0,2})\.([\w-]*={0,2})\.([\w-]+)")
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


class Parts(NamedTuple):
    """``signed`` is what the signature is of: the first two parts as they came."""

    header: Mapping[str, Any]
    payload: bytes
    signed: bytes
    signature: bytes


def parts(token: bytes) -> Parts:
    """What the token consists of; ``ValueError`` when it is none, in words that do not repeat it.

    Each part has one spelling, by which it is known. Header and payload may be padded, as some
    login services do; the signature may not, or one token would have two.
    """
    found = _COMPACT.fullmatch(token)
    if found is None:
        raise ValueError("not a token: not three parts in base64url")
    header, payload, signature = found.groups()
    return Parts(_header(header), _decoded(payload), token[: found.end(2)], _decoded(signature))


@lru_cache(maxsize=64)
def _header(part: bytes) -> Mapping[str, Any]:
    header = orjson.loads(_decoded(part))
    if not isinstance(header, dict):
        raise ValueError("not a token: its header is no object")
    if not isinstance(header.get("kid", ""), str):
        raise ValueError("not a token: kid is not a string")
    return header


def _decoded(part: bytes) -> bytes:
    bare = part.rstrip(b"=")
    if bare != part and len(part) % 4:
        raise ValueError("not a token: a part has the wrong padding")
    data = binascii.a2b_base64(bare.translate(_TO_STANDARD) + b"==")
    if binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=") != bare:
        raise ValueError("not a token: a part has another spelling")
    return data
