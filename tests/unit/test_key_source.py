"""Where keys come from: what is taken, and every refusal at start with what to do about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from broker.config import Settings, load_settings
from broker.errors import ConfigurationError
from gateway.auth import Verifier
from gateway.credentials import AuthError
from gateway.jwks import FetchedKeys
from gateway.key_source import FixedKeys, key_source, require_verification_key
from tests.support.keys import (
    EC_KEY,
    ED_KEY,
    OTHER_EC_KEY,
    RSA_KEY,
    SECRET_KEY,
    SIGNERS,
    jwk,
    key_set,
    private_pem,
    public_pem,
    signed,
)

NOW = 1_795_000_000.0
CLAIMS = {"sub": "alice", "exp": NOW + 60}


def key_refusal(**overrides: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        require_verification_key(load_settings(None, **overrides))
    return caught.value


def refusal(**settings: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        key_source(Settings(**settings))
    return caught.value


def written(folder: Path, name: str, key: Any) -> Path:
    path = folder / name
    path.write_bytes(public_pem(key.public_key()))
    return path


# --- which source


def test_the_algorithms_of_a_secret() -> None:
    assert require_verification_key(load_settings(None, jwt_secret="x" * 32)) == ("HS256",)
    both = load_settings(None, jwt_secret="x" * 64, jwt_algorithms="HS256,HS512")
    assert require_verification_key(both) == ("HS256", "HS512")


def test_the_algorithms_of_a_public_key() -> None:
    settings = load_settings(None, jwt_public_key_file="key.pem")
    assert require_verification_key(settings) == ("RS256", "ES256", "EdDSA")
    pinned = load_settings(None, jwt_public_key_file="key.pem", jwt_algorithms="ES384")
    assert require_verification_key(pinned) == ("ES384",)


def test_no_key_is_refused_with_both_ways_out() -> None:
    error = key_refusal()
    assert error.setting == "RUNCAST_JWT_SECRET"
    assert "RUNCAST_JWT_PUBLIC_KEY_FILE" in error.todo
    assert "runcast demo" in error.todo


@pytest.mark.parametrize(
    ("algorithms", "length"), [("HS256", 31), ("HS384", 47), ("HS512", 63), ("HS256,HS512", 63)]
)
def test_a_short_secret_is_refused(algorithms: str, length: int) -> None:
    error = key_refusal(jwt_secret="x" * length, jwt_algorithms=algorithms)
    assert str(length + 1) in error.why
    settings = load_settings(None, jwt_secret="x" * (length + 1), jwt_algorithms=algorithms)
    assert require_verification_key(settings) == tuple(algorithms.split(","))


def test_a_secret_that_is_a_pem_is_refused() -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n"
    assert "PEM" in key_refusal(jwt_secret=pem).why


@pytest.mark.parametrize("algorithms", ["none", "RS256", "HS256,RS256", "hs256", "None"])
def test_a_secret_verifies_hmac_only(algorithms: str) -> None:
    assert key_refusal(jwt_secret="x" * 64, jwt_algorithms=algorithms).setting.endswith(
        "JWT_ALGORITHMS"
    )


@pytest.mark.parametrize("algorithms", ["HS256", "RS256,HS256", "none"])
def test_a_public_key_never_verifies_hmac(algorithms: str) -> None:
    error = key_refusal(jwt_public_key_file="key.pem", jwt_algorithms=algorithms)
    assert error.setting == "RUNCAST_JWT_ALGORITHMS"


SOURCES = {
    "RUNCAST_JWT_SECRET": {"jwt_secret": "x" * 32},
    "RUNCAST_JWT_PUBLIC_KEY_FILE": {"jwt_public_key_file": "key.pem"},
    "RUNCAST_JWT_JWKS_URL": {"jwt_jwks_url": "https://login.example/keys"},
}


@pytest.mark.parametrize("first", SOURCES)
@pytest.mark.parametrize("second", SOURCES)
def test_two_sources_are_refused(first: str, second: str) -> None:
    if first != second:
        error = key_refusal(**SOURCES[first], **SOURCES[second])
        assert {error.setting, error.why.partition(" ")[0]} == {first, second}
        assert "remove the other" in error.todo


def test_three_sources_are_refused() -> None:
    every = {name: value for source in SOURCES.values() for name, value in source.items()}
    assert "and" in key_refusal(**every).why


@pytest.mark.parametrize("algorithms", ["HS256", "none", "RS256,HS512"])
def test_a_published_key_set_never_verifies_hmac(algorithms: str) -> None:
    error = key_refusal(**SOURCES["RUNCAST_JWT_JWKS_URL"], jwt_algorithms=algorithms)
    assert error.setting == "RUNCAST_JWT_ALGORITHMS"


def test_the_algorithms_of_key_sets() -> None:
    published = load_settings(None, **SOURCES["RUNCAST_JWT_JWKS_URL"])
    assert require_verification_key(published) == ("RS256", "ES256", "EdDSA")
    own = load_settings(None, jwt_jwks_url="file:///keys.json")
    assert require_verification_key(own) == ("HS256", "RS256", "ES256", "EdDSA")
    pinned = load_settings(None, jwt_jwks_url="file:///keys.json", jwt_algorithms="HS512,PS256")
    assert require_verification_key(pinned) == ("HS512", "PS256")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://login.example/keys", "over http://"),
        ("http://127.0.0.1.example/keys", "over http://"),
        ("http://10.0.0.1/keys", "over http://"),
        ("http://localhost.example/", "over http://"),
        ("https://user:password@login.example/keys", "user or password"),
        ("http://user@127.0.0.1/keys", "user or password"),
        ("ftp://login.example/keys", "not the address"),
        ("login.example/keys", "not the address"),
        ("https://", "not the address"),
        ("https://login.example:0/", "not the address"),
        ("https://login.example:port/", "not the address"),
        ("https://[::1/", "not the address"),
        ("file://", "not the address"),
        ("file:///", "not the address"),
        ("file://elsewhere/keys.json", "not the address"),
        ("keys.json", "not the address"),
    ],
)
def test_an_address_that_cannot_be_is_refused(url: str, why: str) -> None:
    error = key_refusal(jwt_jwks_url=url)
    assert error.setting == "RUNCAST_JWT_JWKS_URL"
    assert why in error.why
    assert "password" not in error.todo


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example/.well-known/jwks.json",
        "https://login.example:8443/keys?tenant=1",
        "http://127.0.0.1:8000/keys",
        "http://127.8.8.8/keys",
        "http://[::1]:8000/keys",
        "http://localhost/keys",
    ],
)
def test_an_address_is_not_reached_for_before_the_start(url: str) -> None:
    source = key_source(Settings(jwt_jwks_url=url))
    assert isinstance(source, FetchedKeys)
    assert len(source.keys) == 0


# --- PEM files


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA_KEY, "RS256"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")]
)
def test_each_kind_verifies_its_own(key: Any, algorithm: str, tmp_path: Path) -> None:
    gate = Verifier(Settings(jwt_public_key_file=written(tmp_path, "public.pem", key)))
    assert gate.algorithms == (algorithm,)
    for kid in (None, "any"):
        assert gate.verify(signed(CLAIMS, kid, alg=algorithm), NOW).subject == "alice"
    for other in SIGNERS:
        if other != algorithm:
            with pytest.raises(AuthError):
                gate.verify(signed(CLAIMS, alg=other), NOW)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no public key"),
        (private_pem(EC_KEY), "no public key"),
        (public_pem(rsa.generate_private_key(65537, 1024).public_key()), "1024 bits"),
        (public_pem(ec.generate_private_key(ec.SECP256K1()).public_key()), "cannot verify"),
    ],
    ids=["empty", "private", "weak", "curve"],
)
def test_a_file_that_cannot_be_used_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "public.pem"
    file.write_bytes(content)
    error = refusal(jwt_public_key_file=f"new={file}")
    assert error.setting == "RUNCAST_JWT_PUBLIC_KEY_FILE"
    assert str(file) in error.why
    assert says in error.why


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(jwt_public_key_file=tmp_path / "none.pem").why


def test_an_algorithm_of_another_curve_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "public.pem", EC_KEY)
    error = refusal(jwt_public_key_file=file, jwt_algorithms="ES384")
    assert "cannot verify ES384" in error.why
    assert "ES256" in error.todo


def test_several_files_are_told_apart_by_kid(tmp_path: Path) -> None:
    new, old = written(tmp_path, "new.pem", EC_KEY), written(tmp_path, "old.pem", OTHER_EC_KEY)
    gate = Verifier(Settings(jwt_public_key_file=f"2026-11={new}, 2026-05={old}"))
    assert gate.verify(signed(CLAIMS, "2026-11"), NOW).subject == "alice"
    assert gate.verify(signed(CLAIMS, "2026-05", key=OTHER_EC_KEY), NOW).subject == "alice"
    for kid, key, why in (
        ("2026-05", EC_KEY, "signature does not match"),
        ("2026-11", OTHER_EC_KEY, "signature does not match"),
        ("2025-11", EC_KEY, "no key has the token's kid, '2025-11'"),
        ("k" * 257, EC_KEY, "the token's kid is too long"),
        ("", EC_KEY, "no key has the token's kid, ''"),
        (None, EC_KEY, "the token names no key"),
    ):
        with pytest.raises(AuthError) as caught:
            gate.verify(signed(CLAIMS, kid, key=key), NOW)
        assert (caught.value.code, caught.value.log_reason) == ("unauthorized", why)


def test_a_file_without_a_kid_stands_in_beside_named_ones(tmp_path: Path) -> None:
    new, old = written(tmp_path, "new.pem", EC_KEY), written(tmp_path, "a=b.pem", OTHER_EC_KEY)
    gate = Verifier(Settings(jwt_public_key_file=f"new={new},{old}"))
    for kid in (None, "whatever"):
        assert gate.verify(signed(CLAIMS, kid, key=OTHER_EC_KEY), NOW).subject == "alice"
    with pytest.raises(AuthError):
        gate.verify(signed(CLAIMS, "new", key=OTHER_EC_KEY), NOW)


@pytest.mark.parametrize("names", [("", ""), ("k=", "k=")])
def test_two_files_that_cannot_be_told_apart_are_refused(
    names: tuple[str, str], tmp_path: Path
) -> None:
    files = [written(tmp_path, f"{n}.pem", key) for n, key in enumerate((EC_KEY, OTHER_EC_KEY))]
    named = [f"{name}{file}" for name, file in zip(names, files, strict=True)]
    error = refusal(jwt_public_key_file=",".join(named))
    assert "same name, or none" in error.why
    assert "kid=path" in error.todo


def test_two_files_of_different_kinds_need_no_kid(tmp_path: Path) -> None:
    files = [written(tmp_path, "ec.pem", EC_KEY), written(tmp_path, "rsa.pem", RSA_KEY)]
    gate = Verifier(Settings(jwt_public_key_file=",".join(map(str, files))))
    assert gate.verify(signed(CLAIMS), NOW).subject == "alice"
    assert gate.verify(signed(CLAIMS, alg="RS256"), NOW).subject == "alice"


# --- secrets, and key sets in files


def test_a_secret_is_one_key_without_a_name() -> None:
    source = key_source(Settings(jwt_secret="x" * 64, jwt_algorithms="HS256,HS512"))
    assert isinstance(source, FixedKeys)
    assert source.health() is None
    assert source.keys.find("any", "HS512").material == b"x" * 64


def test_a_secret_that_is_a_jwk_is_refused_with_the_way_out() -> None:
    error = key_refusal(jwt_secret=json.dumps(jwk(EC_KEY)))
    assert "RUNCAST_JWT_PUBLIC_KEY_FILE" in error.todo


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"{", "not JSON"),
        (key_set(), "it is empty"),
        (key_set(jwk(b"short", "s")), "s: it has 5 bytes"),
        (public_pem(EC_KEY.public_key()), "not JSON"),
    ],
    ids=["missing", "half", "empty", "short", "pem"],
)
def test_a_key_set_file_that_cannot_be_used_is_refused(
    content: bytes | None, why: str, tmp_path: Path
) -> None:
    file = tmp_path / "key set.json"
    if content is not None:
        file.write_bytes(content)
    error = refusal(jwt_jwks_url=f"file://{tmp_path}/key%20set.json")
    assert error.setting == "RUNCAST_JWT_JWKS_URL"
    assert why in error.why


async def test_secrets_in_a_key_set_file_are_told_apart_by_kid(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(jwk(SECRET_KEY, "new"), jwk(b"o" * 64, "old"), jwk(EC_KEY, "ec")))
    source = key_source(Settings(jwt_jwks_url=f"file://{file}"))
    gate = Verifier(Settings(), source=source)
    await gate.start()
    try:
        assert gate.verify(signed(CLAIMS, "new", alg="HS256"), NOW).subject == "alice"
        assert (
            gate.verify(signed(CLAIMS, "old", alg="HS256", key=b"o" * 64), NOW).subject == "alice"
        )
        assert gate.verify(signed(CLAIMS, "ec"), NOW).subject == "alice"
        confused = jwt.encode(CLAIMS, SECRET_KEY, algorithm="HS256", headers={"kid": "ec"})
        with pytest.raises(AuthError) as caught:
            gate.verify(confused, NOW)
        assert caught.value.log_reason == "algorithm is not allowed"
    finally:
        await gate.stop()
