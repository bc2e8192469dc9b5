"""Keys of a login service, the tokens that it signs, and the key set that it publishes."""

import asyncio
import base64
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from tests.support.ports import free_port

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
SECRET_KEY = b"a secret of a key set, which is as long as HS512 wants it: 64 bytes"

SIGNERS: Mapping[str, Any] = {
    "RS256": RSA_KEY, "PS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY, "HS256": SECRET_KEY,
}  # fmt: skip
"""Algorithm → what signs with it here."""


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: object, payload: bytes, key: bytes) -> str:
    """A token that libraries refuse to write, rightly signed with HMAC-SHA256."""
    signing_input = f"{b64(json.dumps(header).encode())}.{b64(payload)}"
    return f"{signing_input}.{b64(hmac.digest(key, signing_input.encode(), 'sha256'))}"


def private_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def jwk(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The public half as it is published; of bytes, the secret."""
    if isinstance(key, bytes):
        made: dict[str, Any] = {"kty": "oct", "k": b64(key)}
    else:
        public = key.public_key()
        kinds: dict[type, Any] = {
            rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm,
            ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm,
            ed25519.Ed25519PublicKey: jwt.algorithms.OKPAlgorithm,
        }
        (algorithm,) = [each for kind, each in kinds.items() if isinstance(public, kind)]
        made = algorithm.to_jwk(public, as_dict=True)
        made.pop("key_ops", None)
    named = {} if kid is None else {"kid": kid}
    return {**made, **named, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def signed(
    claims: dict[str, Any], kid: str | None = None, *, alg: str = "ES256", key: Any = None
) -> str:
    """A token of the login service."""
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims, SIGNERS[alg] if key is None else key, algorithm=alg, headers=headers)


class LoginService:
    """A real HTTP server that publishes a key set, and can be made to fail in every way.

    ``answer`` is asked for every response; ``fetches`` counts the requests.
    """

    def __init__(self, document: bytes = b"", *, max_age: int | None = None) -> None:
        self.document, self.max_age = document, max_age
        self.fetches = 0
        self.answer: Callable[[], web.Response] = self.published
        self.hold: asyncio.Event | None = None
        """Every answer waits for it."""
        self.port = free_port()
        self._runner: web.AppRunner

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def published(self) -> web.Response:
        told = {} if self.max_age is None else {"Cache-Control": f"public, max-age={self.max_age}"}
        return web.Response(body=self.document, content_type="application/json", headers=told)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/jwks.json", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.hold is not None:
            self.hold.set()
        await self._runner.cleanup()

    async def down(self) -> None:
        """Nobody listens any more."""
        for site in list(self._runner.sites):
            await site.stop()

    async def up(self) -> None:
        """It is back, on the same port."""
        await self._listen()

    async def _listen(self) -> None:
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()

    async def _serve(self, request: web.Request) -> web.Response:
        del request
        self.fetches += 1
        if self.hold is not None:
            await self.hold.wait()
        return self.answer()
