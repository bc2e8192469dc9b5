"""Key sets: what is taken from a document, what is passed over, what is no key set."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from gateway.jwk import MAX_KEYS, MAX_SET_BYTES, NoKeySet, jwk_key, read_key_set
from gateway.keys import KINDS, UnusableKey
from tests.support.keys import EC_KEY, ED_KEY, OTHER_EC_KEY, RSA_KEY, SECRET_KEY, jwk, key_set

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ALL = tuple(name for names in KINDS.values() for name in names)
WEAK = rsa.generate_private_key(65537, 1024)


def ignored(*keys: Any, secrets: bool = False) -> tuple[tuple[str, str], ...]:
    return read_key_set(key_set(*keys), ALL, secrets=secrets).ignored


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (RSA_KEY, KINDS["RSA"]),
        (EC_KEY, ("ES256",)),
        (ec.generate_private_key(ec.SECP521R1()), ("ES512",)),
        (ED_KEY, ("EdDSA",)),
    ],
)
def test_each_kind(key: Any, algorithms: tuple[str, ...]) -> None:
    published = jwk(key, "k", use="sig", key_ops=["verify"], x5c=["ignored"])
    made = jwk_key(published, ALL, secrets=False)
    assert (made.kid, made.algorithms, made.material) == ("k", algorithms, key.public_key())


def test_a_keys_own_alg_narrows_what_it_verifies() -> None:
    assert jwk_key(jwk(RSA_KEY, alg="PS384"), ALL, secrets=False).algorithms == ("PS384",)
    assert jwk_key(jwk(SECRET_KEY, alg="HS512"), ALL, secrets=True).algorithms == ("HS512",)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (jwk(EC_KEY, use="enc"), "use"),
        (jwk(EC_KEY, use=None), "use"),
        (jwk(EC_KEY, key_ops=["sign"]), "key_ops"),
        (jwk(EC_KEY, key_ops="verify"), "key_ops"),
        (jwk(EC_KEY) | {"kid": 7}, "kid is not"),
        (jwk(EC_KEY, "k" * 257), "kid is not"),
        (jwk(EC_KEY, alg="RS256"), "cannot verify RS256"),
        (jwk(RSA_KEY, alg="HS256"), "cannot verify HS256"),
        (jwk(RSA_KEY, alg="RSA-OAEP"), "RUNCAST_JWT_ALGORITHMS"),
        (jwk(RSA_KEY, alg="none"), "RUNCAST_JWT_ALGORITHMS"),
        (jwk(RSA_KEY, alg=["RS256"]), "RUNCAST_JWT_ALGORITHMS"),
        (jwk(WEAK), "1024 bits"),
        (RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True) | {"key_ops": ["verify"]}, "private"),
        (jwk(SECRET_KEY), "a secret, and published"),
        ({"kty": "oct"}, "a secret, and published"),
        (jwk(ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
        (jwk(EC_KEY) | {"x": jwk(OTHER_EC_KEY)["x"]}, "not understood"),
        ({"kty": "OKP", "crv": "X25519", "x": jwk(ED_KEY)["x"]}, "not understood"),
        ({"kty": "RSA", "n": 5, "e": 3}, "not understood"),
        ({"kty": "AKP"}, "not understood"),
        ({"kty": 5}, "not understood"),
        ({}, "not understood"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_cannot_be_used_is_passed_over(key: dict[str, Any], why: str) -> None:
    good = jwk(EC_KEY, "good")
    read = read_key_set(key_set(key, good), ALL, secrets=False)
    assert read.keys.kids == {"good"}
    ((_, told),) = read.ignored
    assert why in told


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (jwk(b"short"), "5 bytes"),
        ({"kty": "oct", "k": ""}, "not understood"),
        ({"kty": "oct"}, "not understood"),
        (jwk(json.dumps(jwk(EC_KEY)).encode()), "not a secret"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_secrets_that_are_none(key: dict[str, Any], why: str) -> None:
    ((_, told),) = ignored(key, secrets=True)
    assert why in told


def test_what_is_passed_over_is_named_and_not_shown() -> None:
    secret = jwk(SECRET_KEY, "leaked")
    assert ignored(secret, 7, {}, {"kid": 1}) == (
        ("leaked", "it is a secret, and published"),
        ("number 2", "it is not an object"),
        ("number 3", "its kty or its numbers are not understood"),
        ("number 4", "its kid is not a string of at most 256"),
    )


def test_of_two_keys_with_one_kid_the_first_counts() -> None:
    named = (jwk(EC_KEY, "k"), jwk(OTHER_EC_KEY, "k"), jwk(RSA_KEY, "k"))
    read = read_key_set(key_set(*named, jwk(ED_KEY), jwk(ED_KEY)), ALL, secrets=False)
    assert read.keys.find("k", "ES256").material == EC_KEY.public_key()
    assert read.keys.find("k", "RS256").material == RSA_KEY.public_key()
    why = "an earlier key has the same kid"
    assert read.ignored == (("k", why), ("without a kid", why))


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\x1f\x8b\x08\x00", "not JSON"),
        (b"[]", 'no list "keys"'),
        (b"{}", 'no list "keys"'),
        (b'{"keys": {}}', 'no list "keys"'),
        (key_set(*[jwk(EC_KEY)] * (MAX_KEYS + 1)), "65 keys"),
        (b" " * (MAX_SET_BYTES + 1), "longer than"),
    ],
    ids=["empty", "html", "gzip", "list", "object", "no list", "many", "huge"],
)
def test_what_is_no_key_set(document: bytes, why: str) -> None:
    with pytest.raises(NoKeySet, match=why):
        read_key_set(document, ALL, secrets=False)


def test_an_empty_set_is_a_set() -> None:
    assert len(read_key_set(key_set(), ALL, secrets=False).keys) == 0


_word = st.text("AQBab-_= \u00e9", max_size=8)
_simple = st.none() | st.booleans() | st.integers(-9, 9) | _word
_json = _simple | st.lists(_simple, max_size=2) | st.dictionaries(_word, _simple, max_size=2)
_member = st.sampled_from(
    ["kty", "crv", "x", "y", "n", "e", "k", "kid", "use", "alg", "key_ops", "d", "p", "oth"]
)
_value = st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "sig", "RS256"]) | _json


@relaxed
@given(key=st.dictionaries(_member, _value), both=st.booleans())
def test_whatever_is_published_is_taken_or_passed_over(key: dict[str, Any], *, both: bool) -> None:
    read = read_key_set(key_set(key), ALL, secrets=both)
    assert len(read.keys) + len(read.ignored) == 1


@relaxed
@given(st.sampled_from([RSA_KEY, EC_KEY, ED_KEY]), st.dictionaries(_member, _value, max_size=2))
def test_a_spoiled_key_is_a_key_of_its_kind_or_none(key: Any, spoiled: dict[str, Any]) -> None:
    """Whatever else it says, it never verifies with an algorithm of another kind."""
    try:
        made = jwk_key(jwk(key) | spoiled, ALL, secrets=False)
    except UnusableKey:
        return
    (kind,) = [kind for kind, names in KINDS.items() if set(made.algorithms) <= set(names)]
    assert kind != "secret"
