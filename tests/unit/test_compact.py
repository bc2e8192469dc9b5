"""Tokens are taken apart as PyJWT does it: the same parts of the same tokens, and no others."""

from __future__ import annotations

import base64
import json
from typing import Final

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.compact import Parts, parts

REFERENCE: Final = jwt.PyJWS(options={"verify_signature": False})
HEADERS: Final = st.one_of(
    st.just({"alg": "HS256", "typ": "JWT"}),
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ"]),  # what it says is critical, claims.py refuses
        st.one_of(st.text(max_size=5), st.none(), st.integers(0, 9), st.just([])),
        max_size=3,
    ),
    st.sampled_from([[], "alg", 7, None]),
).map(lambda header: json.dumps(header).encode())
PADDINGS: Final = st.sampled_from([b""] * 6 + [b"=", b"==", b"==="])


def spelled(data: bytes) -> bytes:
    """Without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@st.composite
def tokens(draw: st.DrawFn) -> bytes:
    """Mostly whole ones; some of them padded, or with a byte changed, put in or taken out."""
    raw = [draw(HEADERS), draw(st.binary(max_size=12)), draw(st.binary(max_size=12))]
    token = b".".join(spelled(each) + draw(PADDINGS) for each in raw)
    at = draw(st.integers(0, len(token)))
    more = draw(st.sampled_from([b""] * 4 + [b".", b"=", b"\n", b"+", b"\x80", b"A"]))
    return token[:at] + more + token[at + draw(st.sampled_from([0, 0, 0, 1])) :]


@given(tokens())
@example(b"")
@example(b"..")
@example(spelled(b"{}") + b".e30.AB")  # trailing bits that say nothing
@example(b"e30=.e30=.AAAA")
@example(b"e30==.e30.AAAA")
@example(b"e30.e30==.AAAA")
@example(spelled(b"{}") + b"..AA")
@example(spelled(b"[" * 6000) + b"..AA")
def test_what_it_consists_of(token: bytes) -> None:
    try:
        told = REFERENCE.decode_complete(token)
    except jwt.PyJWTError:
        told = None
    # Padded signatures are PyJWT's alone: one token would have two spellings, and two hashes.
    whole = told is not None and told["signature"] and not token.endswith(b"=")
    if not whole:
        with pytest.raises(ValueError, match=r".") as refused:
            parts(token)
        assert not token or token.decode("latin-1") not in str(refused.value)
        return
    assert told is not None
    assert parts(token) == Parts(
        told["header"], told["payload"], token.rpartition(b".")[0], told["signature"]
    )


def test_a_header_that_was_refused_is_refused_again() -> None:
    token = spelled(b'{"kid":7}') + b".e30.AAAA"
    for _ in range(2):
        with pytest.raises(ValueError, match="kid"):
            parts(token)
