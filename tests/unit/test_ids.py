"""Ids sort by time, differ by chance, and are made of the 32 characters of Crockford."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.channels import check_id, encode_id
from broker.ids import RANDOM_BYTES, ulid

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

MOMENTS = st.integers(0, 2**48 - 1)
CHANCE = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


def test_known_value() -> None:
    """The layout is that of the ULID specification: other tools can read our ids."""
    assert ulid(1469918176385, bytes(10)) == "01ARYZ6S410000000000000000"
    assert ulid(2**48 - 1, b"\xff" * 10) == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
    assert ulid(0, (1).to_bytes(10, "big")) == "0" * 25 + "1"


@relaxed
@given(first=MOMENTS, second=MOMENTS, one=CHANCE, other=CHANCE)
def test_ids_sort_as_their_moments_and_never_meet_by_accident(
    first: int, second: int, one: bytes, other: bytes
) -> None:
    """As text: earlier before later; equal only when moment and randomness are."""
    left, right = ulid(first, one), ulid(second, other)
    assert (left < right) == ((first, one) < (second, other))
    assert (left == right) == ((first, one) == (second, other))


@relaxed
@given(moment=MOMENTS, chance=CHANCE)
def test_an_id_is_26_safe_characters(moment: int, chance: bytes) -> None:
    """It passes every check of ids and needs no escaping in a key."""
    text = ulid(moment, chance)
    assert len(text) == 26
    assert set(text) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    assert encode_id(check_id(text)) == text


@pytest.mark.parametrize("size", [0, 9, 11])
def test_too_little_or_too_much_randomness_is_refused(size: int) -> None:
    """An id with less randomness than said would be guessable."""
    with pytest.raises(ValueError, match="10 random bytes"):
        ulid(0, bytes(size))
