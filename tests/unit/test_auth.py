"""Authentication: every way in, and every refusal."""

from __future__ import annotations

import hashlib
import json
import string
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiDict
from pydantic import SecretStr

from broker.channels import Mode, Owner
from broker.config import Settings
from gateway import auth
from gateway.auth import Verifier, bears
from gateway.claims import Identity
from gateway.credentials import (
    AuthError,
    KeyMissing,
    TokenOffer,
    subprotocol_answer,
    token_from_request,
)
from gateway.key_source import FixedKeys
from gateway.keys import KeySet, public_key, secret_key
from tests.support.keys import EC_KEY, RSA_KEY, SIGNERS, b64, public_pem
from tests.support.keys import by_hand as signed_by_hand

NOW = 1_795_000_000.0
SECRET = "correct horse battery staple, and more"
BASE = {"sub": "alice", "exp": NOW + 60}


def verifier(**settings: Any) -> Verifier:
    return Verifier(Settings(**{"jwt_secret": SECRET, **settings}))


def signed(claims: dict[str, Any], key: str = SECRET, **how: Any) -> str:
    return jwt.encode(claims, key, **{"algorithm": "HS256", **how})


def by_hand(header: object, payload: bytes, key: bytes = SECRET.encode()) -> str:
    return signed_by_hand(header, payload, key)


def refusal(token: str, now: float = NOW, **settings: Any) -> AuthError:
    with pytest.raises(AuthError) as caught:
        verifier(**settings).verify(token, now)
    return caught.value


class TestIdentity:
    def test_of_a_full_token(self) -> None:
        token = signed(
            {
                **BASE,
                "tenant": "acme",
                "iat": NOW - 5,
                "jti": "j1",
                "modes": ["main", "isolated", "of tomorrow"],
                "role": "operator",
                "limits": {"connections": 3},
            }
        )
        assert verifier().verify(token, NOW) == Identity(
            owner=Owner("acme", "alice"),
            subject="alice",
            expires_at=NOW + 60,
            issued_at=NOW - 5,
            jti="j1",
            modes=frozenset({Mode.MAIN, Mode.ISOLATED}),
            operator=True,
            token_hash=hashlib.sha256(token.encode()).hexdigest(),
            limits={"connections": 3},
        )

    def test_of_the_least_token(self) -> None:
        identity = verifier().verify(signed(BASE), NOW)
        assert identity.owner == Owner("", "alice")
        assert (identity.modes, identity.operator, identity.jti) == (None, False, None)

    def test_a_role_is_the_operators_only_when_it_says_exactly_so(self) -> None:
        for role in ("Operator", "admin", ["operator"], True, None):
            assert not verifier().verify(signed({**BASE, "role": role}), NOW).operator

    def test_an_empty_list_of_modes_allows_none(self) -> None:
        assert verifier().verify(signed({**BASE, "modes": []}), NOW).modes == frozenset()


class TestRefusedClaims:
    @pytest.mark.parametrize(
        ("claims", "reason"),
        [
            ({"exp": NOW + 60}, "sub is missing"),
            ({**BASE, "sub": None}, "sub is missing"),
            ({**BASE, "sub": ""}, "sub must have 1"),
            ({**BASE, "sub": 7}, "sub is not a string"),
            ({**BASE, "sub": ["alice"]}, "sub is not a string"),
            ({**BASE, "sub": "a" * 257}, "sub must have 1"),
            ({**BASE, "sub": "å" * 129}, "sub must have 1"),
            ({**BASE, "sub": "alice\n"}, "sub must not have control"),
            ({**BASE, "sub": "al\x00ice"}, "sub must not have control"),
            ({**BASE, "tenant": ""}, "tenant must have 1"),
            ({**BASE, "tenant": 1}, "tenant is not a string"),
            ({**BASE, "tenant": "a" * 257}, "tenant must have 1"),
            ({**BASE, "tenant": "a\x7f"}, "tenant must not have control"),
            ({**BASE, "jti": 1}, "jti is not a string"),
            ({**BASE, "modes": "main"}, "modes is not a list"),
            ({**BASE, "modes": [1]}, "modes is not a list"),
            ({**BASE, "limits": [1]}, "limits is not an object"),
            ({**BASE, "limits": {"connections": "3"}}, "'connections' is not a whole number"),
            ({**BASE, "limits": {"connections": True}}, "'connections' is not a whole number"),
            ({**BASE, "limits": {"connections": -1}}, "'connections' is not a whole number"),
            ({"sub": "alice"}, "exp is missing"),
            ({**BASE, "exp": None}, "exp is missing"),
            ({**BASE, "exp": str(NOW + 60)}, "exp is not a number"),
            ({**BASE, "exp": True}, "exp is not a number"),
            ({**BASE, "exp": [NOW + 60]}, "exp is not a number"),
            ({**BASE, "nbf": "soon"}, "nbf is not a number"),
            ({**BASE, "iat": "then"}, "iat is not a number"),
            ({**BASE, "nbf": NOW + 1}, "not valid yet"),
            ({**BASE, "exp": NOW}, "expired"),
            ({**BASE, "exp": NOW - 1}, "expired"),
        ],
    )
    def test_claims(self, claims: dict[str, Any], reason: str) -> None:
        token = by_hand({"alg": "HS256", "typ": "JWT"}, json.dumps(claims).encode())
        assert reason in refusal(token).log_reason

    @pytest.mark.parametrize(
        "payload",
        [
            b"[]",
            b'"alice"',
            b"null",
            b"",
            b"{",
            b'{"sub": "alice", "exp": NaN}',
            b'{"sub": "alice", "exp": Infinity}',
            b'{"sub": "alice", "exp": 1e999}',
            rb'{"sub": "\ud800", "exp": 1795000060}',
            b'{"sub": "\xff", "exp": 1795000060}',
        ],
    )
    def test_payloads_that_are_no_claims(self, payload: bytes) -> None:
        assert refusal(by_hand({"alg": "HS256"}, payload)).log_reason

    def test_leeway_moves_both_ends(self) -> None:
        at_ends = {"sub": "alice", "nbf": NOW + 30, "exp": NOW + 60}
        patient = verifier(jwt_leeway_seconds=30)
        assert patient.verify(signed(at_ends), NOW).subject == "alice"
        assert patient.verify(signed(at_ends), NOW + 89).subject == "alice"
        with pytest.raises(AuthError):
            patient.verify(signed(at_ends), NOW + 90)
        with pytest.raises(AuthError):
            patient.verify(signed({**at_ends, "nbf": NOW + 31}), NOW)

    @pytest.mark.parametrize("aud", [None, "other", ["other"], [], {"gw": 1}, "g", 7])
    def test_another_audience(self, aud: object) -> None:
        assert "aud" in refusal(signed({**BASE, "aud": aud}), jwt_audience="gw").log_reason

    @pytest.mark.parametrize("aud", ["gw", ["x", "gw"]])
    def test_the_configured_audience(self, aud: object) -> None:
        assert (
            verifier(jwt_audience="gw").verify(signed({**BASE, "aud": aud}), NOW).subject == "alice"
        )

    def test_an_audience_is_not_looked_at_when_none_is_configured(self) -> None:
        assert verifier().verify(signed({**BASE, "aud": "whoever"}), NOW).subject == "alice"

    @pytest.mark.parametrize("iss", [None, "https://evil", ["https://login"]])
    def test_another_issuer(self, iss: object) -> None:
        token = by_hand({"alg": "HS256"}, json.dumps({**BASE, "iss": iss}).encode())
        assert "iss" in refusal(token, jwt_issuer="https://login").log_reason

    def test_the_configured_issuer(self) -> None:
        token = signed({**BASE, "iss": "https://login"})
        assert verifier(jwt_issuer="https://login").verify(token, NOW).subject == "alice"


class TestRefusedSignatures:
    @pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, 1, [], {}])
    def test_no_algorithm(self, alg: object) -> None:
        payload = b64(json.dumps(BASE).encode())
        header = b64(json.dumps({"alg": alg, "typ": "JWT"}).encode())
        for token in (f"{header}.{payload}.", by_hand({"alg": alg}, json.dumps(BASE).encode())):
            assert refusal(token).log_reason

    def test_another_secret(self) -> None:
        assert refusal(signed(BASE, "x" * 40)).log_reason == "signature does not match"

    def test_an_algorithm_that_is_not_pinned(self) -> None:
        token = signed(BASE, SECRET * 2, algorithm="HS512")
        assert refusal(token, jwt_secret=SECRET * 2).log_reason == "algorithm is not allowed"

    def test_a_public_key_used_as_hmac_secret(self, tmp_path: Path) -> None:
        """The classic confusion: the attacker knows the public key and signs with it."""
        pem = public_pem(RSA_KEY.public_key())
        file = tmp_path / "public.pem"
        file.write_bytes(pem)
        token = by_hand({"alg": "HS256", "typ": "JWT"}, json.dumps(BASE).encode(), pem)
        for algorithms in ("RS256", ""):
            gate = Verifier(Settings(jwt_public_key_file=file, jwt_algorithms=algorithms))
            with pytest.raises(AuthError) as caught:
                gate.verify(token, NOW)
            assert caught.value.log_reason == "algorithm is not allowed"

    def test_no_header_field_chooses_the_key(self) -> None:
        jwk = {"kty": "oct", "k": b64(b"x" * 40)}
        evil = {"kid": "../../dev/null", "jku": "http://evil", "jwk": jwk, "x5u": "http://evil"}
        assert refusal(signed(BASE, "x" * 40, headers=evil)).log_reason
        assert refusal(by_hand({"alg": "HS256", **evil}, json.dumps(BASE).encode(), b"")).log_reason
        # A login service may well name its keys; with one key there is nothing to choose.
        assert verifier().verify(signed(BASE, headers={"kid": "2026-11"}), NOW).subject == "alice"

    @pytest.mark.parametrize("alg", SIGNERS)
    def test_the_same_signature_in_another_spelling(self, alg: str) -> None:
        """Padding, and bits that base64 leaves unused: another text with the same bytes."""
        pinned = (alg,)
        material = SIGNERS[alg] if alg == "HS256" else SIGNERS[alg].public_key()
        key = secret_key(None, material, pinned) if alg == "HS256" else None
        source = FixedKeys(KeySet([key or public_key(None, material, pinned)]))
        gate = Verifier(Settings(), source=source)
        token = jwt.encode(BASE, SIGNERS[alg], algorithm=alg)
        assert gate.verify(token, NOW).subject == "alice"
        padded = token + "=" * (-len(token.rpartition(".")[2]) % 4)
        letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
        unused = token[:-1] + letters[letters.index(token[-1]) ^ 1]
        for other in (padded, unused, token + " ", token + "\n", " " + token):
            assert other != token
            with pytest.raises(AuthError):
                gate.verify(other, NOW)

    def test_unknown_critical_extensions(self) -> None:
        token = by_hand({"alg": "HS256", "crit": ["x"], "x": 1}, json.dumps(BASE).encode())
        assert refusal(token).log_reason

    def test_a_changed_claim(self) -> None:
        header, _, signature = signed(BASE).split(".")
        forged = b64(json.dumps({**BASE, "sub": "bob"}).encode())
        assert refusal(f"{header}.{forged}.{signature}").log_reason == "signature does not match"

    @pytest.mark.parametrize(
        "token", ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "ü.b.c", " ", "\x00", "x" * 8193]
    )
    def test_what_is_no_token(self, token: str) -> None:
        assert refusal(token).log_reason

    @given(st.text(max_size=100))
    def test_nothing_but_auth_errors_comes_out(self, token: str) -> None:
        refusal(token)

    @given(st.binary(max_size=60))
    def test_whatever_is_signed(self, payload: bytes) -> None:
        refusal(by_hand({"alg": "HS256"}, payload))

    def test_a_refusal_says_outwardly_the_same_whatever_was_wrong(self) -> None:
        expired = refusal(signed({**BASE, "exp": NOW - 1}))
        forged = refusal(signed(BASE, "x" * 40))
        assert (str(expired), expired.code) == (str(forged), forged.code)
        assert expired.log_reason != forged.log_reason

    def test_no_part_of_the_token_is_in_the_refusal(self) -> None:
        token = signed({**BASE, "tenant": ""})
        error = refusal(token)
        assert error.token_hash == hashlib.sha256(token.encode()).hexdigest()
        for part in token.split("."):
            assert part not in f"{error} {error.log_reason} {error.token_hash}"


class TestCache:
    def test_a_verified_token_is_not_verified_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gate, token = verifier(), signed(BASE)
        first = gate.verify(token, NOW)
        monkeypatch.setattr(gate, "_check", None)
        assert gate.verify(token, NOW + 1) is first

    def test_expiry_counts_for_a_token_that_was_verified_before(self) -> None:
        gate, token = verifier(), signed(BASE)
        gate.verify(token, NOW)
        with pytest.raises(AuthError) as caught:
            gate.verify(token, NOW + 60)
        assert caught.value.log_reason == "expired"
        assert gate._verified == {}

    def test_it_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(auth, "MAX_CACHED_TOKENS", 3)
        gate = verifier()
        for number in range(5):
            gate.verify(signed({**BASE, "jti": str(number)}), NOW)
        assert [identity.jti for identity in gate._verified.values()] == ["2", "3", "4"]

    def test_what_is_forgotten_is_verified_again(self) -> None:
        gate = verifier()
        tokens = {user: signed({**BASE, "sub": user}) for user in ("alice", "bob")}
        first = {user: gate.verify(token, NOW) for user, token in tokens.items()}
        gate.forget(lambda identity: identity.subject == "alice")
        assert gate.verify(tokens["bob"], NOW) is first["bob"]
        assert gate.verify(tokens["alice"], NOW) is not first["alice"]

    def test_nothing_outlives_the_keys_that_verified_it(self) -> None:
        key = public_key("k", EC_KEY.public_key(), ("ES256",))
        source = FixedKeys(KeySet([key]))
        gate = Verifier(Settings(), source=source)
        token = jwt.encode(BASE, EC_KEY, algorithm="ES256", headers={"kid": "k"})
        gate.verify(token, NOW)
        source.keys = KeySet()
        source.on_change()
        with pytest.raises(AuthError):
            gate.verify(token, NOW)

    def test_a_verified_token_is_refused_once_its_keys_do_not_count_any_more(self) -> None:
        key = public_key(None, EC_KEY.public_key(), ("ES256",))
        source = FixedKeys(KeySet([key]))
        gate = Verifier(Settings(), source=source)
        token = jwt.encode(BASE, EC_KEY, algorithm="ES256")
        gate.verify(token, NOW)
        source.usable_until = NOW + 10
        assert gate.verify(token, NOW + 9).subject == "alice"
        with pytest.raises(KeyMissing) as caught:
            gate.verify(token, NOW + 10)
        assert (caught.value.status, caught.value.code) == (503, "keys_unavailable")

    def test_refused_tokens_leave_nothing(self) -> None:
        gate = verifier()
        for token in ("a.b.c", signed(BASE, "x" * 40), signed({**BASE, "exp": NOW})):
            with pytest.raises(AuthError):
                gate.verify(token, NOW)
        assert gate._verified == {}


def offer(
    *headers: tuple[str, str], query: tuple[tuple[str, str], ...] = (), allow: bool = False
) -> TokenOffer:
    return token_from_request(CIMultiDict(headers), MultiDict(query), allow_query_token=allow)


def offer_refusal(*headers: tuple[str, str], query: tuple[tuple[str, str], ...] = ()) -> AuthError:
    with pytest.raises(AuthError) as caught:
        offer(*headers, query=query)
    return caught.value


PROTOCOL = "Sec-WebSocket-Protocol"


class TestPlaces:
    def test_bearer(self) -> None:
        assert offer(("authorization", "bearer  t0k ")) == TokenOffer("t0k", "authorization", None)

    def test_subprotocol(self) -> None:
        expected = TokenOffer("a.b.c", "subprotocol", "runcast.v3")
        assert offer((PROTOCOL, "runcast.v3, jwt.a.b.c")) == expected
        assert offer((PROTOCOL, "jwt.a.b.c,runcast.v3")) == expected
        assert offer((PROTOCOL, "runcast.v3"), (PROTOCOL, "jwt.a.b.c")) == expected

    def test_subprotocol_as_base64url(self) -> None:
        token = signed(BASE)
        got = offer((PROTOCOL, f"jwt-auth, jwt.{b64(token.encode())}"))
        assert got == TokenOffer(token, "subprotocol", "jwt-auth")

    @pytest.mark.parametrize("word", ["a.b.c", "YS5iLmM=", "YS5iLm*", "Y", "_____w", "w7w", ""])
    def test_what_is_not_base64url_of_a_token(self, word: str) -> None:
        assert "base64url" in offer_refusal((PROTOCOL, f"jwt-auth, jwt.{word}")).log_reason

    def test_query_only_when_allowed(self) -> None:
        query = (("token", "a.b.c"),)
        assert offer(query=query, allow=True) == TokenOffer("a.b.c", "query", None)
        assert offer_refusal(query=query).code == "query_token_not_allowed"

    def test_ticket(self) -> None:
        assert offer(query=(("ticket", "x"),)) == TokenOffer("x", "ticket", None)
        twice = offer_refusal(query=(("ticket", "x"), ("ticket", "x")))
        assert "2 tokens in one place" in twice.log_reason

    def test_none(self) -> None:
        assert offer() == TokenOffer(None, "none", None)
        assert offer(("Authorization", "Basic eDp5")) == TokenOffer(None, "none", None)
        assert offer((PROTOCOL, "graphql-ws, runcast.v3")) == TokenOffer(None, "none", "runcast.v3")

    def test_the_order(self) -> None:
        bearer, protocol = ("Authorization", "Bearer one"), (PROTOCOL, "runcast.v3, jwt.two")
        query = (("ticket", "three"), ("token", "four"))
        assert offer(bearer, protocol, query=query).token == "one"
        assert offer(protocol, query=query).token == "two"
        assert offer(query=query).token == "three"

    def test_the_answer_is_an_offered_name_and_never_the_token(self) -> None:
        def answer(value: str) -> str | None:
            return subprotocol_answer(CIMultiDict({PROTOCOL: value}))

        assert answer("jwt.a.b.c, runcast.v3") == "runcast.v3"
        assert answer("jwt-auth, jwt.YQ") == "jwt-auth"
        assert answer("jwt-auth, runcast.v3, jwt.YQ") == "jwt-auth"
        assert answer("jwt.a.b.c") is None
        assert answer("RUNCAST.V3, runcast.v30") is None
        assert offer(("Authorization", "Bearer t"), (PROTOCOL, "runcast.v3")).subprotocol_answer

    def test_a_token_among_the_subprotocols_without_a_name(self) -> None:
        assert offer_refusal((PROTOCOL, "jwt.a.b.c")).code == "unauthorized"

    def test_two_tokens_in_one_place(self) -> None:
        twice = (("Authorization", "Bearer a"), ("Authorization", "Bearer b"))
        assert "2 tokens" in offer_refusal(*twice).log_reason
        assert "2 tokens" in offer_refusal((PROTOCOL, "runcast.v3, jwt.a, jwt.b")).log_reason
        with pytest.raises(AuthError):
            offer(query=(("token", "a"), ("token", "b")), allow=True)


class TestKeys:
    """Of operators and of workers, which are no tokens."""

    KEY = "a key of thirty-two characters!!"

    def bearer(self, value: str) -> CIMultiDict[str]:
        return CIMultiDict({"Authorization": f"Bearer {value}"})

    def test_the_key(self) -> None:
        key = SecretStr(self.KEY)
        assert bears(self.bearer(self.KEY), key)
        for other in ("", self.KEY[:-1], self.KEY + "x", "ü", "\udcff"):
            assert not bears(self.bearer(other), key)
        assert not bears(CIMultiDict(), key)

    def test_without_a_key_nobody_has_it(self) -> None:
        for value in ("", "None", self.KEY):
            assert not bears(self.bearer(value), None)
