"""Keys: what each kind may verify, what is refused, and how a set finds the one of a token."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa

from gateway.keys import (
    KINDS,
    Key,
    KeySet,
    UnknownKid,
    UnusableKey,
    pem_key,
    public_key,
    secret_key,
)
from tests.support.keys import EC_KEY, ED_KEY, RSA_KEY, SIGNERS, jwk, private_pem, public_pem

ALL = tuple(name for names in KINDS.values() for name in names)
PUBLIC = tuple(name for name in ALL if not name.startswith("HS"))


def unusable(make: Any, *arguments: Any) -> UnusableKey:
    with pytest.raises(UnusableKey) as caught:
        make(None, *arguments)
    return caught.value


class TestKinds:
    @pytest.mark.parametrize(
        ("key", "algorithms"),
        [
            (RSA_KEY, ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
            (EC_KEY, ("ES256",)),
            (ec.generate_private_key(ec.SECP384R1()), ("ES384",)),
            (ec.generate_private_key(ec.SECP521R1()), ("ES512",)),
            (ED_KEY, ("EdDSA",)),
            (ed448.Ed448PrivateKey.generate(), ("EdDSA",)),
        ],
    )
    def test_a_key_verifies_what_its_kind_can(self, key: Any, algorithms: tuple[str, ...]) -> None:
        assert public_key("k", key.public_key(), ALL) == Key("k", algorithms, key.public_key())
        assert pem_key("k", public_pem(key.public_key()), ALL).algorithms == algorithms

    def test_only_what_is_pinned(self) -> None:
        assert public_key(None, RSA_KEY.public_key(), ("PS256", "ES256")).algorithms == ("PS256",)

    @pytest.mark.parametrize("alg", SIGNERS)
    def test_signatures(self, alg: str) -> None:
        signed, _, _ = jwt.encode({}, SIGNERS[alg], algorithm=alg).encode().rpartition(b".")
        signer = jwt.PyJWS().get_algorithm_by_name(alg)
        signature = signer.sign(signed, SIGNERS[alg])
        material = SIGNERS[alg] if alg == "HS256" else SIGNERS[alg].public_key()
        key = Key(None, (alg,), material)
        assert key.verifies(alg, signed, signature)
        assert not key.verifies(alg, signed + b"x", signature)
        assert not key.verifies(alg, signed, signature[:-1])
        assert not key.verifies(alg, signed, b"")

    @pytest.mark.parametrize(
        ("key", "why"),
        [
            (rsa.generate_private_key(65537, 1024).public_key(), "1024 bits"),
            (ec.generate_private_key(ec.SECP256K1()).public_key(), "secp256k1 key cannot"),
            (dsa.generate_private_key(1024).public_key(), "key cannot verify"),
            (RSA_KEY, "key cannot verify"),
            (b"bytes", "bytes key cannot verify"),
        ],
        ids=["weak", "curve", "dsa", "private", "bytes"],
    )
    def test_what_cannot_verify(self, key: Any, why: str) -> None:
        assert why in unusable(public_key, key, PUBLIC).why

    def test_a_key_of_which_nothing_is_pinned_says_what_to_pin(self) -> None:
        error = unusable(public_key, EC_KEY.public_key(), ("RS256",))
        assert error.why == "its secp256r1 key cannot verify RS256"
        assert "ES256" in error.todo


class TestPem:
    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "no public key"),
            (b"not a pem", "no public key"),
            (private_pem(EC_KEY), "no public key"),
            (public_pem(EC_KEY.public_key()) * 2, "more than one"),
        ],
        ids=["empty", "text", "private", "two"],
    )
    def test_what_is_refused(self, content: bytes, why: str) -> None:
        assert why in unusable(pem_key, content, PUBLIC).why


def der(key: Any) -> bytes:
    return bytes(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


class TestSecrets:
    @pytest.mark.parametrize(
        ("length", "algorithms"),
        [(32, ("HS256",)), (48, ("HS256", "HS384")), (64, ("HS256", "HS384", "HS512"))],
    )
    def test_a_secret_verifies_what_it_is_long_enough_for(
        self, length: int, algorithms: tuple[str, ...]
    ) -> None:
        assert secret_key("k", b"s" * length, ALL) == Key("k", algorithms, b"s" * length)

    def test_a_short_secret(self) -> None:
        error = unusable(secret_key, b"s" * 47, ("HS384", "HS512"))
        assert error.why == "it has 47 bytes and HS384, HS512 needs 48"

    def test_a_secret_where_none_is_pinned(self) -> None:
        assert unusable(secret_key, b"s" * 64, ("RS256",)).why == "a secret cannot verify RS256"

    @pytest.mark.parametrize(
        "secret",
        [
            public_pem(RSA_KEY.public_key()),
            b"x" * 20 + public_pem(EC_KEY.public_key()),
            private_pem(ED_KEY),
            der(RSA_KEY.public_key()),
            base64.b64encode(der(RSA_KEY.public_key())),
            base64.encodebytes(der(EC_KEY.public_key())),
            RSA_KEY.public_key().public_bytes(
                serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
            ),
            json.dumps(jwk(EC_KEY)).encode(),
            json.dumps(jwk(b"s" * 40)).encode(),
        ],
        ids=["pem", "more", "private", "der", "base64", "lines", "ssh", "jwk", "oct"],
    )
    def test_a_key_in_place_of_a_secret(self, secret: bytes) -> None:
        """Whoever knows the public key could sign with it."""
        assert "not a secret" in unusable(secret_key, secret, ("HS256",)).why

    def test_no_secret_is_seen_in_repr(self) -> None:
        assert "sssss" not in repr(secret_key(None, b"s" * 64, ALL))


A, B = Key("a", ("ES256",), b"1"), Key("b", ("RS256", "PS256"), b"2")
NAMELESS = Key(None, ("ES256",), b"3")


class TestKeySet:
    def test_a_key_is_found_by_its_name(self) -> None:
        keys = KeySet([A, B])
        assert keys.find("a", "ES256") is A
        assert keys.find("b", "PS256") is B
        assert len(keys) == 2
        assert keys.kids == {"a", "b"}
        assert keys.algorithms == ("ES256", "RS256", "PS256")

    def test_an_unknown_name(self) -> None:
        with pytest.raises(UnknownKid) as caught:
            KeySet([A, B]).find("c", "ES256")
        assert caught.value.kid == "c"

    def test_no_name_where_keys_have_names(self) -> None:
        with pytest.raises(ValueError, match="names no key"):
            KeySet([A, B]).find(None, "ES256")

    @pytest.mark.parametrize("alg", ["RS256", "none", "HS256", "", None, 1, [], {}])
    def test_an_algorithm_that_is_not_the_keys_own(self, alg: object) -> None:
        """Another key of the set has RS256: the token names this one."""
        for kid, keys in (("a", KeySet([A, B])), (None, KeySet([NAMELESS, B]))):
            with pytest.raises(ValueError, match="algorithm is not allowed"):
                keys.find(kid, alg)

    def test_a_key_without_a_name_stands_in(self) -> None:
        keys = KeySet([A, NAMELESS])
        assert keys.find(None, "ES256") is NAMELESS
        assert keys.find("whoever", "ES256") is NAMELESS
        assert keys.find("a", "ES256") is A

    def test_of_two_with_one_name_the_first_counts(self) -> None:
        again = Key("a", ("ES256",), b"9")
        keys = KeySet([A, again, Key("a", ("EdDSA",), b"8")])
        assert keys.find("a", "ES256") is A
        assert keys.find("a", "EdDSA").material == b"8"
        assert keys.surplus == [again]
        assert len(keys) == 2

    def test_an_empty_set_knows_nobody(self) -> None:
        with pytest.raises(UnknownKid):
            KeySet().find("a", "ES256")
        with pytest.raises(ValueError, match="names no key"):
            KeySet().find(None, "ES256")
        assert (len(KeySet()), KeySet().algorithms) == (0, ())

    def test_sets_are_equal_by_what_they_verify(self) -> None:
        same = Key("a", ("ES256",), EC_KEY.public_key())
        assert KeySet([same, B]) == KeySet([B, Key("a", ("ES256",), EC_KEY.public_key())])
        assert KeySet([A]) != KeySet([Key("a", ("ES256",), b"x")])
        assert KeySet([A]) != KeySet([A, B])
        assert KeySet([A]) != "keys"
